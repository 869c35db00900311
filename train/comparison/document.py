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
    from mindspore import nn

    parameter = ms.Parameter(ms.Tensor(W_start), name="W")
    optimizer = nn.Momentum([parameter], learning_rate=ms.Tensor(lr), momentum=0.9)
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

SENTENCES: dict[str, tuple[str, str]] = {
    "title": (
        "# The 4×2 example of the article 解析：“动态学习率”对矩阵更新的影响模拟, through `nn.Momentum`",
        "# 解析：“动态学习率”对矩阵更新的影响模拟（文中的 4×2 示例，由 `nn.Momentum` 内核重算）",
    ),
    "schedule": (
        "The article does not print its schedule. These settings give both of its learning rates: linear warm-up from "
        "{lr_init} to {lr_max} in {warmup_steps} updates, then cosine decay to {lr_end} at {total_steps}; t starts at "
        "0. ΔW = lr·v is subtracted, so a negative element of ΔW makes the weight larger.",
        "文章没有给出“剧本”的参数；下面的参数能得到文中的两个学习率：前 {warmup_steps} 步从 {lr_init} 线性预热到 "
        "{lr_max}，再余弦衰减到 {lr_end}，共 {total_steps} 步，t 从 0 开始计数。更新时减去 ΔW = lr·v，因此 ΔW 的元素"
        "为负时，权重变大。",
    ),
    "columns": ("phase|lr|first element of ΔW|what it means", "训练阶段|学习率 lr|ΔW 的首个元素|物理意义"),
    "5": ("early, warm-up (t = 5)", "初期，预热（t = 5）"),
    "60": ("late, decay (t = 60)", "中后期，衰减（t = 60）"),
    "means_5": ("larger steps explore the loss surface", "步伐较大：快速探索损失函数的全局地貌"),
    "means_60": ("smaller steps search the valley floor", "步伐较小：在“谷底”精细搜索"),
    "lines": ("## Which lines are reproduced", "## 文中哪些内容得到重现"),
    "line_columns": ("the article|printed|measured|to the last digit", "文章内容|文中数值|实测|与所印末位一致"),
    "yes": ("yes", "是"),
    "numbers": ("8 numbers", "8 个数"),
    "of": ("{same} of 8", "8 个中 {same} 个"),
    "early": (
        "## Where “early steps are larger” fails",
        "## “初期步伐较大”在何处不成立",
    ),
    "early_columns": (
        "t|lr|first element of ΔW|larger step than at t = 60",
        "t|学习率 lr|ΔW 的首个元素|步伐大于 t = 60",
    ),
    "fails": ("**no**", "**否**"),
    "early_note": (
        "The warm-up starts below the rate of t = 60: for t ≤ {last} (lr {first_lr} to {last_lr}) the early step is "
        "the smaller one. In the warm-up the article's comparison holds from t = {next} on.",
        "预热起点的学习率低于 t = 60 时的学习率：t ≤ {last}（lr 为 {first_lr} 至 {last_lr}）时，初期的步伐反而较小；"
        "预热阶段从 t = {next} 起，文中的比较才成立。",
    ),
}
"""By name: (English, Chinese). A row of columns is separated by ``|``."""


def render(language: Language = "en") -> tuple[str, bool]:
    """The example as Markdown, and whether every printed number is reproduced. Device and mode must be set."""

    def say(name: str, **figures: object) -> str:
        return SENTENCES[name][LANGUAGES.index(language)].format(**figures)

    lr = get_lr(**SCRIPT)
    example = document_example(lr)
    summary, lines = [], []
    for entry in example["steps"]:
        t = entry["step"]
        same_lr = abs(entry["lr"] - entry["printed_lr"]) <= _CORRECTLY_ROUNDED
        first = f"{entry['delta_W']['measured'][0][0]:.4f}"
        summary.append([say(str(t)), f"{entry['lr']:.3g}", first, say(f"means_{t}")])
        lines.append([f"lr_{t}", str(entry["printed_lr"]), f"{entry['lr']:.6f}", say("yes" if same_lr else "fails")])
        for matrix, sign in (("delta_W", "ΔW"), ("W_new", "W")):
            same = 8 - len(entry[matrix]["slips"])
            lines.append([f"{sign}_{t}", say("numbers"), say("numbers"), say("of", same=same)])
    late = abs(W_START - update_at([60], W_START, VELOCITY, lr)[60])[0, 0]
    early, shorter = [], []
    for t, W_new in update_at(EARLY, W_START, VELOCITY, lr).items():
        first_element = (W_START - W_new)[0, 0]
        if abs(first_element) <= late:
            shorter.append(t)
        early.append([t, f"{lr[t]:.3f}", f"{first_element:.4f}", say("fails" if t in shorter else "yes")])
    last = shorter[-1]
    parts = [
        say("title"),
        say("schedule", **SCRIPT),
        table(say("columns").split("|"), summary),
        say("lines"),
        table(say("line_columns").split("|"), lines),
        *document_tables(example, Words(language, "v")),
        say("early"),
        table(say("early_columns").split("|"), early),
        say("early_note", last=last, next=last + 1, first_lr=f"{lr[0]:.2f}", last_lr=f"{lr[last]:.3f}"),
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
