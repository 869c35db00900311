"""Write the saved model of a run in a form that others load: ``python -m train.export runs/<name> --to mindir``."""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING

from train.rundir.folder import CHECKPOINTS, EXPORTS, TRUST_CODE_HELP, refuse_links
from train.runtime import device
from train.runtime.errors import OneLineParser, StorageError, UserError, a_path, run_command

if TYPE_CHECKING:
    from train.checkpoint.card import ModelCard
    from train.step.network import Network

SUFFIXES = {"mindir": ".mindir", "onnx": ".onnx", "safetensors-torch": ".torch.safetensors"}
HELP = """\
Write the saved model of a run in a form that others load.

  mindir             uint8 images (N, channels, image_size, image_size) in, float32 logits (N, classes) out; the
                     normalisation is inside. For mindspore.load and MindSpore Lite
  onnx               the same for --batch images at a time, as MindSpore 2.10 writes no other
  safetensors-torch  the weights alone, under the names of torchvision and timm

model.json beside the first two, and the metadata of the third, say how an image is prepared and name the classes."""


def main(arguments: list[str] | None = None) -> int:
    return run_command(lambda: command(arguments))


def command(arguments: list[str] | None) -> int:
    parser = OneLineParser(prog="python -m train.export", description=HELP, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("model", type=a_path, help="the folder of the run, runs/<name>, or its model.safetensors")
    parser.add_argument("--to", choices=list(SUFFIXES), required=True, help="see above")
    parser.add_argument("--ema", action="store_true", help="export the moving average of weights that step.ema keeps")
    parser.add_argument(
        "--out", type=a_path, help="the file to write (default: in runs/<name>/exports/, or beside a lone file)"
    )
    parser.add_argument("--batch", type=int, default=1, help="images that the ONNX model takes at once (default: 1)")
    parser.add_argument("--trust-code", action="store_true", help=TRUST_CODE_HELP)
    options = parser.parse_args(arguments)
    if options.batch < 1:
        parser.error(f"--batch={options.batch}: at least 1")
    out = export(
        options.model,
        options.to,
        out=options.out,
        averaged=options.ema,
        batch=options.batch,
        trust_code=options.trust_code,
    )
    print(out)
    return 0


def export(
    model: Path,
    to: str,
    *,
    out: Path | None = None,
    averaged: bool = False,
    batch: int = 1,
    trust_code: bool = False,
) -> Path:
    """Write ``model``, a run folder or a file in one, as ``to`` (a key of ``SUFFIXES``); return the file.

    An older file is replaced once the new one is complete.

    Raises:
        UserError: when there is no such model, or it cannot be written in this form or place.
        StorageError: when the disk refuses.
    """
    device.configure("cpu")
    from train.run.trained import find_model, open_model

    source = find_model(model, averaged=averaged)
    card, network = open_model(source, trust_code=trust_code)
    if out is None:
        run_dir = model if model.is_dir() else _beside_checkpoints(source)
        out = (run_dir / EXPORTS if run_dir else source.parent) / f"{source.stem}{SUFFIXES[to]}"
        if run_dir:
            refuse_links(out.parent)
    if _beside_checkpoints(out):
        raise UserError(f"--out={out}: would change a checkpoint; choose a place outside, or leave --out away")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as folder:
            written = Path(folder) / f"model{SUFFIXES[to]}"
            _write(to, written, card, network, batch)
            if to != "safetensors-torch":
                described = written.with_name("card")
                described.write_text(card.to_json() + "\n")
                os.replace(described, out.with_suffix(".json"))
            os.replace(written, out)
    except OSError as error:
        raise StorageError(f"{out}: cannot be written: {error.strerror or error}") from None
    return out


def _beside_checkpoints(path: Path) -> Path | None:
    """Return the run folder in whose checkpoints ``path`` lies, or what a lone checkpoint lies in; None: in neither."""
    from train.checkpoint.disk import SUMS_FILE, list_steps

    outside = None
    for folder in path.resolve().parents:
        if (folder / SUMS_FILE).is_file() or (folder.name == CHECKPOINTS and list_steps(folder)):
            outside = folder.parent
    return outside


def _write(to: str, path: Path, card: ModelCard, network: Network, batch: int) -> None:
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor

    from models.weights import export_weights
    from train.checkpoint.card import METADATA_KEY

    if to != "safetensors-torch":
        card.refuse_unless_images(f"--to {to}")
    shape = (card.channels, card.image_size, card.image_size)
    if to == "safetensors-torch":
        try:
            export_weights(network.model, path, {METADATA_KEY: card.to_json()})
        except ValueError as error:
            raise OSError(f"{error.__cause__ or error}") from None
    elif to == "mindir":
        ms.export(network, Tensor(shape=[None, *shape], dtype=ms.uint8), file_name=str(path), file_format="MINDIR")
    else:
        try:
            ms.export(network, Tensor(np.zeros((batch, *shape), np.uint8)), file_name=str(path), file_format="ONNX")
        except (RuntimeError, ValueError) as error:  # an operator that its exporter does not know
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"--to onnx: MindSpore cannot write {card.name} as ONNX ({reason}); use mindir") from None
    path.chmod(0o644)  # MindSpore leaves files that nobody may write


if __name__ == "__main__":
    sys.exit(main())
