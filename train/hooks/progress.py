"""How far the run is, on rank 0: one line that renews itself on a terminal, plain lines now and then elsewhere.

msrun writes its ranks' output to files, so a job of several ranks has plain lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

from train.hooks.base import Hook
from train.hooks.runstate import RunState, Scalars

SECONDS_BETWEEN_LINES = (5.0, 60.0)
LINES_OF_A_RUN = 100
"""About as many plain lines as a run gets, between one every 5 s and one a minute."""

SHARES = ("top1", "top5")
UNSAID = ("top5",)
"""Left out of the line of an evaluation in the middle of a run."""
SENTENCES: dict[str, dict[str, str]] = {
    "en": {
        "at": "t = {t} of {total}",
        "compiling": "{at}: compiling with the first update",
        "update": "{at}  {words}",
        "speed now": "{words}  {speed:.0f} examples/s",
        "left": "{line}  {time} left",
        "evaluation": "t = {t}: validation {figures}",
        "end": "validation {figures} of {examples} examples\n{seconds:.0f} s in all{speed}\neverything is in {run_dir}",
        "speed": ", {speed:.0f} examples/s while training (without compilation and evaluation)",
        "proved": "every update is {rule} on every rank: {report}",
        "not proved": "NOT every update is {rule}: {report}",
        "own rule": "its optimizer's own result",
    },
    "zh": {
        "at": "t = {t}（共 {total} 步）",
        "compiling": "{at}：首次更新，正在编译",
        "update": "{at}  {words}",
        "speed now": "{words}  {speed:.0f} 样本/s",
        "left": "{line}  剩余 {time}",
        "evaluation": "t = {t}：验证集 {figures}",
        "end": "验证集 {figures}（{examples} 个样本）\n总用时 {seconds:.0f} s{speed}\n全部结果在 {run_dir}",
        "speed": "，训练时 {speed:.0f} 样本/s（不含编译和评估）",
        "proved": "在每个 rank 上，每次更新都等于 {rule}：{report}",
        "not proved": "并非每次更新都等于 {rule}：{report}",
        "own rule": "其优化器的计算结果",
    },
}


class Progress(Hook):
    """Show the update t, its loss and lr[t], examples/s and the time left (evaluations so far counted in).

    Args:
        language: "en" or "zh".
    """

    def __init__(self, language: str = "en"):
        self._sentences = SENTENCES[language]

    def on_train_begin(self, run: RunState) -> None:
        self._bar: tqdm | None = None
        self._words = ""
        self._first = run.step
        self._started = self._shown = time.monotonic()
        if run.rank == 0 and run.step < run.total_steps:
            self._say(self._in_words("compiling", at=self._at(run)))

    def on_result(self, run: RunState) -> None:
        if run.rank != 0:
            return
        done = run.step + 1
        if run.step == self._first:
            self._started = time.monotonic()  # the first update says nothing about the time of the others
            if sys.stdout.isatty():
                self._bar = tqdm(total=run.total_steps, initial=done, unit="step", file=sys.stdout, dynamic_ncols=True)
        if "train/loss" in run.scalars:
            self._words = self._figures(run.scalars)
        if self._bar is not None:
            self._bar.set_postfix_str(f"t = {run.step}  {self._words}", refresh=False)
            self._bar.update(done - self._bar.n)
        elif done in (self._first + 1, run.total_steps) or self._line_is_due(done, run.total_steps):
            self._shown = time.monotonic()
            line = self._in_words("update", at=self._at(run), words=self._words)
            self._say(self._with_time_left(line, done, run.total_steps))

    def on_eval_end(self, run: RunState) -> None:
        if run.rank == 0:
            figures = {tag[4:]: value for tag, value in run.scalars.items() if tag.startswith("val/")}
            shown = {name: value for name, value in figures.items() if name not in UNSAID}
            self._say(self._in_words("evaluation", t=run.step, figures=figure_words(shown)))

    def on_train_end(self, run: RunState) -> None:
        if self._bar is not None:
            self._bar.close()

    def _line_is_due(self, done: int, total: int) -> bool:
        shortest, longest = SECONDS_BETWEEN_LINES
        expected = self._seconds_per_update(done) * (total - self._first)
        return time.monotonic() - self._shown >= min(max(expected / LINES_OF_A_RUN, shortest), longest)

    def _with_time_left(self, line: str, done: int, total: int) -> str:
        if done in (self._first + 1, total):
            return line
        time_left = tqdm.format_interval(self._seconds_per_update(done) * (total - done))
        return self._in_words("left", line=line, time=time_left)

    def _seconds_per_update(self, done: int) -> float:
        return (time.monotonic() - self._started) / max(done - self._first - 1, 1)

    def _figures(self, scalars: Scalars) -> str:
        words = f"loss {scalars['train/loss']:.4f}  lr {scalars['train/lr']:.4g}"
        speed = scalars.get("perf/examples_per_sec")
        return words if speed is None else self._in_words("speed now", words=words, speed=speed)

    def _at(self, run: RunState) -> str:
        return self._in_words("at", t=run.step, total=run.total_steps)

    def _in_words(self, name: str, **figures: object) -> str:
        return self._sentences[name].format(**figures)

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stdout)
        else:
            print(line, flush=True)


def figure_words(figures: Mapping[str, float]) -> str:
    """Say the figures of an evaluation, shares in percent and the loss last, but for the number of examples."""
    said = {name: value for name, value in figures.items() if name != "examples" and not name.startswith("ema_")}
    names = sorted(said, key=lambda name: name == "loss")
    return ", ".join(f"{name} {said[name]:{'.2%' if name in SHARES else '.4f'}}" for name in names)
