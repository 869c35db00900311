"""Ask a trained model what it makes of an image, or of arrays: ``python -m train.predict runs/<name> FILE…``, a line of
JSON for each."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from train.rundir.trust import TRUST_CODE_HELP
from train.runtime import device
from train.runtime.errors import OneLineParser, RunError, UserError, a_path, print_error, refused, run_command
from train.runtime.files import MAX_FILE_BYTES, read_file

if TYPE_CHECKING:
    from train.checkpoint.card import InputCard, ModelCard
    from train.run.trained import Trained

DESCRIPTION = """\
Print the most probable classes of each image, or what else the model gives, as a line of JSON. Images are prepared as
in the run's evaluation; the data set is not needed. A model of arrays takes .npy files, or with several inputs .npz
files, of one example each. A file that cannot be read is named, and the others are still asked."""


def main(arguments: list[str] | None = None) -> int:
    return run_command(lambda: command(arguments))


def command(arguments: list[str] | None) -> int:
    parser = OneLineParser(prog="python -m train.predict", description=DESCRIPTION)
    parser.add_argument(
        "model", type=a_path, help="the folder of a run, a model.safetensors of one, or an exported model.mindir"
    )
    parser.add_argument("files", nargs="+", metavar="FILE", type=a_path, help="images, or arrays")
    parser.add_argument("--top", type=int, default=5, help="how many classes to print (default: 5)")
    parser.add_argument("--ema", action="store_true", help="ask the moving average of weights that step.ema keeps")
    parser.add_argument("--best", action="store_true", help="ask the best of the saved states, not the last")
    parser.add_argument("--trust-code", action="store_true", help=TRUST_CODE_HELP)
    options = parser.parse_intermixed_args(arguments)
    if options.top < 1:
        parser.error(f"--top={options.top}: at least 1")
    model = open_predictor(options.model, averaged=options.ema, best=options.best, trust_code=options.trust_code)
    codes = []
    for path in options.files:
        try:
            answer = answer_of(model, prepare(path, model.card), options.top)
            print(json.dumps({"image" if model.card.takes_images else "file": str(path), **answer}), flush=True)
        except RunError as error:
            codes.append(error.exit_code)
            print_error(str(error) if str(path) in str(error) else f"{path}: {error}")
    return codes[0] if codes else 0


def open_predictor(path: Path, *, averaged: bool = False, best: bool = False, trust_code: bool = False) -> Trained:
    """Return a saved or an exported model.

    Raises:
        UserError: when ``path`` is no model of a run, see :func:`train.run.trained.open_model`.
    """
    device.configure("cpu" if path.suffix == ".mindir" else "auto")
    from models.mindir import CodeInside, load_mindir
    from train.checkpoint.card import parse_card
    from train.run.trained import Trained, open_trained

    if path.suffix == ".onnx":
        raise UserError(f"{path}: an ONNX model is for other programs, as onnxruntime; give the run, or a model.mindir")
    if path.suffix != ".mindir":
        return open_trained(path, averaged=averaged, best=best, trust_code=trust_code)
    if averaged or best:
        raise UserError(f"{path}: --ema and --best choose when a model is exported; an export holds one")
    described = path.with_suffix(".json")
    try:
        card = parse_card(read_file(described).decode(errors="replace"), described)
        graph = load_mindir(path, read_file(path), trust_code=trust_code)
    except OSError as error:
        message = f"{error.filename or path}: {error.strerror}; train.export writes both files"
        raise refused(error, message) from None
    except CodeInside as error:
        raise UserError(
            f"{path}: its operator {str(error)!r} runs code of whoever made the file; if you trust them, "
            "--trust-code runs it"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: not a readable MindIR file ({error})") from None

    def ask(inputs: Any) -> Any:
        try:
            return graph(*inputs) if isinstance(inputs, tuple) else graph(inputs)
        except (RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{path}: cannot be run ({' '.join(str(error).split())[:200]})") from None

    return Trained(card, ask)


def answer_of(model: Trained, inputs: list[np.ndarray], top: int) -> dict[str, Any]:
    """Return what the model makes of one example: the ``top`` classes, or its outputs by name."""
    outputs = model(*inputs)
    several = outputs if isinstance(outputs, tuple) else (outputs,)
    if model.card.gives == "classes":
        if len(several) > 1 or several[0].shape != (1, model.card.num_classes):
            shapes = ", ".join(str(list(output.shape)) for output in several)
            raise UserError(f"the model returns {shapes}, not the logits of {model.card.num_classes} classes")
        return {"top": most_probable(model.card, softmax(several[0][0]), top)}
    names = ["output"] if len(several) == 1 else [f"output {place}" for place in range(len(several))]
    return {"outputs": {name: output[0].tolist() for name, output in zip(names, several, strict=True)}}


def prepare(path: Path, card: ModelCard) -> list[np.ndarray]:
    """Return the inputs in a file, each with an axis of one example: an image, uint8 (1, channels, image_size,
    image_size), prepared as in the run's evaluation, or arrays as they are.

    Raises:
        UserError: when it cannot be read, or the model takes something else.
    """
    try:
        content = read_file(path)
    except OSError as error:
        raise refused(error, f"{path}: cannot be read: {error.strerror}") from None
    return [image_planes(content, path, card)] if card.takes_images else arrays_in(content, path, card)


def image_planes(content: bytes, path: Path, card: ModelCard) -> np.ndarray:
    from train.data.images import BadImage, Picture, open_image, to_planes

    if card.channels not in (1, 3):
        raise UserError(f"{path}: the model takes {card.channels} channels, an image file has 1 or 3")
    planes = np.empty((1, card.channels, card.image_size, card.image_size), np.uint8)
    try:
        view = card.view()
        (pixels,), _ = view.cut([Picture(open_image(content), view.rules)], [], card.channels)
        to_planes(pixels, planes[0])
    except BadImage as error:
        raise UserError(f"{path}: {error}") from None
    return planes


def arrays_in(content: bytes, path: Path, card: ModelCard) -> list[np.ndarray]:
    wanted = card.inputs
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(found, np.ndarray):
            arrays = [found]
        else:
            if sum(one.file_size for one in found.zip.infolist()) > MAX_FILE_BYTES:
                raise ValueError(f"it would unpack to more than {MAX_FILE_BYTES} bytes")
            arrays = [found[one.name or f"arr_{place}"] for place, one in enumerate(wanted)]
    except Exception as error:  # whatever zipfile and NumPy raise over bytes in memory, the bytes are to blame
        names = ", ".join(one.name or f"arr_{place}" for place, one in enumerate(wanted))
        raise UserError(f"{path}: no .npy file, or .npz with {names} ({' '.join(str(error).split())})") from None
    if len(arrays) != len(wanted):
        raise UserError(f"{path}: holds one array, and the model takes {len(wanted)}; give them as one .npz")
    return [one_example(array, one, path) for one, array in zip(wanted, arrays, strict=True)]


def one_example(array: np.ndarray, wanted: InputCard, path: Path) -> np.ndarray:
    """Return ``array`` with an axis of examples before the others; raises a :class:`UserError` if it is not wanted."""
    from train.data.example import Field

    if not Field(tuple(wanted.shape), wanted.dtype).fits(array):
        takes = f"{wanted.dtype} {str(wanted.shape).replace('None', 'any')}"
        raise UserError(f"{path}: {array.dtype} {list(array.shape)}; the model takes {takes}")
    return array[None]


def most_probable(card: ModelCard, probabilities: np.ndarray, count: int) -> list[dict[str, Any]]:
    best = np.argsort(-probabilities, kind="stable")[:count].tolist()
    names = card.class_names or [f"class {label}" for label in range(card.num_classes)]
    return [{"class": names[i], "label": i, "probability": round(float(probabilities[i]), 6)} for i in best]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of float (classes,), float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    return shifted / shifted.sum()


if __name__ == "__main__":
    sys.exit(main())
