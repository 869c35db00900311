"""The process that compiles: it runs with the stand-ins for CANN and is told what to do as JSON, its only argument.

Data, model, precision, the optimizer and the step are put together by the functions that training uses, and refused
where these refuse them.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from train.data.example import leaves
from train.dryrun.log import AGAIN, ENOUGH, IN_FILE, MARK, innermost
from train.recipe.read import load_config
from train.recipe.sections import RunConfig
from train.runtime import device, distributed
from train.runtime.errors import RunError, UserError

if TYPE_CHECKING:
    from train.data.reader import Batch, Reader
    from train.run.task import Task
    from train.step.train_step import TrainStep

OF_THE_HOST = "AbstractNegligible"
"""What MindSpore calls the type of an object that it does not compile."""
PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h: this process ends with the one that started it, however that ends."""
LENGTH = 10
"""Entries of the learning rates: values are of no account here, and one update takes the first."""
LOOKED_AT = 1000
"""Examples among which the longest is looked for, where a collate makes batches of different lengths."""


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    cases = json.loads(sys.argv[1])
    try:
        for number, case in enumerate(cases):
            compile_case(case, first=number == 0)
    except RunError as error:
        mark(refused=str(error))


def compile_case(case: dict[str, Any], first: bool) -> None:
    """Compile all that the training of a recipe is made of.

    Args:
        case: recipe; overrides; folder, from where these name files; update_only, whether nothing else is compiled.
    """
    from mindspore import runtime

    work = os.getcwd()  # where MindSpore may leave its files
    os.chdir(case["folder"])
    config = load_config(case["recipe"], [*case["overrides"], "device=ascend"])
    if first:
        os.chdir(work)
        device.configure(**config.device.model_dump())
        distributed.init()
        let_others_say_the_same()
        distributed.barrier()  # after the first exchange MindSpore stays with the place of its list of them
        os.chdir(case["folder"])
    gc.collect()
    mark(kept=runtime.memory_allocated())  # of the case before, for ever
    config, words = with_data(config)
    found = part("opening", lambda: opened(config))
    os.chdir(work)
    if found is not None:
        task, step = found
        mark(about=describe(config, task, words))
        walk(config, task, step, case.get("update_only", False))


def let_others_say_the_same() -> None:
    """Let a gather return for every rank what this one put in: its kernel is made, and computes nothing."""
    gather = distributed._all_gather

    def repeated(words: np.ndarray) -> np.ndarray:
        gather(words)
        return np.broadcast_to(words, (distributed.world_size(), len(words)))

    distributed._all_gather = repeated


def with_data(config: RunConfig) -> tuple[RunConfig, str]:
    """Return ``config``, with noise in the place of images that are not on this machine, and words that say so."""
    from train.data.arrays import NoiseSource
    from train.data.options import OF_FILES

    data = config.data
    if data.source not in OF_FILES or os.path.isdir(data.root):
        return config, ""
    channels = len(data.mean or data.std) or 3
    NoiseSource.channels, NoiseSource.mean, NoiseSource.std = channels, (0.5,) * channels, (0.29,) * channels
    classes = 10 if data.source == "cifar10" else 1000
    noise = {
        "source": "synthetic",
        "synthetic_classes": classes,
        "synthetic_examples": 10 * max(data.global_batch, 100),
    }
    words = f" as the recipe says, since data.root={data.root} is not here"
    return config.model_copy(update={"data": data.model_copy(update={**noise, "collate": ""})}), words


def opened(config: RunConfig) -> tuple[Task, TrainStep]:
    """Return data, model and step as a training makes them, which tries a user's parts and sends rank 0's weights;
    but for the optimizer, whose count of updates would be looked at: it stays zero here, as all is."""
    from train.run.job import make_step
    from train.run.opening import make_loader, refuse_single_values
    from train.run.task import open_task
    from train.run.trial import try_parts

    try:
        task = open_task(config)
    except OSError as error:  # of a user's source
        raise UserError(f"{error}: data.source=synthetic takes random images in its place") from None
    refuse_single_values(config, task, make_loader(config, task))
    metrics, task.eval_step.metrics = task.eval_step.metrics, {}  # zeros, as all is here, are not for them
    try_parts(config, task)
    task.eval_step.metrics = metrics
    distributed.broadcast_parameters(list(task.model.get_parameters()))
    step = make_step(config, task.network, np.full(LENGTH, 0.1, np.float32))
    return task, step


def describe(config: RunConfig, task: Task, words: str) -> str:
    """Return the lines that say what is compiled."""
    example, ranks = task.readers.train.example, distributed.world_size()
    each = ", ".join(f"{title} {field}" for title, field in zip(example.titles, example.leaves, strict=True))
    return (
        f"{config.model.name}, {task.card.num_classes} classes, {config.step.precision}; {ranks} "
        f"rank{'s' * (ranks > 1)}, batches of {config.data.global_batch}\nexamples{words}: {each}"
    )


def largest(reader: Reader, count: int) -> Batch:
    """Return a batch as large as one of ``reader`` gets, as far as a thousand examples show it."""
    if reader.collate is None:
        return reader.new_batch(count)._replace(indices=np.zeros(count, np.int64))

    def size(place: int) -> int:
        return sum(array.size for array in leaves(reader.read(np.array([place])).inputs))

    places = np.unique(np.linspace(0, len(reader) - 1, LOOKED_AT).astype(int)).tolist()
    return reader.read(np.full(count, max(places, key=size)))


def walk(config: RunConfig, task: Task, step: TrainStep, update_only: bool) -> None:
    """Compile and launch what a training, and a question to its model, is made of, as rank 0 of the job."""
    from mindspore import Tensor

    from train.data.example import map_leaves
    from train.run.job import make_feeder
    from train.step.evaluate import mean_statistics, replaced
    from train.step.network import as_tensors, inputs_as_tensors

    network, readers, measure = task.network, task.readers, task.eval_step
    update = make_feeder(config, step)
    own = largest(readers.train, -(-config.data.global_batch // distributed.world_size()))  # the most of all ranks
    part("update", lambda: update(own, 0).result, lambda: update(own, 1))
    if update_only:
        return

    batch = largest(readers.validation, config.data.eval_batch)
    given = inputs_as_tensors(batch.inputs), as_tensors(batch.targets), Tensor(np.ones(len(batch.indices), np.float32))
    measure.set_train(False)

    def evaluate() -> Tensor:
        found = measure(*given)
        return found[0] if measure.with_outputs else found

    def around() -> None:
        with mean_statistics(network.model):
            distributed.any_rank(False)
            distributed.gather_array(evaluate().asnumpy())
        if step.averages:
            with replaced(step.average.parameters, [average.asnumpy() for average in step.average.averages]):
                evaluate().asnumpy()

    part("evaluation", lambda: evaluate().asnumpy(), evaluate)
    part("gathers", around)
    part("prediction", lambda: map_leaves(Tensor.asnumpy, network(inputs_as_tensors(batch.part(slice(1)).inputs))))


def part(name: str, action: Callable[[], Any], again: Callable[[], object] | None = None) -> Any:
    """Do one thing, write what became of it, and do it ``again`` without reading its result: the host's waits in it.

    Returns what ``action`` does, or None where it failed.

    Raises:
        RunError: as it is: what training refuses.
    """
    from mindspore import runtime

    runtime.reset_peak_memory_stats()
    mark(part=name)
    record(f"{MARK}{name}")
    try:
        found = action()
        memory = runtime.max_memory_allocated()
        record(AGAIN)
        if again is not None:
            again()
        record(ENOUGH)
    except RunError:
        raise
    except Exception as error:  # whatever MindSpore raises is what we are here to see
        mark(error=in_one_line(error))
        return None
    mark(memory=memory)
    return found


def record(line: str) -> None:
    with open(os.environ["STAND_INS_RECORD"], "a") as file:
        file.write(f"{line}\n")


def mark(**said: Any) -> None:
    print(MARK + json.dumps(said), file=sys.stderr, flush=True)


def in_one_line(error: Exception) -> str:
    """Return the words of an error of MindSpore's or a user's, the cell that it comes from where it was not compiled,
    and the innermost line of code that is the user's; where none is, ours."""
    from mindspore import nn

    words, *details = str(error).split("\n----", 1)
    frames = list(traceback.walk_tb(error.__traceback__))
    owners = [frame.f_locals.get("self") for frame, _ in frames]
    cells = [type(owner).__name__ for owner in owners if isinstance(owner, nn.Cell)]
    places = IN_FILE.findall("".join(details)) or [f"{one.f_code.co_filename}:{line}" for one, line in frames]
    found = filter(None, [*cells[-1:], innermost(places)])
    hint = "; NumPy, or another object of the host, in construct?" if OF_THE_HOST in words else ""
    return f"{type(error).__name__}: {' '.join(words.split())[:500]}{hint} ({', '.join(found)})"


if __name__ == "__main__":
    main()
