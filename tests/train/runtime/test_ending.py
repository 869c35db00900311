"""The end of a process, with what a reader's code or MindSpore's teardown may do in it; always the code of ``main``."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.jobs import HANGS, ROOT

# Lines of main, which then returns 7. "Stands still" and "crashes in C" stop Python itself.
MAIN = {
    "returns": "pass",
    "thread": "threading.Thread(target=time.sleep, args=(1e6,)).start()",
    "stands still": "atexit.register(lambda: ctypes.PyDLL(None).pause())",
    "crashes": "atexit.register(lambda: ctypes.string_at(8))",
    "aborts": "atexit.register(os.abort)",
    "thread crashes": "atexit.register(lambda: threading.Thread(target=ctypes.CDLL(None).strlen, args=(8,)).start())",
    "fails at exit": "atexit.register(lambda: 1 / 0)",
}
PROGRAM = """
import atexit, concurrent.futures, ctypes, os, sys, threading, time
from train.runtime import ending

ending.THREADS_SECONDS, ending.TEARDOWN_SECONDS = 1, 1

def main():
    {lines}
    return 7

ending.end_with(main)
"""


def run(lines: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.format(lines=lines)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS)


@pytest.mark.parametrize("lines", MAIN.values(), ids=MAIN)
def test_the_exit_code_is_that_of_main(lines: str) -> None:
    assert run(lines).returncode == 7


@pytest.mark.parametrize(
    ("lines", "code"),
    [("raise KeyError(3)", 1), ("raise SystemExit(5)", 5), ("sys.exit()", 0), ("raise KeyboardInterrupt", 130)],
)
def test_exceptions_have_the_codes_of_python(lines: str, code: int) -> None:
    done = run(lines)
    assert (done.returncode, "Traceback" in done.stderr) == (code, "KeyError" in lines)


def test_an_interruption_says_where_it_was() -> None:
    """A hook of a reader's may raise it; with nothing said, nobody would find it."""
    done = run("def mine(): raise KeyboardInterrupt\n    mine()")
    assert re.fullmatch(r"error: interrupted in <string>, line \d+, in mine\n", done.stderr)


def test_the_work_of_a_pool_is_done_and_what_was_printed_is_written() -> None:
    done = run("print('one'); concurrent.futures.ThreadPoolExecutor().submit(lambda: (time.sleep(0.2), print('two')))")
    assert (done.returncode, done.stdout) == (7, "one\ntwo\n")


def test_the_end_is_said_in_the_name_of_the_process() -> None:
    """Where a launcher reads it after the end."""
    done = run("atexit.register(lambda: print(open('/proc/self/comm').read()))")
    assert done.stdout == "ended 7\n\n"


@pytest.mark.parametrize("code", [0, 3])
def test_a_process_that_c_code_ends_runs_no_destructors(code: int) -> None:
    lines = f"c = ctypes.CDLL(None); c.on_exit(c.abort, None); ending.skip_destructors(); c.exit({code})"
    assert run(lines).returncode == code
