"""Ask a trained model what is on an image: ``python -m train.predict runs/<name> IMAGE…``, a line of JSON for each."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from train.rundir.folder import TRUST_CODE_HELP
from train.runtime import device
from train.runtime.errors import OneLineParser, UserError, a_path, refused, run_command

if TYPE_CHECKING:
    from train.checkpoint.card import ModelCard

OPERATORS_WITH_CODE = re.compile(r"(?:REF::)?(Custom\w*|Py\w+|TensorDump)\b")

Logits = Callable[[np.ndarray], np.ndarray]
"""uint8 (1, channels, height, width) → float32 (1, classes)"""


def main(arguments: list[str] | None = None) -> int:
    return run_command(lambda: command(arguments))


def command(arguments: list[str] | None) -> int:
    parser = OneLineParser(
        prog="python -m train.predict",
        description="Print the most probable classes of each image, as a line of JSON. Images are prepared as in the "
        "run's evaluation; the data set is not needed.",
    )
    parser.add_argument(
        "model", type=a_path, help="the folder of a run, a model.safetensors of one, or an exported model.mindir"
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=a_path, help="files")
    parser.add_argument("--top", type=int, default=5, help="how many classes to print (default: 5)")
    parser.add_argument("--ema", action="store_true", help="ask the moving average of weights that step.ema keeps")
    parser.add_argument("--trust-code", action="store_true", help=TRUST_CODE_HELP)
    options = parser.parse_intermixed_args(arguments)
    if options.top < 1:
        parser.error(f"--top={options.top}: at least 1")
    device.configure("cpu" if options.model.suffix == ".mindir" else "auto")
    card, logits = open_predictor(options.model, averaged=options.ema, trust_code=options.trust_code)
    for path in options.images:
        probabilities = softmax(logits(prepare(path, card))[0])
        print(json.dumps({"image": str(path), "top": most_probable(card, probabilities, options.top)}), flush=True)
    return 0


def open_predictor(path: Path, *, averaged: bool = False, trust_code: bool = False) -> tuple[ModelCard, Logits]:
    """Return what a saved or exported model says of itself, and the function that it is.

    Raises:
        UserError: when ``path`` is no model of a run, see :func:`train.run.trained.open_model`; the function, when the
            model returns something else than logits.
    """
    import mindspore as ms
    from mindspore import Tensor, nn

    from train.checkpoint.card import parse_card
    from train.run.trained import find_model, open_model

    cell: nn.Cell
    if path.suffix == ".mindir":
        if averaged:
            raise UserError(f"{path}: --ema chooses when a model is exported; an export holds one of the two")
        described = path.with_suffix(".json")
        try:
            card = parse_card(described.read_text(), described)
            if not trust_code:
                refuse_operators_with_code(path)
            cell = nn.GraphCell(ms.load(str(path)))
        except OSError as error:
            raise UserError(f"{error.filename or path}: {error.strerror}; train.export writes both files") from None
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path}: not a readable MindIR file ({reason})") from None
    else:
        card, cell = open_model(find_model(path, averaged=averaged), trust_code=trust_code)

    def logits(images: np.ndarray) -> np.ndarray:
        outputs = cell(Tensor(images))
        if isinstance(outputs, tuple):
            raise UserError(f"{path}: the model gives {len(outputs)} outputs, and not one with the logits of classes")
        return outputs.asnumpy()

    return card, logits


def refuse_operators_with_code(path: Path) -> None:
    """Raise a :class:`UserError` for a MindIR file with an operator that loads a library, calls Python or writes files.

    Raises:
        ValueError: when it is no MindIR file.
    """
    from google.protobuf.message import DecodeError
    from mindspore.train.mind_ir_pb2 import ModelProto

    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(str(error)) from None
    graphs = [model.graph, *model.functions]
    names = [node.op_type for graph in graphs for node in graph.node] + [one.op_type for one in model.primitives]
    for name in names:
        if found := OPERATORS_WITH_CODE.match(name):
            raise UserError(
                f"{path}: its operator {found[1]!r} runs code of whoever made the file; if you trust them, "
                "--trust-code runs it"
            )


def prepare(path: Path, card: ModelCard) -> np.ndarray:
    """Return an image file as uint8 (1, channels, image_size, image_size), prepared as in the run's evaluation.

    Raises:
        UserError: when it cannot be read or is no image.
    """
    from train.data.images import BadImage, open_image, to_planes
    from train.data.source import read_file

    card.refuse_unless_images(str(path))
    if card.channels not in (1, 3):
        raise UserError(f"{path}: the model takes {card.channels} channels, an image file has 1 or 3")
    planes = np.empty((1, card.channels, card.image_size, card.image_size), np.uint8)
    try:
        to_planes(card.view()(open_image(read_file(path)), card.channels), planes[0])
    except OSError as error:
        raise refused(error, f"{path}: cannot be read: {error.strerror}") from None
    except BadImage as error:
        raise UserError(f"{path}: {error}") from None
    return planes


def most_probable(card: ModelCard, probabilities: np.ndarray, count: int) -> list[dict[str, Any]]:
    best = np.argsort(-probabilities, kind="stable")[:count].tolist()
    return [{"class": card.class_name(i), "label": i, "probability": round(float(probabilities[i]), 6)} for i in best]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of float (classes,), float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    return shifted / shifted.sum()


if __name__ == "__main__":
    sys.exit(main())
