"""What pretrained weights are worth where images are few: a ResNet-20 trained on the digits 0 to 4, fine-tuned on a few
images of 5 to 9, against the same network trained from scratch on the same images.

    python -m tests.benchmarks.bench_finetune

Real runs of ``python -m train``, one rank each, with seeds 1, 2, 3 and two learning rates, of which the better one is
meant for each side. Top-1 is that of the last state on the 180 held-out images of 5 to 9.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

import numpy as np

from tests.jobs import DIGITS, alone
from train.data.arrays import MemorySource, open_digits
from train.data.options import DataConfig
from train.data.source import Sources

FEW = 4
"""Training images of each new class."""
SEEDS = (1, 2, 3)
RATES = (0.02, 0.1)
HERE = "tests.benchmarks.bench_finetune"


def first_half(options: DataConfig) -> Sources:
    """The digits 0 to 4, all of them."""
    return _some(options, range(5), None)


def second_half(options: DataConfig) -> Sources:
    """The digits 5 to 9: the first few of each for training, all held-out ones."""
    return _some(options, range(5, 10), FEW)


def _some(options: DataConfig, digits: range, few: int | None) -> Sources:
    whole = open_digits(options.image_size)
    assert isinstance(whole.train, MemorySource) and isinstance(whole.validation, MemorySource)
    names = [str(digit) for digit in digits]
    train = _of(whole.train, digits, few)
    source = MemorySource(*train, len(digits), class_names=names)
    return Sources(source, MemorySource(*_of(whole.validation, digits, None), len(digits), source, names))


def _of(source: MemorySource, digits: range, few: int | None) -> tuple[np.ndarray, np.ndarray]:
    chosen = np.concatenate([np.flatnonzero(source.labels == digit)[:few] for digit in digits])
    return source.images[chosen], (source.labels[chosen] - digits.start).astype(np.int32)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        pretrained = train(where, "pretrained", "first_half", "schedule.total=100", "data.global_batch=64")
        print(f"pretrained on 0 to 4: top1 {pretrained:.2%}", flush=True)
        weights = next((where / "pretrained" / "checkpoints").glob("step-*/model.safetensors"))
        start = f"model.init_from={{path: {weights}, drop: [fc.*]}}"
        print(f"{FEW} images of each class; mean of {len(SEEDS)} seeds (each)")
        print("| start | lr_max | top-1 on 5 to 9 |\n|---|--:|---|")
        for name, settings in (("fine-tuned", [start]), ("from scratch", [])):
            for rate in RATES:
                found = [
                    train(
                        where, f"{name[:4]}-{rate}-{seed}", "second_half", f"seed={seed}", *shortened(rate), *settings
                    )
                    for seed in SEEDS
                ]
                each = ", ".join(f"{value:.1%}" for value in found)
                print(f"| {name} | {rate} | {statistics.mean(found):.1%} ({each}) |", flush=True)


def shortened(rate: float) -> list[str]:
    return [
        f"schedule.lr_max={rate}",
        f"schedule.lr_init={rate / 10}",
        "schedule.total=60",
        f"data.global_batch={5 * FEW}",
    ]


def train(folder: Path, name: str, source: str, *settings: str) -> float:
    """Train on the digits as the recipe does, but for ``settings``; return the last top-1."""
    task = ["-m", "train", "--config", DIGITS, f"runs_dir={folder}", f"name={name}", f"data.source={HERE}:{source}"]
    alone([*task, "snapshots.steps=[]", "log.tensorboard=false", *settings], folder, timeout=900).check()
    points = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return next(point["val/top1"] for point in reversed(points) if "val/top1" in point)


if __name__ == "__main__":
    main()
