"""What all tests share: the device's environment before MindSpore loads, and the options of launch/test.sh."""

from __future__ import annotations

import resource
import signal
from collections import Counter

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
STARTED = pytest.StashKey[float]()


@pytest.fixture(scope="session")
def on_cpu() -> None:
    """MindSpore in the tests' own process, set to the CPU and graph mode; that cannot be done once a kernel has run."""
    device.configure("cpu")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run the tests that take minutes")
    parser.addoption("--only-slow", action="store_true", help="only the tests that take minutes")
    parser.addoption("--quick", action="store_true", help="only what takes less than two minutes in all")
    parser.addoption("--cpu-times", action="store_true", help="at the end, the CPU seconds of each file and test")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = is_quick if config.getoption("--quick") else is_slow if config.getoption("--only-slow") else None
    if wanted:
        config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
        items[:] = filter(wanted, items)
    if config.getoption("--run-slow") or config.getoption("--only-slow"):
        return
    slow = pytest.mark.skip(reason="takes minutes: give --run-slow")
    for item in items:
        if is_slow(item):
            item.add_marker(slow)


def is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


def is_quick(item: pytest.Item) -> bool:
    return item.path.stem not in NOT_QUICK and not is_slow(item) and not item.get_closest_marker("msrun")


def cpu_seconds() -> float:
    """User and system time of this process and of all its children that have ended."""
    both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    item.stash[STARTED] = cpu_seconds()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item):
    result = yield
    item.user_properties.append(("cpu", cpu_seconds() - item.stash[STARTED]))
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--cpu-times"):
        return
    ended = [report for report in terminalreporter.getreports("") if report.when == "teardown"]
    spent = Counter({report.nodeid: dict(report.user_properties)["cpu"] for report in ended})
    files = Counter()
    for test, seconds in spent.items():
        files[test.partition("::")[0]] += seconds
    for figures in (files, spent):
        terminalreporter.section("CPU seconds")
        for name, seconds in figures.most_common(100):
            terminalreporter.write_line(f"{seconds:8.1f} {name}")
