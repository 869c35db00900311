"""Data-parallel training: one configuration, one compiled step, one loop, and the hooks that watch it.

Start it as a command (``python -m train --config RECIPE``). Importing this package imports no MindSpore, so that a
wrong configuration is refused within a second and the device defaults are set before the framework loads.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path


def _refuse_namesakes() -> None:
    """End the process with one line where another folder stands in front of the packages that belong to this one."""
    for name in ("models", "schedules"):
        found = find_spec(name)
        place = Path(found.origin).resolve().parent.parent if found and found.origin else None
        if place != Path(__file__).resolve().parents[1]:
            there = f"{found.origin or next(iter(found.submodule_search_locations or []), '')}" if found else "nothing"
            print(
                f"error: Python finds {there} as the package {name!r}, which hides the one that train needs; rename "
                f"your own {name}, or put {Path(__file__).resolve().parents[1]} before it in PYTHONPATH",
                file=sys.stderr,
            )
            raise SystemExit(2)


def _require_environment() -> None:
    """End a command with one line where this Python has not got the packages."""
    from train.runtime.packages import required, version

    if missing := [name for name in required() if version(name) is None]:
        print(
            f"error: {sys.executable} has no {', '.join(missing)}: run . .venv/bin/activate in the clone first "
            "(launch/quickstart.sh makes .venv), or pip install -r launch/requirements.txt",
            file=sys.stderr,
        )
        raise SystemExit(2)


_refuse_namesakes()
if os.environ.get("MPLBACKEND", "").startswith("module://") and "ipykernel" not in sys.modules:
    del os.environ["MPLBACKEND"]  # of the notebook that started this command, whose environment may be another
if sys.argv[0] == "-m" and "train.preflight" not in sys.orig_argv:  # a command; the preflight has a table for it
    _require_environment()
