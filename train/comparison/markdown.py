"""comparison.md: the report in words and tables, readable in a terminal as well as rendered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from train.comparison.measures import main_layers
from train.comparison.proof import MOST_TOLERATED, largest
from train.comparison.table import number, percent, table
from train.comparison.words import Language, Words

MOST_STEPS = 6
"""Steps named in the title; of more the first, the second and the last."""
Facts = Mapping[str, Any]


def render(data: Facts, language: Language = "en") -> str:
    """The text of comparison.md for what comparison.json holds."""
    say = Words(language, data["kind"]["direction"])
    document = data["document"]
    parts = [
        f"# {_title(data, say)}",
        say("rule", fingerprint=data["schedule_fingerprint"]),
        *_headline(data, say),
        f"![{say('picture')}](comparison.png)",
        f"## {say('meaning_title')}",
        *_meanings(data, say),
        f"## {say('observed_title')}",
        *_observed(data["observed"], say),
        *([f"## {say('document_title')}", *document_tables(document, say)] if document["applies"] else []),
        f"## {say('proof_title' if data['kind']['direction'] == 'v' else 'replay_title')}",
        *_proof(data["proof"], say),
        f"## {say('curve_title')}",
        *whole_run(data, say),
    ]
    if data["problems"]:
        parts += [f"## {say('problems_title')}", "\n".join(f"- {problem}" for problem in data["problems"])]
    return "\n\n".join(parts) + "\n"


def _title(data: Facts, say: Words) -> str:
    kind = data["kind"]
    steps = [f"t = {step}" for step in data["steps"]]
    return say(
        "title",
        run=data["run"],
        optimizer=kind["optimizer"],
        ranks=say.count("rank", kind["ranks"]),
        layers=say.count("layer", kind["layers"]),
        steps=say.listed(steps if len(steps) <= MOST_STEPS else [*steps[:2], "…", steps[-1]]),
        total=data["total_steps"],
        seed="–" if kind["seed"] is None else kind["seed"],
    )


def _headline(data: Facts, say: Words) -> Iterator[str]:
    """What a console shows at the end of a run, too: one short table and the verdict."""
    same, seen = data["controlled"], data["observed"][0]
    rows = [
        [_phase_at(one, say), one["lr"], one["norm_delta_W"], other["norm_delta_W"]]
        for one, other in zip(same["steps"], seen["steps"], strict=True)
    ]
    yield table(say.columns("headline_columns"), rows)
    yield say("headline_note", layer=same["layer"], shape=same["shape"], t=same["steps"][0]["step"])
    conclusion = data["conclusion"]
    verdict = conclusion["verdict"]
    words = say(f"document_{verdict}" if data["document"]["applies"] and verdict in ("holds", "fails") else verdict)
    if verdict == "holds":
        against = say.listed([f"t = {a} → {b}" for a, b in conclusion["against"]]) if conclusion["against"] else ""
        words += say("space") + (say("against", pairs=against) if against else say("as_happened"))
    yield words


def _meanings(data: Facts, say: Words) -> Iterator[str]:
    same, seen = data["controlled"], data["observed"][0]
    steps = list(zip(same["steps"], seen["steps"], data["meaning"], strict=True))
    yield "\n".join(f"- **{_phase_at(one, say)}**{say('colon')}{_meaning(meant, say)}" for one, _, meant in steps)
    rows = [[_phase_at(one, say), one["first_element"], other["first_element"]] for one, other, _ in steps]
    yield table(say.columns("meaning_columns"), rows)
    yield say("meaning_note")
    rows = []
    for one, other in zip(same["changes"], seen["changes"], strict=True):
        equal = "–" if one["equal"] is None else say.yes(one["equal"])
        factors = [one["lr_ratio"], one["delta_W_ratio"], equal, other["d_ratio"], other["delta_W_ratio"]]
        rows.append([f"{one['from']} → {one['to']}", *factors, percent(other["fraction_lr"])])
    if rows:
        yield table(say.columns("changes_columns"), rows)
        yield say("changes_note")


def _phase_at(row: Facts, say: Words) -> str:
    return say("phase_at", phase=say.phase(row["phase"]), t=row["step"])


def _meaning(meant: Facts, say: Words) -> str:
    parts = []
    if meant["loss"] is not None:
        at = {} if meant["loss_at"] == meant["step"] else {"at": meant["loss_at"]}
        parts.append(say("loss_at" if at else "loss", loss=number(meant["loss"], 3), **at))
    if meant["relative"] is not None:
        parts.append(say("relative", relative=number(meant["relative"], 3)))
    if meant["since"] is not None:
        ratios = {"loss": number(meant["loss_ratio"], 3), "relative": number(meant["relative_ratio"], 3)}
        parts.append(say("since", t=meant["since"], **ratios))
    return say("semicolon").join([*parts, say(meant["reading"])])


def _observed(every: Sequence[Facts], say: Words) -> Iterator[str]:
    layers = [layer for layer in every if layer["layer"] in main_layers(every)]
    keys = ("lr", "norm_d", "norm_delta_W", "relative", "first_element")
    rows = [
        [layer["layer"], row["step"], say.phase(row["phase"]), *(row[key] for key in keys)]
        for layer in layers
        for row in layer["steps"]
    ]
    yield table(say.columns("observed_columns"), rows)
    changes = [
        [
            layer["layer"],
            f"{row['from']} → {row['to']}",
            *(row[key] for key in ("delta_W_ratio", "lr_ratio", "d_ratio")),
            percent(row["fraction_lr"]),
        ]
        for layer in layers
        for row in layer["changes"]
    ]
    if changes:
        yield table(say.columns("observed_ratios"), changes)
    if len(layers) < len(every):
        yield say("more_layers", n=len(every))


def document_tables(document: Facts, say: Words) -> Iterator[str]:
    """What the article prints beside what the kernel gives, element by element; its slips of rounding."""
    slips = []
    yield say("document_intro")
    for entry in document["steps"]:
        rows = []
        for row, column in np.ndindex(4, 2):
            cells: list[object] = [f"[{row},{column}]"]
            for matrix, sign in (("delta_W", "ΔW"), ("W_new", "W_new")):
                measured, printed = (entry[matrix][which][row][column] for which in ("measured", "printed"))
                slip = [row, column] in entry[matrix]["slips"]
                cells += [f"{measured:.6f}", f"{printed:.4f}{' *' if slip else ''}"]
                if slip:
                    where = {"matrix": sign, "row": row, "column": column, "t": entry["step"]}
                    figures = {"measured": f"{measured:.6f}", "rounded": f"{measured:.4f}", "printed": f"{printed:.4f}"}
                    slips.append(say("document_slip", **where, **figures))
            rows.append(cells)
        yield say("document_step", t=entry["step"], lr=f"{entry['lr']:.6f}", printed=entry["printed_lr"])
        yield table(say.columns("document_columns"), rows)
    figures = {"difference": f"{document['max_difference']:.2g}", "tolerance": f"{document['tolerance']:g}"}
    yield say("document_within" if document["holds"] else "document_beyond", **figures)
    yield from slips


def _proof(proof: Facts, say: Words) -> Iterator[str]:
    rows = []
    for step in dict.fromkeys(entry["step"] for entry in proof["snapshots"]):
        entries = [entry for entry in proof["snapshots"] if entry["step"] == step]
        layers = [layer for entry in entries for layer in entry["layers"]]
        checks = ("lr_equals_schedule", "kernel_step_equals_step", "identical_across_ranks")
        rows.append(
            [
                step,
                say("of", n=len(entries), all=entries[0]["world_size"]),
                *(number(largest(layer[key] for layer in layers)) for key in ("max_difference", "max_units")),
                _replayed(layers, say),
                *(say.yes(all(entry[check] for entry in entries)) for check in checks),
            ]
        )
    yield table(say.columns("proof_columns"), rows)
    rule = "rule" if proof["max_units"] is not None else "replay"
    verdict = say(f"{rule}_holds" if proof["holds"] else "proof_fails")
    yield verdict + say("space") + say("proof_note", bound=f"{proof['bound_units']:g}")
    if any(layer["tolerated"] for entry in proof["snapshots"] for layer in entry["layers"]):
        yield say("tolerated_note", most=MOST_TOLERATED)


def _replayed(layers: Sequence[Facts], say: Words) -> str:
    known = [layer["replayed"] for layer in layers if layer["replayed"] is not None]
    if not known:
        return "–"
    count, units = sum(layer["tolerated"] for layer in layers), max(layer["tolerated_ulp"] for layer in layers)
    return say.yes(all(known)) + (say("tolerated", n=count, units=number(units, 3)) if count else "")


def whole_run(data: Facts, say: Words) -> Iterator[str]:
    layers = data["curve"]
    if not layers:
        yield say("curve_none")
        return
    yield f"![{say('curve_picture')}](curve.png)"
    intro = [say("curve_document")] if data["document"]["applies"] else []
    yield say("space").join([*intro, say("curve_intro")])
    told = main_layers(data["observed"])
    for layer in layers:
        if layer["layer"] in told:
            yield f"### {layer['layer']}"
            yield "\n".join(f"- {line}" for line in _phases(layer, say))
    if len(told) < len(data["observed"]):
        yield f"### {say('all_layers')}"
        yield f"![{say('layers_picture')}](layers.png)"
        yield "\n".join(f"- {line}" for line in _counts(layers, say))


def _phases(layer: Facts, say: Words) -> Iterator[str]:
    for phase in layer["phases"]:
        change = phase["change"]
        if change is None:
            continue
        span = say("phase_span", phase=say.phase(phase["phase"]), a=phase["start"]["from"], b=phase["end"]["to"])
        if change["follows_lr"] is None:
            yield say("lr_constant", span=span, ratio=number(change["d_ratio"], 3))
            continue
        yield say(
            "phase_change",
            span=span,
            delta=number(change["delta_W_ratio"], 3),
            lr=number(change["lr_ratio"], 3),
            d_ratio=number(change["d_ratio"], 3),
            verdict=_verdict(change, say),
            n=phase["updates_as_lr"],
            all=phase["updates"],
        )


def _verdict(change: Facts, say: Words) -> str:
    direction = say("longer" if change["lr_ratio"] > 1 else "shorter")
    if not change["follows_lr"]:
        return say("overridden", direction=direction)
    if change["fraction_lr"] is None:
        return say("holds_against", direction=direction)
    return say("holds_with", direction=direction, fraction=percent(change["fraction_lr"]))


def _counts(layers: Iterable[Facts], say: Words) -> Iterator[str]:
    answers: dict[str, list[bool]] = {}
    for layer in layers:
        for phase in layer["phases"]:
            if phase["change"] and phase["change"]["follows_lr"] is not None:
                answers.setdefault(phase["phase"], []).append(phase["change"]["follows_lr"])
    for name, follow in answers.items():
        yield say("layers_follow", phase=say.phase(name), n=sum(follow), all=len(follow))
