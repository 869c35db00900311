"""Data-parallel training: one configuration, one compiled step, one loop, and the hooks that watch it.

Start it as a command (``python -m train --config RECIPE``). Importing this package imports no MindSpore, so that a
wrong configuration is refused within a second and the device defaults are set before the framework loads.
"""

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


_refuse_namesakes()
