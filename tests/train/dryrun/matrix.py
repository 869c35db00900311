"""Recipes through the dry run, many in one process; ``python -m tests.train.dryrun.matrix`` prints for every model in
every precision the table of ``train/dryrun/README.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from models import list_models
from tests.jobs import ROOT
from train.dryrun import stand_ins
from train.dryrun.__main__ import compile_parts, verdict
from train.dryrun.kernels import of_the_ai_cpu

PRECISIONS = ("fp32", "fp16", "bf16")
CASES = [(model, precision) for model in list_models() for precision in PRECISIONS]
FOR_SMALL_IMAGES = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
SETTINGS = [
    "data.source=synthetic",
    "data.root=",
    "data.global_batch=256",
    "data.eval_batch=32",
    "snapshots.layers=[fc.weight]",
    "schedule.lr_init=0",
]
HEAD = """\
| model | launches fp32 | fp16 | bf16 | casts fp16 | bf16 | exchanges | GiB fp32 | fp16 | bf16 |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"""


class Judged(NamedTuple):
    code: int
    words: str
    figures: dict[str, dict[str, Any]]
    """of each part, by its name"""


def case(recipe: Path, *overrides: str, **others: Any) -> dict[str, Any]:
    """Return what :func:`train.dryrun.worker.compile_case` is told."""
    return {"recipe": str(recipe), "overrides": list(overrides), "folder": str(ROOT), **others}


def model_case(model: str, precision: str) -> dict[str, Any]:
    """The update of a model in a precision, with 32 images a card, of 224 pixels or, where it is made for those, 32."""
    own = [f"model.name={model}", "model.options={}", f"step.precision={precision}"]
    own += ["data.image_size=32", "data.eval_resize=0"] if model in FOR_SMALL_IMAGES else []
    return case(ROOT / "train/recipes/imagenet_resnet50.yaml", *SETTINGS, *own, update_only=True)


def judge_all(cases: Sequence[dict[str, Any]], ranks: int = 8) -> list[Judged]:
    """Compile the cases one after the other in one process, and return what the command would say of each."""
    package = stand_ins.mindspore_package()
    ai_cpu = of_the_ai_cpu(package)
    found: list[dict[str, Any]] = []
    for part in compile_parts(list(cases), ranks, package, stand_ins.ready(package), 1000 * len(cases)):
        if part.name == "opening":
            found.append({})
        found[-1][part.name] = part.figures(ai_cpu)
    return [Judged(*verdict(one), one) for one in found]


def row(model: str, judged: Sequence[Judged]) -> str:
    """Return the line of the table of one model, from what was found in each precision; or what is wrong with it."""
    for precision, one in zip(PRECISIONS, judged, strict=True):
        if one.code:
            return f"{model} {precision}: {one.words}"
    updates = [one.figures["update"] for one in judged]
    memory = [one["memory_bytes"] / 2**30 for one in updates]
    columns = [f"{one['launches']:,}" for one in updates] + [str(one["casts"]) for one in updates[1:]]
    columns += [str(updates[0]["exchanges"]), *(f"{gibibytes:.1f}" for gibibytes in memory)]
    return f"| {model} | {' | '.join(columns)} |"


def main() -> None:
    print(HEAD)
    for model in list_models():
        print(row(model, judge_all([model_case(model, precision) for precision in PRECISIONS])), flush=True)


if __name__ == "__main__":
    main()
