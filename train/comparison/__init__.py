"""Comparison of the updates at the recorded steps of a finished run.

``compare(run_dir)`` writes ``comparison/comparison.json``, ``.md`` and ``.png`` into a run folder; as a command:
``python -m train.comparison runs/<name>``. Reading the folder, the observed figures and the proof need NumPy
only; MindSpore is imported when the first update is pushed through its kernel.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.comparison.report import Report, compare

__all__ = ["Report", "compare"]


def __getattr__(name: str) -> Any:
    """Import the report, which draws, where it is asked for: a training only records, and needs no Matplotlib."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from train.comparison import report

    return getattr(report, name)
