"""How far the run is, on rank 0: one line that renews itself on a terminal, plain lines now and then elsewhere.

msrun writes its ranks' output to files, so a job of several ranks has plain lines.
"""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from train.hooks.base import Hook, RunState

SECONDS_BETWEEN_LINES = (5.0, 60.0)
LINES_OF_A_RUN = 100
"""About as many plain lines as a run gets, between one every 5 s and one a minute."""


class Progress(Hook):
    """Show the update, loss, learning rate, images/s and the time left (evaluations so far counted in)."""

    def on_train_begin(self, run: RunState) -> None:
        self._bar: tqdm | None = None
        self._words = ""
        self._first = run.step
        self._started = self._shown = time.monotonic()
        if run.rank == 0 and run.step < run.total_steps:
            self._say(f"step {run.step}/{run.total_steps}: compiling with the first update")

    def on_train_step_end(self, run: RunState) -> None:
        if run.rank != 0 or run.step != self._first:
            return
        self._started = time.monotonic()  # the first update says nothing about the time of the others
        if sys.stdout.isatty():
            self._bar = tqdm(total=run.total_steps, initial=run.step, unit="step", file=sys.stdout, dynamic_ncols=True)

    def on_scalars(self, run: RunState) -> None:
        if run.rank != 0:
            return
        if "val/top1" in run.scalars:
            self._say(
                f"step {run.step}: held-out top1 {run.scalars['val/top1']:.2%}, loss {run.scalars['val/loss']:.4f}"
            )
        if "train/loss" in run.scalars:
            self._words = f"loss {run.scalars['train/loss']:.4f}  lr {run.scalars['train/lr']:.4g}"
            if "perf/images_per_sec" in run.scalars:
                self._words += f"  {run.scalars['perf/images_per_sec']:.0f} images/s"

    def on_state_complete(self, run: RunState) -> None:
        if run.rank != 0 or run.step == self._first:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(self._words, refresh=False)
            self._bar.update(run.step - self._bar.n)
        elif run.step in (self._first + 1, run.total_steps) or self._line_is_due(run):
            self._shown = time.monotonic()
            self._say(f"step {run.step}/{run.total_steps}  {self._words}{self._time_left(run)}")

    def on_train_end(self, run: RunState) -> None:
        if self._bar is not None:
            self._bar.close()

    def _line_is_due(self, run: RunState) -> bool:
        now = time.monotonic()
        shortest, longest = SECONDS_BETWEEN_LINES
        whole_run = (now - self._started) * (run.total_steps - self._first) / (run.step - self._first)
        return now - self._shown >= min(max(whole_run / LINES_OF_A_RUN, shortest), longest)

    def _time_left(self, run: RunState) -> str:
        timed = run.step - self._first - 1
        if not timed or run.step == run.total_steps:
            return ""
        seconds = (time.monotonic() - self._started) / timed * (run.total_steps - run.step)
        return f"  {tqdm.format_interval(seconds)} left"

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stdout)
        else:
            print(line, flush=True)
