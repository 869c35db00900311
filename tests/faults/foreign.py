"""Feed mutated files to one reader of foreign bytes: ``python -m tests.faults.foreign READER COUNT``.

In a process of its own, since native code may end it. Prints how many were taken and how many refused.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.test_fuzz import Mutator, feed
from tests.jobs import DIGITS
from train.runtime.errors import RunError

CARD = {"name": "resnet20", "options": {"depths": [1, 1, 1], "widths": [4, 8, 16]}, "num_classes": 3, "channels": 1}
CARD |= {"class_names": [], "image_size": 8, "eval_resize": 0, "orientation": "apply", "background": "white"}
CARD |= {"max_pixels": 100, "mean": [0.5], "std": [0.5], "precision": "fp32", "batch_norm": "fp32"}
CARD |= {"inputs": [{"name": "", "shape": [1, 8, 8], "dtype": "uint8"}], "gives": "classes", "versions": {}}

Reader = tuple[Path, Callable[[Path], object], tuple[type[Exception], ...]]


def small_model() -> Any:
    import models
    from train.runtime import device

    device.configure("cpu")
    return models.create_model("resnet20", num_classes=3, in_channels=1, depths=[1, 1, 1], widths=[4, 8, 16])


def tensors(folder: Path, ending: str) -> Reader:
    import mindspore as ms

    from models.weights import load_weights

    model = small_model()
    ms.save_checkpoint(model, str(folder / f"model.{ending}"), format=ending)
    return folder / f"model.{ending}", lambda path: load_weights(model, path, tell=lambda _: None), (ValueError,)


def mindir(folder: Path) -> Reader:
    import mindspore as ms

    from models.mindir import load_mindir

    model = small_model().set_train(False)  # configures the device, before anything is computed
    zeros = ms.ops.zeros((1, 1, 8, 8), ms.float32)
    ms.export(model, zeros, file_name=str(folder / "model.mindir"), file_format="MINDIR")
    (folder / "model.mindir").chmod(0o644)
    return folder / "model.mindir", lambda path: load_mindir(path, path.read_bytes(), trust_code=False), (ValueError,)


def npz(folder: Path) -> Reader:
    from train.checkpoint.card import parse_card
    from train.predict import prepare

    inputs = [{"name": name, "shape": [3, 4], "dtype": "float32"} for name in ("one", "two")]
    card = parse_card(json.dumps(CARD | {"mean": [], "std": [], "inputs": inputs}), "here")
    np.savez(folder / "a.npz", one=np.ones((3, 4), np.float32), two=np.zeros((3, 4), np.float32))
    return folder / "a.npz", lambda path: prepare(path, card), (RunError,)


def card(folder: Path) -> Reader:
    from train.checkpoint.card import parse_card

    (folder / "model.json").write_text(json.dumps(CARD))
    return folder / "model.json", lambda path: parse_card(path.read_text(errors="replace"), path), (RunError,)


def records(folder: Path, ending: str) -> Reader:
    from tests.train.data.folders import fill
    from train.data import convert, mindrecord
    from train.data.images import BadImage, Picture

    fill(folder / "images", count=3)
    convert.convert(folder / "images", folder / "packed")

    def read(path: Path) -> None:
        for source in mindrecord.open_sources(str(path.parent), hold_out=1):
            for index in range(len(source)):
                Picture(source.image(index)).pixels(3)

    return folder / "packed" / f"train.mindrecord{ending}", read, (RunError, BadImage)


def jpeg(folder: Path) -> Reader:
    from tests.train.data.folders import blurred_noise
    from train.data.images import BadImage, Picture, open_image

    blurred_noise(64, 48).save(folder / "a.jpg", quality=80)
    return folder / "a.jpg", lambda path: Picture(open_image(path.read_bytes())).pixels(3), (BadImage,)


def recipe(folder: Path) -> Reader:
    from train.recipe.read import load_config

    (folder / "recipe.yaml").write_text(DIGITS.read_text())
    return folder / "recipe.yaml", load_config, (RunError,)


READERS: dict[str, Callable[[Path], Reader]] = {
    "safetensors": lambda folder: tensors(folder, "safetensors"),
    "ckpt": lambda folder: tensors(folder, "ckpt"),
    "records": lambda folder: records(folder, ""),
    "index of records": lambda folder: records(folder, ".db"),
    **{"mindir": mindir, "npz": npz, "card": card, "jpeg": jpeg, "recipe": recipe},
}


def main(name: str, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, entry, allowed = READERS[name](Path(folder))
        whole, mutator = path.read_bytes(), Mutator(7)
        entry(path)

        def cases() -> Iterator[Path]:
            for number in range(count):
                changed = mutator.data(whole)
                if name in ("card", "recipe") and number % 2:
                    changed = mutator.text(whole.decode()).encode(errors="surrogatepass")
                path.write_bytes(changed)
                yield path

        print(json.dumps(feed(cases(), entry, allowed)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
