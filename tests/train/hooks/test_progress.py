"""What a run says while it goes on, and at its end."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from schedules import Schedule
from tests.jobs import RECORDED, alone, environment, train_task
from train.hooks.progress import SENTENCES


def test_plain_lines_and_a_closing_summary(tmp_path: Path) -> None:
    lines = alone(train_task(tmp_path, "trial", "evaluate.every=50%"), tmp_path).check().logs[0].splitlines()
    said = [re.sub(r"\d+\.\d+|\d+ s |\d+ examples/s", "#", line) for line in lines]
    assert said[0] == "t = 0 of 12: compiling with the first update"
    assert said[1] == "t = 0 of 12  loss #  lr #"
    assert "t = 6: validation top1 #%, loss #" in said
    summary = ["validation top1 #%, top5 #%, loss # of 360 examples"]
    summary += ["#in all, # while training (without compilation and evaluation)"]
    summary += [f"everything is in {tmp_path / 'trial'}"]
    start = said.index(summary[0])
    lr = Schedule.load(tmp_path / "trial" / "schedule.npz").lr
    told = re.findall(r"t = (\d+) of 12  loss \S+  lr (\S+)", "\n".join(lines))
    assert told[0][0] == "0" and told[-1][0] == "11"
    assert [rate for _, rate in told] == [f"{lr[int(t)]:.4g}" for t, _ in told], "the rate of update t is lr[t]"
    assert said[start : start + 3] == summary
    assert said[start - 1] == "t = 12: validation top1 #%, loss #"
    assert said[start - 2].startswith("t = 11 of 12  loss #  lr #  #")


def test_the_lines_follow_the_language(tmp_path: Path) -> None:
    lines = alone(train_task(tmp_path, "trial", *RECORDED, "log.language=zh"), tmp_path).check().logs[0].splitlines()
    assert lines[0] == "t = 0（共 12 步）：首次更新，正在编译"
    assert lines[1].startswith("t = 0（共 12 步）  loss ")
    assert any(line.startswith("t = 12：验证集 top1 ") for line in lines)
    assert lines[-1].startswith("在每个 rank 上，每次更新都等于 W_start − lr·v：")
    assert f"全部结果在 {tmp_path / 'trial'}" in lines
    for words in SENTENCES.values():
        assert words.keys() == SENTENCES["en"].keys()


def test_one_line_on_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
    task = [sys.executable, *map(str, train_task(tmp_path, "trial", "evaluate.every=6"))]
    with subprocess.Popen(task, env=environment(), cwd=tmp_path, stdout=theirs, stderr=theirs) as job:
        os.close(theirs)
        shown = read_all(ours)
    assert job.returncode == 0
    bar = [part for part in shown.split("\r") if "step/s" in part or "s/step" in part]
    assert len(bar) > 1 and re.search(r"12/12 .*t = 11  loss .*lr", bar[-1])
    assert not re.search(r"^t = \d+ of 12  loss", shown, flags=re.M), "plain lines belong elsewhere"
    assert "t = 6: validation top1" in shown


def read_all(terminal: int) -> str:
    parts = []
    try:
        while part := os.read(terminal, 65536):
            parts.append(part)
    except OSError:  # how Linux says that the other side is closed
        pass
    return b"".join(parts).decode()


@pytest.mark.parametrize("word", ["log.ranks_every", "examples:", "exit codes:", "  130 ", "train.compare_runs"])
def test_help(word: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "train", "--help"], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and word in done.stdout
