"""Write the saved model of a run in a form that others load: ``python -m train.export runs/<name> --to mindir``."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING

from train.rundir.folder import CHECKPOINTS, EXPORTS, refuse_links
from train.rundir.trust import TRUST_CODE_HELP
from train.runtime import device
from train.runtime.errors import OneLineParser, RunError, StorageError, UserError, a_path, run_command
from train.runtime.files import read_file

if TYPE_CHECKING:
    from mindspore import nn

    from train.checkpoint.card import ModelCard
    from train.step.network import Network

SUFFIXES = {"mindir": ".mindir", "onnx": ".onnx", "safetensors-torch": ".torch.safetensors"}
USES = {
    "mindir": "python -m train.predict {} IMAGE",
    "onnx": "onnxruntime.InferenceSession('{}').run(None, {{'inputs': images}})",
    "safetensors-torch": "model.load_state_dict(safetensors.torch.load_file('{}'))",
}
"""How to use the file, said of an image model's."""
HELP = """\
Write the saved model of a run in a form that others load.

  mindir             uint8 images (N, channels, image_size, image_size) in, float32 logits (N, classes) out, or the
                     arrays that the model takes and gives; the normalisation is inside. For mindspore.load and
                     MindSpore Lite
  onnx               the same for --batch examples at a time, as MindSpore 2.10 writes no other
  safetensors-torch  the weights alone, under the names of torchvision and timm

model.json beside the first two, and the metadata of the third, say how an image is prepared and name the classes."""


def main(arguments: list[str] | None = None) -> int:
    return run_command(lambda: command(arguments))


def command(arguments: list[str] | None) -> int:
    parser = OneLineParser(prog="python -m train.export", description=HELP, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("model", type=a_path, help="the folder of the run, runs/<name>, or its model.safetensors")
    parser.add_argument("--to", choices=list(SUFFIXES), required=True, help="see above")
    parser.add_argument("--ema", action="store_true", help="export the moving average of weights that step.ema keeps")
    parser.add_argument("--best", action="store_true", help="export the best of the saved states, not the last")
    parser.add_argument(
        "--out",
        type=a_path,
        help="the file to write, or a folder for it (default: runs/<name>/exports/, or beside a lone file)",
    )
    parser.add_argument("--batch", type=int, default=1, help="images that the ONNX model takes at once (default: 1)")
    parser.add_argument("--trust-code", action="store_true", help=TRUST_CODE_HELP)
    options = parser.parse_args(arguments)
    if not 1 <= options.batch <= 1 << 16:
        parser.error(f"--batch={options.batch}: 1 to {1 << 16}")
    out = export(
        options.model,
        options.to,
        out=options.out,
        averaged=options.ema,
        best=options.best,
        batch=options.batch,
        trust_code=options.trust_code,
    )
    print(out)
    print(f"to use it: {USES[options.to].format(out)}", file=sys.stderr)
    return 0


def export(
    model: Path,
    to: str,
    *,
    out: Path | None = None,
    averaged: bool = False,
    best: bool = False,
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
    from train.checkpoint.saved import find_model
    from train.run.trained import open_model
    from train.step.network import moving_statistics

    source = find_model(model, averaged=averaged, best=best)
    card, network = open_model(source, trust_code=trust_code)
    if to == "onnx" and moving_statistics(network):
        # ONNX's BatchNormalization wants one type for what it takes and for its parameters.
        card, network = open_model(source, trust_code=trust_code, batch_norm="fp32")
    if out is None:
        run_dir = model if (model / CHECKPOINTS).is_dir() else _beside_checkpoints(source)
        out = run_dir / EXPORTS if run_dir else source.parent
        if run_dir and out.is_dir():
            refuse_links(out)
        out = out / f"{source.stem}{SUFFIXES[to]}"
    elif out.is_dir():
        out = out / f"{source.stem}{SUFFIXES[to]}"
    refuse_others(out, to)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as folder:
            written = Path(folder) / f"model{SUFFIXES[to]}"
            _write(to, written, card, network, batch)
            if to != "safetensors-torch":
                described = written.with_name("card")
                described.write_text(card.to_json() + "\n")
                os.replace(described, out.with_suffix(".json"))
            # MindSpore's file is for its owner to read; a copy is as the umask says.
            os.replace(shutil.copyfile(written, written.with_name("copy")), out)
    except OSError as error:
        raise StorageError(f"{out}: cannot be written: {error.strerror or error}") from None
    return out


def refuse_others(out: Path, to: str) -> None:
    """Refuse to write what has not the ending of its format, and to replace what is no earlier export.

    Raises:
        UserError: names the file.
    """
    from train.checkpoint.card import parse_card, read_card

    ending = Path(f"model{SUFFIXES[to]}").suffix
    if out.suffix != ending:
        raise UserError(f"--out={out}: give a file that ends in {ending}, or a folder")
    if _beside_checkpoints(out):
        raise UserError(f"--out={out}: would change a checkpoint; choose a place outside, or leave --out away")
    lone = to == "safetensors-torch"
    for path in [out] if lone else [out, out.with_suffix(".json")]:
        if not os.path.lexists(path):
            continue
        try:
            if path.is_symlink():
                raise UserError("a link")
            described = read_card(path) if lone else parse_card(read_file(out.with_suffix(".json")).decode(), "")
            if described is None or (lone and not written_by_export(path)):
                raise UserError("no export")
        except (RunError, OSError, ValueError):
            raise UserError(f"--out={out}: {path} exists, and no export wrote it; choose another name") from None


def written_by_export(path: Path) -> bool:
    """Whether a file of weights has PyTorch's names, as an export writes them."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return (file.metadata() or {}).get("format") == "pt"


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
    from mindspore import Tensor

    from models.weights import export_weights
    from train.checkpoint.card import METADATA_KEY

    if to == "safetensors-torch":
        try:
            export_weights(network.model, path, {METADATA_KEY: card.to_json()})
        except ValueError as error:
            raise OSError(f"{error.__cause__ or error}") from None
        return
    inputs = []
    for one in card.inputs:
        if to == "onnx" and None in one.shape:
            raise UserError(f"--to onnx: an axis of the input {one.name} differs between examples; use mindir")
        dtype = getattr(ms, {"bool": "bool_"}.get(one.dtype, one.dtype))
        shape = [None if to == "mindir" else batch, *one.shape]
        inputs.append(Tensor(shape=shape, dtype=dtype) if to == "mindir" else ms.ops.zeros(tuple(shape), dtype))
    try:
        ms.export(as_given(network, len(inputs)), *inputs, file_name=str(path), file_format=to.upper())
    except (RuntimeError, TypeError, ValueError) as error:  # an operator that its exporter does not know
        reason = " ".join(str(error).partition("\n---")[0].split())[:200]  # behind it MindSpore's own lines of code
        raise UserError(f"--to {to}: MindSpore cannot write {card.name} so ({reason})") from None


def as_given(network: Network, count: int) -> nn.Cell:
    """Return a cell that takes ``count`` inputs one by one; a network takes several as one tuple."""
    from mindspore import nn

    class OneByOne(nn.Cell):
        def __init__(self) -> None:
            super().__init__(auto_prefix=False)
            self.network = network

        def construct(self, *inputs):
            return self.network(inputs)

    return OneByOne().set_train(False) if count > 1 else network


if __name__ == "__main__":
    sys.exit(main())
