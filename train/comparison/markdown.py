"""comparison.md: the report in words and tables, readable in a terminal as well as rendered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from train.comparison.table import listed, number, share, table
from train.comparison.whole_run import whole_run


def render(data: dict[str, Any]) -> str:
    """The text of comparison.md for what comparison.json holds (see ``train.comparison.report.compare``)."""
    steps = listed([f"t = {step}" for step in data["steps"]])
    sections = [
        f"# Updates at {steps}: run {data['run']}",
        f"{_count(data['world_size'], 'rank')}, a schedule of {_count(data['total_steps'], 'step')} "
        f"({data['schedule_fingerprint']}). ΔW = lr·v, W_new = W_start − ΔW.",
        *_overview(data),
        "![lr, ΔW and the norms at the watched steps](comparison.png)",
        "## Only lr differs (controlled)",
        *_controlled(data["controlled"]),
        "## As it happened (observed)",
        *_observed(data["observed"]),
        "## The document's example",
        *_document(data["document"]),
        "## Proof: W_new = W_start − lr·v",
        *_proof(data["proof"]),
        "## Over the whole run",
        *whole_run(data["curve"]),
    ]
    if data["problems"]:
        sections += ["## Problems", "\n".join(f"- {problem}" for problem in data["problems"])]
    return "\n\n".join(sections) + "\n"


def _overview(data: dict[str, Any]) -> list[str]:
    same, seen = data["controlled"], data["observed"][0]
    rows = [
        [f"{one['phase']} (t = {one['step']})", one["lr"], one["first_element"], other["first_element"]]
        for one, other in zip(same["steps"], seen["steps"], strict=True)
    ]
    header = ["training phase", "lr", "ΔW, same W and v", "ΔW, as it happened"]
    return [table(header, rows), f"Update size as the first element of ΔW of `{same['layer']}`.", *conclusion(data)]


def _controlled(same: dict[str, Any]) -> list[str]:
    rows = [
        [row["step"], row["phase"], row["lr"], row["first_element"], row["norm_delta_W"], row["max_delta_W"]]
        for row in same["steps"]
    ]
    header = ["t", "phase", "lr", "ΔW, first element", "‖ΔW‖", "max abs ΔW"]
    changes = [
        [f"{row['from']} → {row['to']}", row["delta_W_ratio"], row["lr_ratio"], row["difference"], row["rounding"]]
        for row in same["changes"]
    ]
    ratios = ["t", "‖ΔW‖ ratio", "lr ratio", "difference", "rounding explains"]
    source = (
        f"W_start and v of `{same['layer']}` {same['shape']} at t = {same['steps'][0]['step']}, through the "
        "`nn.Momentum` kernel with the run's schedule:"
    )
    return [source, table(header, rows), *([table(ratios, changes)] if changes else [])]


def _observed(layers: Sequence[dict[str, Any]]) -> list[str]:
    keys = ["step", "phase", "lr", "norm_v", "norm_delta_W", "relative", "first_element"]
    header = ["layer", "t", "phase", "lr", "‖v‖", "‖ΔW‖", "‖ΔW‖/‖W‖", "ΔW, first element"]
    rows = [[layer["layer"], *(row[key] for key in keys)] for layer in layers for row in layer["steps"]]
    changes = [
        [
            layer["layer"],
            f"{row['from']} → {row['to']}",
            *(row[key] for key in ("delta_W_ratio", "lr_ratio", "v_ratio")),
            *(share(row[key]) for key in ("share_lr", "share_v")),
        ]
        for layer in layers
        for row in layer["changes"]
    ]
    if not changes:
        return [table(header, rows)]
    ratios = ["layer", "t", "‖ΔW‖ ratio", "= lr ratio", "× ‖v‖ ratio", "share of lr", "share of v"]
    note = (
        "‖ΔW‖ = lr·‖v‖, so its change is a product; the shares are those of the logarithms (– where lr and v pull "
        "in opposite directions, or a ratio does not exist):"
    )
    return [table(header, rows), note, table(ratios, changes)]


def _document(document: dict[str, Any]) -> list[str]:
    if not document["applies"]:
        return [f"Left out: it {document['reason']}."]
    slips = {(slip["matrix"], slip["step"], slip["row"], slip["column"]) for slip in document["slips"]}
    parts = ["The document's W_start and v (4×2) through the `nn.Momentum` kernel, beside what it prints:"]
    for entry in document["steps"]:
        rows = []
        for row in range(4):
            for column in range(2):
                cells: list[object] = [f"[{row},{column}]"]
                for matrix in ("delta_W", "W_new"):
                    mark = " *" if (matrix, entry["step"], row, column) in slips else ""
                    cells.append(f"{entry[matrix]['measured'][row][column]:.6f}")
                    cells.append(f"{entry[matrix]['printed'][row][column]:.4f}{mark}")
                rows.append(cells)
        title = f"t = {entry['step']}, lr = {entry['lr']:.6f} (printed {entry['printed_lr']}):"
        parts += [title, table(["element", "ΔW", "printed", "W_new", "printed"], rows)]
    verdict = "all within" if document["holds"] else "**not** all within"
    parts.append(f"Largest difference {document['max_difference']:.2g}: {verdict} {document['tolerance']:g}.")
    for slip in document["slips"]:
        name = "ΔW" if slip["matrix"] == "delta_W" else "W_new"
        parts.append(
            f"\\* Last digit printed wrongly: {name}[{slip['row']},{slip['column']}] at t = {slip['step']} is "
            f"{slip['measured']:.6f}, rounded {slip['measured']:.4f}, printed {slip['printed']:.4f}."
        )
    return parts


def _proof(proof: dict[str, Any]) -> list[str]:
    rows = []
    for step in dict.fromkeys(entry["step"] for entry in proof["snapshots"]):
        entries = [entry for entry in proof["snapshots"] if entry["step"] == step]
        layers = [layer for entry in entries for layer in entry["layers"]]
        rows.append(
            [
                step,
                f"{len(entries)} of {entries[0]['world_size']}",
                number(np.max([layer["max_difference"] for layer in layers])),
                number(np.max([layer["max_units"] for layer in layers])),
                _yes(entry["lr_equals_schedule"] for entry in entries),
                _yes(entry["kernel_step_equals_step"] for entry in entries),
                _yes(entry["identical_across_ranks"] for entry in entries),
            ]
        )
    header = ["t", "ranks", "largest difference", "in ulp", "lr = lr[t]", "kernel's step = t", "ranks identical"]
    verdict = "Every update is W_start − lr·v" if proof["holds"] else "**Something is wrong** (see Problems)"
    note = (
        f"{verdict}. One ulp is a unit in the last place of the largest of W_start, lr·v and W_new; float32 "
        f"rounding explains up to {proof['bound_units']:g}. Equal and identical mean bit for bit."
    )
    return [table(header, rows), note]


def _yes(values: Iterable[bool]) -> str:
    return "yes" if all(values) else "**no**"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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
