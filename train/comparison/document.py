"""The worked example of the article on dynamic learning rates: its two updates, repeated by the real kernel.

The article (called the document) moves one 4×2 matrix once at t = 5 (warm-up) and once at t = 60 (decay) with the same
velocity and prints lr, ΔW = lr·v and W_new = W_start − ΔW to four decimals.

Command ``python -m train.comparison.document [--language zh]``: takes seconds, trains nothing and writes no file. Exit
code 0: every printed number is reproduced to one unit of its last digit. 7: one is not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedules import get_lr
from train.comparison.markdown import document_tables
from train.comparison.table import table
from train.comparison.words import LANGUAGES, Language, Words
from train.runtime import device
from train.runtime.errors import EXIT_COMPARISON, OneLineParser, run_command

SCRIPT: dict[str, Any] = {"lr_init": 0.01, "lr_max": 0.1, "lr_end": 0.001, "warmup_steps": 10, "total_steps": 100}
"""The arguments of ``schedules.get_lr`` that give the document's two learning rates."""

W_START = np.array([[10, 2], [10, 1], [-8, 9], [1, 10]], np.float32)
VELOCITY = np.array([[-0.36, 0.32], [-0.46, 0.125], [-0.02, 0.635], [-0.395, 0.43]], np.float32)

PRINTED: dict[int, dict[str, Any]] = {
    5: {
        "lr": 0.055,
        "delta_W": [[-0.0198, 0.0176], [-0.0253, 0.0069], [-0.0011, 0.0350], [-0.0217, 0.0237]],
        "W_new": [[10.0198, 1.9824], [10.0253, 0.9931], [-7.9989, 8.9650], [1.0217, 9.9763]],
    },
    60: {
        "lr": 0.0419,
        "delta_W": [[-0.0151, 0.0134], [-0.0193, 0.0052], [-0.0008, 0.0266], [-0.0166, 0.0180]],
        "W_new": [[10.0151, 1.9866], [10.0193, 0.9948], [-7.9992, 8.9734], [1.0166, 9.9820]],
    },
}
"""What the document prints, by step: lr, and the 4×2 matrices ΔW and W_new."""

TOLERANCE = 1e-4
"""One unit of the last printed decimal: the largest difference allowed."""

# A value printed to four decimals is at most half a unit away from the exact one; the rest is float32 at 10.
_CORRECTLY_ROUNDED = 0.5 * TOLERANCE + 2e-6


def uses_document_script(lr: NDArray[np.float32]) -> bool:
    """Whether the schedule ``lr``, float32 (total_steps,), is the document's, bit for bit."""
    return np.array_equal(lr, get_lr(**SCRIPT))


def document_example(lr: NDArray[np.float32]) -> dict[str, Any]:
    """The document's example with the learning rates of ``lr``, a float32 schedule.

    Plain values, as comparison.json has them; ``{"applies": False}`` where ``lr`` is not the document's script.
    """
    if not uses_document_script(lr):
        return {"applies": False}
    updated = update_at(PRINTED, W_START, VELOCITY, lr)
    steps, differences = [], [0.0]
    for step, printed in PRINTED.items():
        W_new = updated[step].astype(np.float64)
        measured = {"delta_W": W_START - W_new, "W_new": W_new}
        entry: dict[str, Any] = {"step": step, "lr": float(lr[step]), "printed_lr": printed["lr"]}
        differences.append(abs(entry["lr"] - entry["printed_lr"]))
        for matrix, values in measured.items():
            difference = np.abs(values - np.array(printed[matrix]))
            differences.append(float(difference.max()))
            slips = np.argwhere(difference > _CORRECTLY_ROUNDED).tolist()
            entry[matrix] = {"measured": values.tolist(), "printed": printed[matrix], "slips": slips}
        steps.append(entry)
    return {
        "applies": True,
        "tolerance": TOLERANCE,
        "steps": steps,
        "max_difference": max(differences),
        "holds": max(differences) <= TOLERANCE,
    }


FloatArray = NDArray[np.float32]


def update_at(steps: Iterable[int], W_start: FloatArray, v: FloatArray, lr: FloatArray) -> dict[int, FloatArray]:
    """W_new for each of ``steps``, every one of them from the same ``W_start`` and velocity ``v``.

    ``W_start`` and ``v`` are float32 of one shape, ``lr`` is the whole schedule, float32 (total_steps,); the
    optimizer itself takes ``lr[t]`` out of it by its ``global_step``, as in training. With zero moments the
    velocity v_t = momentum·0 + g is the gradient, whatever the momentum: the kernel gets ``v`` as its gradient.

    Device and mode are left as they are set, and nothing here communicates: it can run on one rank of a job.
    """
    import mindspore as ms

    from train.step.update_rules import Momentum

    parameter = ms.Parameter(ms.Tensor(W_start), name="W")
    optimizer = Momentum([parameter], learning_rate=ms.Tensor(lr), momentum=0.9)
    zeros = np.zeros_like(W_start)
    updated = {}
    for step in steps:
        parameter.set_data(ms.Tensor(W_start))
        optimizer.moments[0].set_data(ms.Tensor(zeros))
        optimizer.global_step.set_data(ms.Tensor([step], ms.int32))
        optimizer((ms.Tensor(v),))
        updated[step] = parameter.asnumpy().copy()
    return updated


EARLY = range(6)
"""The updates of the warm-up that the command sets against t = 60; up to t = 3 their step is the shorter one."""

ARTICLE = "解析：“动态学习率”对矩阵更新的影响模拟"


def render(language: Language = "en") -> tuple[str, bool]:
    """The example as Markdown, and whether every printed number is reproduced. Device and mode must be set."""
    say = Words(language, "v")
    lr = get_lr(**SCRIPT)
    example = document_example(lr)
    summary, lines = [], []
    for entry in example["steps"]:
        t = entry["step"]
        same_lr = abs(entry["lr"] - entry["printed_lr"]) <= _CORRECTLY_ROUNDED
        first = f"{entry['delta_W']['measured'][0][0]:.4f}"
        summary.append([say(f"article_{t}"), f"{entry['lr']:.3g}", first, say(f"article_means_{t}")])
        lines.append([f"lr_{t}", str(entry["printed_lr"]), f"{entry['lr']:.6f}", say.yes(same_lr)])
        for matrix, sign in (("delta_W", "ΔW"), ("W_new", "W")):
            same = say("article_numbers_of", same=8 - len(entry[matrix]["slips"]))
            lines.append([f"{sign}_{t}", say("article_numbers"), say("article_numbers"), same])
    late = abs(W_START - update_at([60], W_START, VELOCITY, lr)[60])[0, 0]
    steps = {t: float((W_START - W_new)[0, 0]) for t, W_new in update_at(EARLY, W_START, VELOCITY, lr).items()}
    early = [[t, f"{lr[t]:.3f}", f"{value:.4f}", say.yes(abs(value) > late)] for t, value in steps.items()]
    last = max(t for t, value in steps.items() if abs(value) <= late)
    parts = [
        f"# {say('article_title', article=ARTICLE)}",
        say("article_schedule", **SCRIPT),
        table(say.columns("article_columns"), summary),
        f"## {say('article_lines')}",
        table(say.columns("article_line_columns"), lines),
        *document_tables(example, say),
        f"## {say('article_early')}",
        table(say.columns("article_early_columns"), early),
        say("article_early_note", last=last, next=last + 1, first_lr=f"{lr[0]:.2f}", last_lr=f"{lr[last]:.3f}"),
    ]
    return "\n\n".join(parts), example["holds"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = OneLineParser(
        prog="python -m train.comparison.document",
        description="Repeats the article's 4×2 example with MindSpore's Momentum kernel, in seconds, without training.",
    )
    parser.add_argument("--language", choices=LANGUAGES, default="en", help="English or Chinese (default: en)")
    options = parser.parse_args(arguments)

    def command() -> int:
        device.configure()
        text, holds = render(options.language)
        print(text)
        return 0 if holds else EXIT_COMPARISON

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
