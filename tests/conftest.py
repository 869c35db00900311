"""What all tests share: the device's environment before MindSpore loads, and what --quick and --run-slow mean."""

from __future__ import annotations

import signal

import pytest

from train.runtime import device

device.set_environment_defaults("cpu")

# A shell starts its background jobs with Ctrl-C ignored, nohup with a hang-up ignored; and what a process ignores its
# children ignore too: the tests that send it would wait for ever.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


# The quick tier takes under two minutes in all on two idle cores: no job of several ranks (msrun), nothing slow,
# and none of these files, the longest by --durations=0. They compile many graphs, start many processes or install.
NOT_QUICK = {
    *("test_documents", "test_environment", "test_step_options", "test_parts", "test_tensorboard", "test_progress"),
    *("test_fuzz", "test_resnet", "test_speed", "test_package"),
}


@pytest.fixture(scope="session")
def on_cpu() -> None:
    """MindSpore in the tests' own process, set to the CPU and graph mode; that cannot be done once a kernel has run."""
    device.configure("cpu")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run the tests that take minutes")
    parser.addoption("--quick", action="store_true", help="only what takes less than two minutes in all")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        left_out = [item for item in items if not is_quick(item)]
        items[:] = [item for item in items if is_quick(item)]
        config.hook.pytest_deselected(items=left_out)
    if config.getoption("--run-slow"):
        return
    slow = pytest.mark.skip(reason="takes minutes: give --run-slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(slow)


def is_quick(item: pytest.Item) -> bool:
    return item.path.stem not in NOT_QUICK and not {"msrun", "slow"} & set(item.keywords)
