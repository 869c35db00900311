"""How the process of a rank ends: it says so in its name, tells the cluster, and is gone with its own exit code.

Left to itself, Python waits for every thread that is no daemon, and MindSpore's teardown was seen to crash (a receive
thread uses a connection that was freed) and to wait for ever (for a server thread that had not begun its loop). A job
that is over must not depend on either.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from train.runtime.console import print_error
from train.runtime.errors import EXIT_FAULT, EXIT_HUNG, EXIT_SIGNAL
from train.runtime.faults import print_fault

THREADS_SECONDS = 10.0
"""For threads that are still at work, of a hook or of a tracker, which Python would join without end."""
TEARDOWN_SECONDS = 20
"""For what is registered with atexit, which MindSpore's farewell to the other processes is a part of."""
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT)


def end_with(main: Callable[[], int]) -> NoReturn:
    """Run ``main`` and end this process with the exit code that it returns."""
    try:
        code = main()
    except SystemExit as left:  # of argparse
        code = left.code if isinstance(left.code, int) else 0 if left.code is None else EXIT_FAULT
    except KeyboardInterrupt as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        print_error(f"interrupted in {place.filename}, line {place.lineno}, in {place.name}")
        code = EXIT_SIGNAL + signal.SIGINT
    except BaseException as error:
        print_fault(error)
        code = EXIT_FAULT
    leave(code)


def leave(code: int) -> NoReturn:
    """End this process with ``code``, soon and whatever MindSpore's teardown does.

    The process's name says how it ended: the kernel keeps that until the parent has asked for it, so that a launcher
    learns it even where the disk is full, and without a word to msrun.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(f"ended {code}")
    flush()
    if code != EXIT_HUNG:  # MindSpore would try for half a minute to reach who does not answer
        waits = threading.Thread(target=finish_threads, daemon=True)
        waits.start()
        waits.join(THREADS_SECONDS)
        survive_teardown(code)
        atexit._run_exitfuncs()
        flush()
    os._exit(code)


def finish_threads() -> None:
    """Wait for the threads that Python waits for; those of a pool end when it is told that no more work will come."""
    for end_pools in threading._threading_atexits:  # type: ignore[attr-defined]
        end_pools()
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            thread.join()


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed
            stream.flush()


class Event(ctypes.Structure):
    """Linux's ``sigevent``, of 64 bytes: call ``function(value)`` in a thread of its own."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("number", ctypes.c_int),
        ("how", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("rest", ctypes.c_char * 40),
    )


def survive_teardown(code: int) -> None:
    """Let a thread that crashes from now on stop where it is, and end this process with ``code`` when time is up.

    Both must work in a process whose Python stands still: the C library's own ``pause`` is the handler of a crash, and
    its ``_exit`` what a timer calls.
    """
    libc = ctypes.CDLL(None)
    timers = libc if hasattr(libc, "timer_create") else ctypes.CDLL("librt.so.1")  # apart before glibc 2.34
    for number in CRASHES:
        libc.signal(number, libc.pause)
    call_in_thread, monotonic = 2, 1
    event = Event(code, 0, call_in_thread, ctypes.cast(libc._exit, ctypes.c_void_p))
    timer = ctypes.c_void_p()
    if timers.timer_create(monotonic, ctypes.byref(event), ctypes.byref(timer)) == 0:
        interval_and_time = (ctypes.c_long * 4)(0, 0, TEARDOWN_SECONDS, 0)
        timers.timer_settime(timer, 0, interval_and_time, None)


def skip_destructors() -> None:
    """End with the same code, but at once, when C code calls ``exit``, as MindSpore does at the end of a scheduler."""
    libc = ctypes.CDLL(None)
    libc.on_exit(libc._exit, None)
