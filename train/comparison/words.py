"""What the figures say about the document's conclusion (the larger lr takes the longer step), in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def conclusion(data: dict[str, Any]) -> list[str]:
    """One line for each pair of neighbouring steps, then the verdict; ``data`` is what comparison.json holds."""
    pairs = list(zip(data["controlled"]["changes"], data["observed"][0]["changes"], strict=True))
    if not pairs:
        return ["One step was watched; how the update changes with lr needs two."]
    lines = "\n".join(f"- t = {same['from']} → {same['to']}: {_change(same, seen)}" for same, seen in pairs)
    return [lines, _verdict(pairs)]


def _change(same: dict[str, Any], seen: dict[str, Any]) -> str:
    if same["equal"] is None:
        return f"no ratio, since the update at t = {same['from']} is zero."
    equal = "equal up to rounding" if same["equal"] else "**which rounding does not explain**"
    words = (
        f"lr changes by the factor {number(same['lr_ratio'])}. With the same W and v, ‖ΔW‖ changes by "
        f"the factor {number(same['delta_W_ratio'])}, {equal}."
    )
    if seen["delta_W_ratio"] is None or seen["v_ratio"] is None:
        return words
    words += (
        f" As it happened, ‖v‖ changes by the factor {number(seen['v_ratio'])} and ‖ΔW‖ by the factor "
        f"{number(seen['delta_W_ratio'])}"
    )
    if seen["share_lr"] is not None:
        words += f" ({share(seen['share_lr'])} of it from lr, {share(seen['share_v'])} from v)"
    elif _opposite(seen["lr_ratio"], seen["v_ratio"]):
        words += " (lr and v pull in opposite directions)"
    return f"{words}."


def _verdict(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    compared = [(same, seen) for same, seen in pairs if same["equal"] is not None]
    if not compared:
        return "The document's conclusion is not tested here."
    if not all(same["equal"] for same, _ in compared):
        return "**The document's conclusion fails here**: with the same W and v, ‖ΔW‖ does not follow lr."
    if all(same["lr_ratio"] == 1 for same, _ in compared):
        return "The document's conclusion is not tested here: lr is the same at all watched steps."
    verdict = (
        "**The document's conclusion holds**: with the same W and v the larger lr takes the longer step, "
        "in the ratio of the two."
    )
    against = [
        f"t = {same['from']} → {same['to']}"
        for same, seen in compared
        if _opposite(same["lr_ratio"], seen["delta_W_ratio"])
    ]
    if against:
        return f"{verdict} As it happened it did not ({listed(against)}): v changed more, the other way."
    return f"{verdict} As it happened it did so too, though v changed as well."


def _opposite(left: float | None, right: float | None) -> bool:
    """Whether one ratio grows and the other shrinks; False where one does not exist."""
    return left is not None and right is not None and (left - 1) * (right - 1) < 0


def number(value: float | None, digits: int = 6) -> str:
    """So many significant digits; a dash where there is no number."""
    return "–" if value is None else f"{value:.{digits}g}"


def share(value: float | None) -> str:
    """A part of one as a percentage; a dash where there is none."""
    return "–" if value is None else f"{value:.0%}"


def listed(names: Sequence[str]) -> str:
    """``a, b and c``; at least one name."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with columns of one width; floats get six significant digits, None a dash."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _cell(value: object) -> str:
    return number(value) if value is None or isinstance(value, float) else str(value)
