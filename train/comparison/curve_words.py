"""The section "Over the whole run" of comparison.md: where the document's conclusion holds as stated, and where not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from train.comparison.words import listed, number, share, table

MOST_LAYERS = 3
"""Layers told in full; comparison.json has all."""


def whole_run(layers: Sequence[dict[str, Any]]) -> list[str]:
    """Paragraphs and tables for what :func:`train.comparison.curve.whole_curve` returned for each layer."""
    if not layers:
        return ["Left out: the norms of these layers were not logged (metrics.jsonl, `update/<layer>/…`)."]
    parts = [
        "![lr, ‖v‖ and ‖ΔW‖ over the whole run](curve.png)",
        "The document concludes: as lr rises in the warm-up the step gets longer, as it falls in the decay the step "
        "gets shorter. That is so with one velocity; as it happened the velocity changes too, and may override lr. "
        "Figures are geometric means over stretches of updates, so that the change of ‖ΔW‖ is that of lr times that "
        "of ‖v‖.",
    ]
    for layer in layers[:MOST_LAYERS]:
        parts += [f"### {layer['layer']}", "\n".join(_verdicts(layer)), _stretches(layer)]
    if len(layers) > MOST_LAYERS:
        parts += ["### All layers", "\n".join(_counts(layers))]
    return parts


def _verdicts(layer: dict[str, Any]) -> Iterator[str]:
    for phase in layer["phases"]:
        change = phase["change"]
        if change is None:
            continue
        first, last = phase["stretches"][0], phase["stretches"][-1]
        lr, v, delta_W = (number(change[key], 3) for key in ("lr_ratio", "v_ratio", "delta_W_ratio"))
        name = f"- **{phase['phase']}** (t = {first['from']} to {last['to']})"
        if change["follows_lr"] is None:
            yield f"{name}: lr does not change; ‖v‖ and with it ‖ΔW‖ by the factor {v}."
            continue
        yield (
            f"{name}: ‖ΔW‖ changes by the factor {delta_W} = {lr} (lr) × {v} (‖v‖): {_verdict(change)}"
            f"{_exceptions(phase, change['follows_lr'])}. From one update to the next, ‖ΔW‖ went the way of lr "
            f"{phase['updates_as_lr']} of {phase['updates']} times."
        )


def _verdict(change: dict[str, Any]) -> str:
    direction = "longer" if change["lr_ratio"] > 1 else "shorter"
    if not change["follows_lr"]:
        return f"**the velocity overrides lr**, the step does not get {direction}"
    if change["share_lr"] is None:
        return f"holds as stated, the step gets {direction}, though the velocity works against it"
    return f"holds as stated, the step gets {direction}; lr's share in that is {share(change['share_lr'])}"


def _exceptions(phase: dict[str, Any], whole: bool) -> str:
    """Where inside the phase it is otherwise than for the whole of it."""
    places = [
        f"t = {earlier['from']}–{earlier['to']} to {later['from']}–{later['to']}"
        for earlier, later, change in zip(phase["stretches"], phase["stretches"][1:], phase["changes"], strict=False)
        if change["follows_lr"] is not None and change["follows_lr"] != whole
    ]
    if not places:
        return ""
    return f"; otherwise from {listed(places)}, where " + ("the velocity overrides lr" if whole else "it follows lr")


def _stretches(layer: dict[str, Any]) -> str:
    header = ["phase", "t", "lr", "‖v‖", "‖ΔW‖", f"lr·‖v_{layer['reference']}‖", "lr ×", "‖v‖ ×", "‖ΔW‖ ×", "as lr"]
    rows = []
    for phase in layer["phases"]:
        for stretch, change in zip(phase["stretches"], [None, *phase["changes"]], strict=True):
            row = [phase["phase"], f"{stretch['from']}–{stretch['to']}"]
            row += [number(stretch[key], 4) for key in ("lr", "norm_v", "norm_delta_W", "controlled")]
            ratios = ("lr_ratio", "v_ratio", "delta_W_ratio")
            row += [number(change[key] if change else None, 3) for key in ratios]
            follows = change["follows_lr"] if change else None
            rows.append([*row, "–" if follows is None else "yes" if follows else "**no**"])
    return table(header, rows)


def _counts(layers: Sequence[dict[str, Any]]) -> Iterator[str]:
    names = dict.fromkeys(phase["phase"] for layer in layers for phase in layer["phases"])
    for name in names:
        changes = [phase["change"] for layer in layers for phase in layer["phases"] if phase["phase"] == name]
        answers = [change["follows_lr"] for change in changes if change and change["follows_lr"] is not None]
        if answers:
            yield f"- {name}: holds as stated for {sum(answers)} of {len(answers)} layers."
