"""``state.json`` of a checkpoint: all that is no tensor."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

FORMAT = 1

Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Best(_Strict):
    """The best evaluated state among those that were saved."""

    metric: str
    value: float
    step: Count


class Description(_Strict):
    """What state ``step`` is, and of which run."""

    format: int = FORMAT
    step: Count
    """Completed updates."""
    epoch: Count
    position: Count
    """Completed updates of this epoch."""
    steps_per_epoch: PositiveInt
    total_steps: PositiveInt
    evaluation_pending: bool
    """Whether the run was stopped before it could evaluate this state."""
    world_size: PositiveInt
    global_batch: PositiveInt
    schedule_fingerprint: str
    data: dict[str, str]
    """Fingerprint of each part of the data set: which examples, in which order."""
    best: Best | None
    skipped: Count
    skipped_in_a_row: Count
    logged_bytes: Count
    """Length of metrics.jsonl when the state was saved: what stands behind it will be logged again."""
    config: dict[str, Any]
    versions: dict[str, str]


def to_json(description: Description) -> bytes:
    return json.dumps(description.model_dump(), indent=1, allow_nan=False).encode() + b"\n"


def from_json(content: bytes) -> Description:
    """Read back what :func:`to_json` made.

    Raises:
        ValueError: for anything else; the message is one line.
    """
    try:
        tree = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        found = tree.get("format") if isinstance(tree, dict) else None
        raise ValueError(f"format {str(found)[:20]!r}, this version reads format {FORMAT}")
    try:
        description = Description.model_validate(tree)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise ValueError(f"{key}: {problem['msg']}") from None
    if divmod(description.step, description.steps_per_epoch) != (description.epoch, description.position):
        raise ValueError(f"step {description.step} is not epoch {description.epoch}, position {description.position}")
    return description


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not a number")
