"""Faults drawn at random: ``python -m tests.faults.campaign --runs 300 --seed 1 [--out FOLDER]``.

Each run is a small real one of one rank, every third of two, and has a seed of its own, with which
``--runs 1 --seed N`` repeats it. Its first part meets one fault: at a system call drawn from those that the undisturbed
run makes on files of the run folder (``shim.c``), the process is killed, signalled, stopped, refused by the disk, or
loses its clock; or its folder is moved away while it stands still there; or, once it is killed, something in its folder
is replaced by a link or damaged. A second part goes on with ``resume=auto``. Afterwards:

- each part has ended well, by the signal it was sent, or with a documented exit code and one line, without a traceback;
- what ended well is the undisturbed run, bit for bit: weights, velocities, metrics, snapshots, points of TensorBoard;
- no process is left, and nothing outside of the run folder was written.

Processes are forked from one that has loaded MindSpore, which takes most of the time of so short a run.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.faults.runs import RECORDED, metrics, require_tensorboard
from tests.jobs import DIGITS, SMALL, environment, free_port
from train.runtime import device
from train.runtime.errors import EXIT_CODES

SHIM = Path(__file__).with_name("shim.c")
SETTINGS = [*SMALL, *RECORDED, "model.name=tests.faults.inject:Small", "model.options={}"]
SETTINGS += ["data.global_batch=32", "evaluate.every=6", "checkpoint.every=3", "watchdog.timeout=240"]
LAST = "checkpoints/step-00000012"
SECONDS = 600.0
"""After which a part hangs."""
KINDS = ("killed", "signalled", "stopped", "refused once", "refused", "clock", "linked", "moved", "damaged")
ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EINTR)
FOLDERS = [
    "comparison",
    "snapshots",
    "checkpoints",
    "heartbeats",
    "tensorboard",
    LAST,
    f"{LAST[:11]}/.partial-{LAST[12:]}",
]
FILES = [
    "heartbeats/00/rank-0",
    "snapshots/step-00000007.rank-0.npz",
    "snapshots/step-00000007.rank-0.npz.partial",
    "lock",
]
FILES += ["config.yaml.partial", "comparison/curve.png", "comparison/comparison.md", "metrics.jsonl", "schedule.npz"]
DAMAGE: dict[str, Callable[[Path, bytes, random.Random], object]] = {
    "flip": lambda path, old, rng: path.write_bytes(flipped(old, rng.randrange(8 * len(old) or 1))),
    "cut": lambda path, old, rng: path.write_bytes(old[: rng.randint(0, len(old))]),
    "remove": lambda path, old, rng: None,
    "pipe": lambda path, old, rng: os.mkfifo(path),
    "folder": lambda path, old, rng: path.mkdir(),
}
forked = multiprocessing.get_context("forkserver")


class Part(NamedTuple):
    """How a part ended: the exit code of the rank that failed first (below 0: the signal), and what all said."""

    code: int
    said: list[str]


class Run:
    """One run below ``root/runs``; beside it stands ``root/outside``, which no run may touch."""

    def __init__(self, root: Path, name: str, ranks: int, seed: int = 0):
        self.root, self.name, self.ranks = root, name, ranks
        self.path, self.outside = root / "runs" / name, root / "outside"
        self.rng = random.Random(seed)
        self.codes: list[int] = []
        self.problems: list[str] = []
        self.errors: list[str] = []
        self.words, self.excused, self.untouched = "", "", self.things_outside()

    # ---- one part

    def play(
        self, *settings: str, rank: int = 0, at_stop: Callable[[list[int]], object] | None = None, **shim: str
    ) -> Part:
        """Run one part with the variables ``SHIM_…`` for ``rank``; call ``at_stop`` when that process stands still."""
        task = ["--config", str(DIGITS), f"runs_dir={self.path.parent}", f"name={self.name}", *SETTINGS, *settings]
        cluster = {"MS_WORKER_NUM": "2", "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": str(free_port())}
        cluster |= {"MS_TOPO_TIMEOUT": "300", "MS_NODE_TIMEOUT": "120"}  # the machine may be busy
        roles = [{"MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(r), "RANK_ID": str(r)} | cluster for r in range(self.ranks)]
        roles = [*roles, {"MS_ROLE": "MS_SCHED"} | cluster] if self.ranks > 1 else [{}]
        logs = [self.root / "logs" / f"{self.name}.{len(self.codes)}.{number}" for number in range(len(roles))]
        faults = {f"SHIM_{key.upper()}": value for key, value in shim.items()} | {"SHIM_FOLDER": f"{self.path}/"}
        ranks = [
            forked.Process(target=be_a_rank, args=(task, role | (faults if number == rank else {}), log, self.outside))
            for number, (role, log) in enumerate(zip(roles, logs, strict=True))
        ]
        for process in ranks:
            process.start()
        self.codes.append(wait(ranks[: self.ranks], ranks[rank], at_stop))
        for process in ranks:
            process.kill()
            process.join()
        return Part(self.codes[-1], [log.read_text(errors="replace") for log in logs])

    # ---- a fault, and what became of the run

    def suffer(self, kind: str, rank: int, call: int) -> None:
        """Play both parts of a run that meets a fault of ``kind`` at system call number ``call`` of ``rank``."""
        rng, between, at_stop, do = self.rng, None, None, "signal:9"
        later: dict[str, str] = {}
        number = rng.choice(ERRORS[:3] if kind == "refused" else ERRORS)
        sent, seconds = rng.choice([signal.SIGTERM, signal.SIGINT]), rng.choice([60, 7200, 10**6])
        self.words, twice = "kill -9", rng.random() < 0.5
        if kind == "signalled":
            do, self.words = f"signal:{sent.value}", sent.name
        elif kind.startswith("refused"):
            do, self.words = f"{'errno' if 'once' in kind else 'lasts'}:{number}", errno.errorcode[number]
        elif kind == "clock":
            self.words = f"clock set back by {seconds} s{', after kill -9' if twice else ''}"
            do, later = (do, {"call": "0", "do": f"clock:{-seconds}"}) if twice else (f"clock:{-seconds}", {})
        elif kind in ("damaged", "linked"):
            between = self.damage if kind == "damaged" else self.link
        elif kind != "killed":
            do, self.words = f"signal:{signal.SIGSTOP.value}", "SIGSTOP"
            at_stop = at_rest(self.move_away) if kind == "moved" else lambda others: time.sleep(seconds % 7 + 0.1)
            between = self.move_back if kind == "moved" else None
        first = self.play(rank=rank, at_stop=at_stop, call=str(call), do=do)
        self.judge(first, do)
        if between:
            between()
        if first.code != 0 or between:
            self.judge(self.play("resume=auto", at_stop=None, **later), "")
        if self.codes[-1] != 0 and kind not in ("linked", "damaged"):
            self.problems.append(f"did not go on: exit code {self.codes[-1]}")
        if self.codes[-1] == 0:
            self.compare(self.path.with_name(f"whole-{self.ranks}"))
        if self.things_outside() != self.untouched:
            self.problems.append("something outside of the run folder was written")
        if left := [pid for pid in os.listdir("/proc") if pid.isdecimal() and self.owns(pid)]:
            self.problems.append(f"left behind: {left}")

    def judge(self, part: Part, did: str) -> None:
        lines = [line for said in part.said for line in said.splitlines()]
        errors = {line for line in lines if line.startswith("error: ")}
        self.errors += sorted(errors)
        asked = part.code == -signal.SIGTERM or did == f"signal:{-part.code}"  # or the other rank was, by wait()
        if any(line.startswith("Traceback") for line in lines):
            self.problems.append(f"a traceback, exit code {part.code}")
        elif part.code == 1 or (part.code not in EXIT_CODES and not asked):
            self.problems.append(f"exit code {part.code}")
        elif 2 <= part.code <= 7 and len(errors) != 1 and (self.ranks == 1 or not errors):
            self.problems.append(f"{len(errors)} lines for exit code {part.code}")

    def compare(self, whole: Path) -> None:
        """Note in what a run that ended well differs from the undisturbed one."""
        counted: dict[str, Callable[[Path], object]] = {"metrics.jsonl": lambda path: metrics(path.parent)}
        parts = ("model", "optimizer", *(f"ranks/00/rank-{rank}" for rank in range(self.ranks)))
        counted |= {f"{LAST}/{part}.safetensors": Path.read_bytes for part in parts}
        counted |= {f"snapshots/{path.name}": arrays for path in (whole / "snapshots").iterdir()}
        for name, content in counted.items():
            if not self.excuses(name) and content(self.path / name) != content(whole / name):
                self.problems.append(f"{name} differs")
        if not self.excuses("metrics.jsonl") and not self.excuses("tensorboard"):
            try:
                require_tensorboard(self.path)
            except (AssertionError, KeyError):
                self.problems.append("tensorboard differs")

    def excuses(self, name: str) -> bool:
        """Whether ``name``, or what it lies in or holds, was replaced by something else."""
        both = (name, self.excused)
        return bool(self.excused) and (Path(both[0]).is_relative_to(both[1]) or Path(both[1]).is_relative_to(both[0]))

    def owns(self, pid: str) -> bool:
        with contextlib.suppress(OSError):
            return f"SHIM_FOLDER={self.path}/".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        return False

    def things_outside(self) -> dict[str, str]:
        """Return what stands outside of run folders, with what is in it."""
        found = [path for path in self.outside.rglob("*")]
        found += [path for path in self.root.iterdir() if path.name not in ("runs", "logs", "trace", "results.jsonl")]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in found}

    # ---- what is done to its folder; what is open in it is a file of its own, so nothing is written to the copies

    def link(self) -> None:
        names = [name for name in FOLDERS + FILES if (self.path / name).parent.is_dir()]
        path = self.path / self.rng.choice(names)
        target = self.outside / f"{self.name}-{path.name}"
        if path.is_dir():
            shutil.copytree(path, target, symlinks=True)
            shutil.rmtree(path)
        elif path.exists():
            shutil.copy(path, target)
            path.unlink()
        elif path.name in map(os.path.basename, FOLDERS):
            target.mkdir()
        path.symlink_to(target)
        self.did("a link", path)

    def damage(self) -> None:
        if files := [path for path in sorted(self.path.rglob("*")) if path.is_file() and not path.is_symlink()]:
            path, way = self.rng.choice(files), self.rng.choice([*DAMAGE])
            content = path.read_bytes()
            path.unlink()
            DAMAGE[way](path, content, self.rng)
            self.did(way, path)

    def move_away(self) -> None:
        shutil.copytree(self.path, self.outside / self.name, symlinks=True)
        shutil.rmtree(self.path)
        self.words, self.untouched = "the folder is gone", self.things_outside()

    def move_back(self) -> None:
        if (self.outside / self.name).exists():  # else the run was over before
            if self.path.exists():
                self.problems.append(f"made a folder anew: {sorted(self.path.iterdir())}")
                shutil.rmtree(self.path)
            (self.outside / self.name).rename(self.path)
            self.untouched = self.things_outside()

    def did(self, words: str, path: Path) -> None:
        name = str(path.relative_to(self.path))
        self.words += f", {words}: {name}"
        self.untouched = self.things_outside()
        self.excused = "" if name.startswith("checkpoints") else name


def be_a_rank(arguments: list[str], variables: dict[str, str], log: Path, folder: Path) -> None:
    """What ``python -m train`` does, in ``folder``."""
    from train.__main__ import main

    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(variables)
    os.chdir(folder)
    code = main(arguments)
    atexit._run_exitfuncs()
    os._exit(code)


def wait(ranks: list[Any], damaged: Any, at_stop: Callable[[list[int]], object] | None) -> int:
    """Wait as the launcher does: when a rank fails, the others are asked to end, and 3 s later made to."""
    deadline, first = time.monotonic() + SECONDS, None
    while any(process.is_alive() for process in ranks):
        if first is None and (failed := [process.exitcode for process in ranks if process.exitcode]):
            first, deadline = failed[0], min(deadline, time.monotonic() + 3)
            for process in ranks:
                process.terminate()
        if at_stop and stands_still(damaged.pid):
            at_stop([process.pid for process in ranks if process is not damaged and process.is_alive()])
            os.kill(damaged.pid, signal.SIGCONT)
            at_stop = None
        if time.monotonic() > deadline:
            first = 999 if first is None else first
            for process in ranks:
                process.kill()
        time.sleep(0.02)
    return first if first is not None else next((process.exitcode for process in ranks if process.exitcode), 0)


def at_rest(deed: Callable[[], None]) -> Callable[[list[int]], None]:
    """Let ``deed`` be done while the other ranks stand still too: nothing they write meanwhile gets lost."""

    def do(others: list[int]) -> None:
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        while not all(stands_still(pid, "tTZ") for pid in others):  # or has ended
            time.sleep(0.01)
        deed()
        for pid in others:
            os.kill(pid, signal.SIGCONT)

    return do


def stands_still(pid: int, states: str = "tT") -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in states
    return False


def arrays(path: Path) -> dict[str, bytes]:
    with np.load(path) as found:
        return {key: found[key].tobytes() for key in found.files}


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content or b"\0")
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def play_all(runs: int, seed: int, root: Path) -> list[dict[str, Any]]:
    """Play ``runs`` runs with seeds from ``seed`` on; return what became of each. Bad ones stay in ``root``."""
    shim = root / "shim.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", shim, SHIM, "-ldl"], check=True)
    device.set_environment_defaults("cpu")
    os.environ |= {**environment(), "LD_PRELOAD": str(shim)}
    forked.set_forkserver_preload(["__main__", "mindspore", "train.run.job", "train.comparison.report"])
    for name in ("runs", "logs", "trace", "outside"):
        (root / name).mkdir(exist_ok=True)
    calls = {(ranks, rank): count_calls(root, ranks, rank) for ranks in (1, 2) for rank in range(ranks)}
    results = []
    for number in range(seed, seed + runs):
        run = Run(root, f"run-{number}", 2 if number % 3 == 0 else 1, number)
        kind, rank = run.rng.choice(KINDS), run.rng.randrange(run.ranks)
        call, began = run.rng.randint(1, calls[run.ranks, rank]), time.monotonic()
        run.suffer(kind, rank, call)
        result = {"seed": number, "ranks": run.ranks, "kind": kind, "fault": run.words, "call": call, "rank": rank}
        result |= {"codes": run.codes, "errors": run.errors, "problems": run.problems}
        result["seconds"] = round(time.monotonic() - began, 1)
        results.append(result)
        with open(root / "results.jsonl", "a") as file:
            file.write(json.dumps(result) + "\n")
        if not run.problems:
            shutil.rmtree(run.path)
    return results


def count_calls(root: Path, ranks: int, rank: int) -> int:
    """Make the undisturbed run of so many ranks, to which the others are compared; count the calls of one of them."""
    trace = root / "trace" / f"{ranks}-{rank}"
    if not trace.exists():
        shutil.rmtree(root / "runs" / f"whole-{ranks}", ignore_errors=True)
        part = Run(root, f"whole-{ranks}", ranks).play(rank=rank, trace=str(trace.with_suffix(".part")))
        assert part.code == 0, part.said
        trace.with_suffix(".part").rename(trace)
    return len(trace.read_text().splitlines())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, help="where runs that end badly stay, and results.jsonl (default: a new one)"
    )
    options = parser.parse_args()
    root = (options.out or Path(tempfile.mkdtemp(prefix="campaign-"))).resolve()
    root.mkdir(exist_ok=True)
    results = play_all(options.runs, options.seed, root)
    counts = Counter((one["kind"], one["ranks"], str(one["codes"])) for one in results)
    for (kind, ranks, codes), count in sorted(counts.items()):
        print(f"{count:4}  {kind:13} {ranks} rank(s)  exit codes {codes}")
    bad = [one for one in results if one["problems"]]
    print(*map(json.dumps, bad), f"{len(results)} runs, {len(bad)} bad; {root}", sep="\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
