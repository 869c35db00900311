"""What all tests share: the device's environment before MindSpore loads, and the --run-slow option."""

from __future__ import annotations

import signal

import pytest

from train import device

device.set_environment_defaults("cpu")

# A shell starts its background jobs with Ctrl-C ignored, nohup with a hang-up ignored; and what a process ignores its
# children ignore too: the tests that send it would wait for ever.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def on_cpu() -> None:
    """MindSpore in the tests' own process, set to the CPU and graph mode; that cannot be done once a kernel has run."""
    device.configure("cpu")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--run-slow"):
        return
    slow = pytest.mark.skip(reason="takes minutes: give --run-slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(slow)
