"""The process that compiles: it runs with the stand-ins for CANN and is told what to do as JSON, its only argument.

The model, its precision, the optimizer and the step are put together by the functions that training uses.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from train.dryrun.log import AGAIN, ENOUGH, MARK
from train.recipe.read import load_config
from train.recipe.sections import RunConfig
from train.runtime import device, distributed
from train.runtime.errors import RunError

IN_FILE = re.compile(r"In file (\S+?\.py:\d+)")
PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h: this process ends with the one that started it, however that ends."""
LENGTH = 10
"""Entries of the learning rates: values are of no account here, and one update takes the first."""


@dataclass
class Images:
    """What a source says of its images (:class:`train.data.source.Facts`), where none is opened."""

    num_classes: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    asked = json.loads(sys.argv[1])
    try:
        config = load_config(asked["recipe"], [*asked["overrides"], "device=ascend"])
        device.configure(**config.device.model_dump())
        distributed.init()
        channels = asked["channels"]
        walk(config, Images(asked["classes"], channels, (0.5,) * channels, (0.25,) * channels))
    except RunError as error:
        mark(refused=str(error))


def walk(config: RunConfig, images: Images) -> None:
    """Compile and launch one update, then one evaluation step, each of rank 0."""
    import mindspore as ms
    from mindspore import Tensor

    from train.checkpoint.card import ModelCard
    from train.data.example import Example, Field
    from train.data.reader import Batch
    from train.hooks.snapshots import match_layers
    from train.run.evaluator import make_eval_step, make_network
    from train.run.job import make_step, make_update

    size = config.data.image_size
    example = Example(Field((images.channels, size, size), np.uint8), Field((), np.int32))

    def blank(count: int) -> Batch:
        pixels = np.zeros((count, images.channels, size, size), np.uint8)
        return Batch(pixels, np.zeros(count, np.int32), np.zeros(count, np.int64))

    card = ModelCard.describe(config.model, config.data, config.step, images, example)
    network = make_network(card, config.device.target, config.seed, config.optimizer.groups)
    recorded = match_layers(config.snapshots.layers, [p.name for p in network.model.trainable_params()])
    step = make_step(config, network, np.full(LENGTH, 0.1, np.float32), recorded)
    update = make_update(config, step)
    own = blank(-(-config.data.global_batch // distributed.world_size()))
    part("update", lambda: update(own, 0).result, lambda: update(own, 1))

    ms.runtime.reset_peak_memory_stats()
    evaluation, batch = make_eval_step(config, network, images.num_classes), blank(config.data.eval_batch)
    evaluation.set_train(False)
    arrays = (batch.images, batch.labels, np.ones(len(batch.indices), np.float32))

    def evaluate() -> Tensor:
        found = evaluation(*(Tensor(array) for array in arrays))
        return found[0] if evaluation.with_outputs else found

    part("evaluation", lambda: evaluate().asnumpy(), evaluate)


def part(name: str, action: Callable[[], object], again: Callable[[], object]) -> None:
    """Do one thing, write what became of it, and do it ``again`` without reading its result: the host's waits in it."""
    from mindspore import runtime

    mark(part=name)
    record(f"{MARK}{name}")
    try:
        action()
        memory = runtime.max_memory_allocated()
        record(AGAIN)
        again()
        record(ENOUGH)
    except Exception as error:  # whatever MindSpore raises is what we are here to see
        mark(error=in_one_line(error))
    else:
        mark(memory=memory)


def record(line: str) -> None:
    with open(os.environ["STAND_INS_RECORD"], "a") as file:
        file.write(f"{line}\n")


def mark(**said: Any) -> None:
    print(MARK + json.dumps(said), file=sys.stderr, flush=True)


def in_one_line(error: Exception) -> str:
    """Return the words of an error of MindSpore, and the innermost line of construct that is the reader's; where none
    is, ours."""
    words, *details = str(error).split("\n----", 1)
    import mindspore

    own = str(Path(mindspore.__file__).parent)
    places = [place for place in IN_FILE.findall("".join(details)) if not place.startswith(own)]
    root = Path(__file__).parents[2]
    readers = [place for place in places if not place.startswith((f"{root / 'train'}/", f"{root / 'models'}/"))]
    where = f" ({(readers or places)[-1]})" if places else ""
    return f"{type(error).__name__}: {' '.join(words.split())[:500]}{where}"


if __name__ == "__main__":
    main()
