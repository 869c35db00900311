"""Faults drawn at random: ``python -m tests.faults.campaign --runs 300 --seed 1 [--out FOLDER]``.

Each run is a small real one of one rank, every third of two, and has a seed of its own, with which
``--runs 1 --seed N`` repeats it. Its first part meets one fault: at a system call drawn from those that the undisturbed
run makes on files of the run folder (``shim.c``), the process is killed, signalled, stopped, refused by the disk, or
loses its clock; or while it stands still there, something in its folder is replaced by a link, moved or damaged. A
second part goes on with ``resume=auto``. Afterwards:

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.faults.runs import metrics, require_tensorboard
from tests.jobs import DIGITS, SMALL, environment, free_port
from train import device
from train.errors import EXIT_CODES

SHIM = Path(__file__).with_name("shim.c")
SETTINGS = [
    *SMALL,
    "model.name=tests.faults.inject:Small",
    "model.options={}",
    "snapshots.layers=[fc.weight]",
    "data.eval_batch=64",
    "data.global_batch=32",
    "evaluate.every=6",
]
SETTINGS += ["checkpoint.every=3", "watchdog.timeout=60"]
LAST = "checkpoints/step-00000012"
PATIENCE = 240.0
"""Seconds after which a part hangs."""
ERRORS = [errno.EIO, errno.ENOSPC, errno.EINTR, errno.EROFS]

forked = multiprocessing.get_context("forkserver")


class Part(NamedTuple):
    """How a part ended: the exit code of the rank that failed first (below 0: the signal), and what all said."""

    code: int
    said: list[str]


def rank_main(arguments: list[str], variables: dict[str, str], log: Path) -> None:
    """Be one rank, as ``python -m train`` is."""
    from train.__main__ import main

    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(variables)
    os.chdir(log.parent / "outside")
    code = main(arguments)
    atexit._run_exitfuncs()
    os._exit(code)


class Room:
    """A folder with runs, and beside them what no run may touch."""

    def __init__(self, root: Path):
        self.root, self.runs = root, root / "runs"
        self.outside = root / "outside"
        self.runs.mkdir(exist_ok=True)
        self.outside.mkdir(exist_ok=True)
        (self.outside / "own").write_text("not the run's")

    def play(self, name: str, ranks: int, *settings: str, rank: int = 0, at_stop: Any = None, **shim: str) -> Part:
        """Run one part, with the variables ``SHIM_…`` for ``rank``; call ``at_stop`` when that process stands still."""
        task = ["--config", str(DIGITS), f"runs_dir={self.runs}", f"name={name}", *SETTINGS, *settings]
        cluster = {"MS_WORKER_NUM": "2", "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": str(free_port())}
        cluster |= {"MS_TOPO_TIMEOUT": "60", "MS_NODE_TIMEOUT": "30"}
        roles = [{"MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(r), "RANK_ID": str(r)} | cluster for r in range(ranks)]
        roles = [*roles, {"MS_ROLE": "MS_SCHED"} | cluster] if ranks > 1 else [{}]
        faults = {f"SHIM_{key.upper()}": value for key, value in shim.items()} | {"SHIM_FOLDER": f"{self.runs / name}/"}
        logs = [self.root / f"{name}.{number}.log" for number in range(len(roles))]
        processes = [
            forked.Process(target=rank_main, args=(task, role | (faults if number == rank else {}), log))
            for number, (role, log) in enumerate(zip(roles, logs, strict=True))
        ]
        for process in processes:
            process.start()
        code = self._wait(processes, ranks, processes[rank].pid if at_stop else None, at_stop)
        return Part(code, [log.read_text(errors="replace") for log in logs])

    def _wait(self, processes: list[Any], ranks: int, stops: int | None, at_stop: Any) -> int:
        """Wait as the launcher does: when a rank fails, the others are asked to end, and 3 s later made to."""
        deadline, first = time.monotonic() + PATIENCE, None
        while any(process.is_alive() for process in processes[:ranks]):
            failed = [process.exitcode for process in processes[:ranks] if process.exitcode]
            if failed and first is None:
                first, deadline = failed[0], min(deadline, time.monotonic() + 3)
                for process in processes[:ranks]:
                    process.terminate()
            if stops is not None and _stands_still(stops):
                at_stop()
                os.kill(stops, signal.SIGCONT)
                stops = None
            if time.monotonic() > deadline:
                first = first if first is not None else 999
                for process in processes:
                    process.kill()
            time.sleep(0.02)
        codes = [process.exitcode for process in processes[:ranks]]
        for process in processes:
            process.kill()
            process.join()
        return first if first is not None else next((code for code in codes if code), 0)

    def things_outside(self) -> dict[str, str]:
        """Return what stands outside of run folders, with what is in it."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            inside = path.relative_to(self.root)
            if inside.parts[0] != "runs" and path.suffix != ".log" and inside.parts[0] != "trace":
                found[str(inside)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        return found


def _stands_still(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "tT"
    except OSError:
        return False


class Fault(NamedTuple):
    """What is done to a run."""

    words: str
    rank: int
    shim: dict[str, str]
    """Of the first part."""
    at_stop: Callable[[], None] | None = None
    between: Callable[[], None] | None = None
    later: dict[str, str] | None = None
    """The shim's variables of the second part."""
    excused: tuple[str, ...] = ()
    """Files and folders of the run that may then differ from those of an undisturbed one."""


class Drawn:
    """One run: its fault and, once played, what is wrong with how it ended."""

    def __init__(self, room: Room, seed: int, calls: dict[int, list[int]]):
        self.room, self.seed, self.rng = room, seed, random.Random(seed)
        self.ranks = 2 if seed % 3 == 0 else 1
        self.name = f"run-{seed}"
        self.run_dir = room.runs / self.name
        self.whole = room.runs / f"whole-{self.ranks}"
        self.codes: list[int] = []
        self.excused: tuple[str, ...] = ()
        self.unwritten: dict[str, str] = {}
        rank = self.rng.randrange(self.ranks)
        self.call = str(self.rng.randint(1, calls[self.ranks][rank]))
        self.kind = self.rng.choice([*KINDS])
        self.fault = KINDS[self.kind](self, rank)

    def play(self) -> list[str]:
        """Return what is wrong."""
        self.unwritten = self.room.things_outside()
        first = self._play(self.fault.rank, self.fault.at_stop, **self.fault.shim)
        problems = self._judge(first, "first part", self.fault.shim["do"])
        if self.kind == "moved" and self.run_dir.exists() and any(self.run_dir.iterdir()):
            problems.append(f"wrote into a folder that is not its own: {sorted(self.run_dir.iterdir())}")
        if self.fault.between:
            self.fault.between()
        if first.code != 0 or self.fault.between:
            second = self._play(0, None, "resume=auto", **(self.fault.later or {}))
            problems += self._judge(second, "second part", "")
        if self.codes[-1] == 0:
            problems += self._differences()
        if self.room.things_outside() != self.unwritten:
            problems.append("something outside of the run folder was written")
        if left := [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if self._is_ours(pid)]:
            problems.append(f"left behind: {left}")
        return problems

    def _play(self, rank: int, at_stop: Callable[[], None] | None, *settings: str, **shim: str) -> Part:
        part = self.room.play(self.name, self.ranks, *settings, rank=rank, at_stop=at_stop, **shim)
        self.codes.append(part.code)
        return part

    def _judge(self, part: Part, which: str, did: str) -> Iterator[str] | list[str]:
        lines = [line for said in part.said for line in said.splitlines()]
        errors = [line for line in lines if line.startswith("error: ")]
        if any(line.startswith("Traceback") for line in lines):
            return [f"{which}: a traceback"]
        if part.code < 0 and did != f"signal:{-part.code}" and part.code != -signal.SIGTERM:
            return [f"{which}: killed by {-part.code}"]
        if part.code > 0 and part.code not in EXIT_CODES:
            return [f"{which}: exit code {part.code}"]
        if part.code in range(2, 8) and len(set(errors)) != 1 and self.ranks == 1:
            return [f"{which}: {len(errors)} lines for exit code {part.code}"]
        return []

    def _differences(self) -> list[str]:
        """Return in what a run that ended well differs from the undisturbed one."""
        found = []
        for name in (f"{LAST}/{part}.safetensors" for part in ("model", "optimizer", "ranks")):
            if not self._excuses(name) and (self.run_dir / name).read_bytes() != (self.whole / name).read_bytes():
                found.append(f"{name} differs")
        if not self._excuses("metrics.jsonl") and metrics(self.run_dir) != metrics(self.whole):
            found.append("metrics.jsonl differs")
        if not self._excuses("metrics.jsonl") and not self._excuses("tensorboard"):
            try:
                require_tensorboard(self.run_dir)
            except (AssertionError, KeyError):
                found.append("tensorboard differs")
        for path in sorted((self.whole / "snapshots").iterdir()):
            name = f"snapshots/{path.name}"
            if not self._excuses(name) and not _equal_arrays(self.run_dir / name, path):
                found.append(f"{name} differs")
        return found

    def _excuses(self, name: str) -> bool:
        return any(Path(name).is_relative_to(one) or Path(one).is_relative_to(name) for one in self.excused)

    def _is_ours(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            return f"SHIM_FOLDER={self.run_dir}/".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        return False

    # ---- what is done

    def killed(self, rank: int) -> Fault:
        return Fault("kill -9", rank, {"call": self.call, "do": "signal:9"})

    def signalled(self, rank: int) -> Fault:
        number = self.rng.choice([signal.SIGTERM, signal.SIGINT])
        return Fault(number.name, rank, {"call": self.call, "do": f"signal:{number.value}"})

    def stopped(self, rank: int) -> Fault:
        pause = self.rng.uniform(0.1, 3)
        return Fault(f"SIGSTOP for {pause:.1f} s", rank, self._stop(), lambda: time.sleep(pause))

    def refused_once(self, rank: int) -> Fault:
        number = self.rng.choice(ERRORS)
        return Fault(f"{errno.errorcode[number]} once", rank, {"call": self.call, "do": f"errno:{number}"})

    def refused(self, rank: int) -> Fault:
        number = self.rng.choice([number for number in ERRORS if number != errno.EINTR])
        return Fault(f"{errno.errorcode[number]} from then on", rank, {"call": self.call, "do": f"lasts:{number}"})

    def clock(self, rank: int) -> Fault:
        seconds = -self.rng.choice([60, 7200, 10**6])
        if self.rng.random() < 0.5:
            return Fault(f"clock {seconds} s", rank, {"call": self.call, "do": f"clock:{seconds}"})
        later = {"call": "0", "do": f"clock:{seconds}"}
        return Fault(f"kill -9, clock {seconds} s", rank, {"call": self.call, "do": "signal:9"}, later=later)

    def linked(self, rank: int) -> Fault:
        def link() -> None:
            known = ["comparison", "snapshots", "checkpoints", "heartbeats", "heartbeats/rank-0", f"{LAST}", "lock"]
            known += [
                "snapshots/step-00000007.rank-0.npz",
                "checkpoints/.partial-step-00000012",
                "comparison/curve.png",
            ]
            known += ["snapshots/step-00000007.rank-0.npz.partial", "config.yaml.partial", "comparison/comparison.md"]
            known += ["metrics.jsonl", "tensorboard", "schedule.npz"]
            path = self.run_dir / self.rng.choice([name for name in known if (self.run_dir / name).parent.is_dir()])
            target = self.room.outside / f"{self.name}-{path.name}"
            if path.is_dir():
                shutil.copytree(path, target, symlinks=True)
                shutil.rmtree(path)
            elif path.exists():
                shutil.copy(path, target)
                path.unlink()
            elif not path.suffix:
                target.mkdir()
            path.symlink_to(target)
            self._did(f"link {path.relative_to(self.run_dir)}", path)

        return Fault("a link", rank, self._stop(), link)

    def moved(self, rank: int) -> Fault:
        aside = self.room.outside / self.name
        replaced = self.rng.random() < 0.5

        def move() -> None:
            shutil.copytree(self.run_dir, aside, symlinks=True)  # what is open is written to the folder that is removed
            shutil.rmtree(self.run_dir)
            if replaced:
                self.run_dir.mkdir()
            self.unwritten = self.room.things_outside()

        def move_back() -> None:
            if aside.exists():  # else the run was over before
                shutil.rmtree(self.run_dir, ignore_errors=True)
                aside.rename(self.run_dir)
                self.unwritten = self.room.things_outside()

        words = "the folder is another" if replaced else "the folder is gone"
        return Fault(words, rank, self._stop(), move, move_back)

    def damaged(self, rank: int) -> Fault:
        def damage() -> None:
            files = [path for path in sorted(self.run_dir.rglob("*")) if path.is_file() and not path.is_symlink()]
            if not files:
                return
            path, way = self.rng.choice(files), self.rng.choice(["flip", "cut", "empty", "remove", "pipe", "folder"])
            content = bytearray(path.read_bytes())
            path.unlink()
            if way == "flip" and content:
                content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
            elif way == "cut":
                del content[self.rng.randint(0, len(content)) :]
            if way in ("flip", "cut", "empty"):
                path.write_bytes(content if way != "empty" else b"")
            elif way == "pipe":
                os.mkfifo(path)
            elif way == "folder":
                path.mkdir()
            self._did(f"{way} {path.relative_to(self.run_dir)}", path)

        return Fault("kill -9, damage", rank, {"call": self.call, "do": "signal:9"}, between=damage)

    def _stop(self) -> dict[str, str]:
        return {"call": self.call, "do": f"signal:{signal.SIGSTOP.value}"}

    def _did(self, words: str, path: Path) -> None:
        self.fault = self.fault._replace(words=f"{self.fault.words}: {words}")
        self.unwritten = self.room.things_outside()
        if not str(path.relative_to(self.run_dir)).startswith("checkpoints"):
            self.excused = (str(path.relative_to(self.run_dir)),)


KINDS: dict[str, Callable[[Drawn, int], Fault]] = {
    name: getattr(Drawn, name)
    for name in ("killed", "signalled", "stopped", "refused_once", "refused", "clock", "linked", "moved", "damaged")
}


def _equal_arrays(mine: Path, theirs: Path) -> bool:
    with np.load(mine) as found, np.load(theirs) as expected:
        return found.files == expected.files and all((found[key] == expected[key]).all() for key in found.files)


def play_all(runs: int, seed: int, out: Path) -> list[dict[str, Any]]:
    """Play ``runs`` runs with seeds from ``seed`` on, in the new folder ``out``; return what became of each."""
    shim = out / "shim.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", shim, SHIM, "-ldl"], check=True)
    device.set_environment_defaults("cpu")
    os.environ |= {**environment(), "LD_PRELOAD": str(shim)}
    forked.set_forkserver_preload(["mindspore", "sklearn.datasets", "train.run", "train.comparison.report"])
    room = Room(out)
    calls: dict[int, list[int]] = {}
    for ranks in (1, 2):
        traces = [out / "trace" / f"{ranks}-{rank}" for rank in range(ranks)]
        traces[0].parent.mkdir(exist_ok=True)
        for rank, trace in enumerate(traces):  # the last of them stays for comparison
            if not trace.with_suffix(".done").exists():
                shutil.rmtree(room.runs / f"whole-{ranks}", ignore_errors=True)
                part = room.play(f"whole-{ranks}", ranks, rank=rank, trace=str(trace))
                assert part.code == 0, part.said
                trace.with_suffix(".done").touch()
        calls[ranks] = [len(trace.read_text().splitlines()) for trace in traces]
    results = []
    for number in range(seed, seed + runs):
        drawn = Drawn(room, number, calls)
        began = time.monotonic()
        problems = drawn.play()
        result = {"seed": number, "ranks": drawn.ranks, "kind": drawn.kind, "fault": drawn.fault.words}
        result |= {"call": f"{drawn.call} of rank {drawn.fault.rank}", "codes": drawn.codes, "problems": problems}
        result["seconds"] = round(time.monotonic() - began, 1)
        results.append(result)
        with open(out / "results.jsonl", "a") as file:
            file.write(json.dumps(result) + "\n")
        if not problems:
            shutil.rmtree(drawn.run_dir, ignore_errors=True)
            for log in out.glob(f"{drawn.name}.*.log"):
                log.unlink()
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="an empty folder; what is found bad stays in it")
    options = parser.parse_args()
    out = (options.out or Path(tempfile.mkdtemp(prefix="campaign-"))).resolve()
    out.mkdir(exist_ok=True)
    results = play_all(options.runs, options.seed, out)
    counts = Counter((one["kind"], one["ranks"], tuple(one["codes"])) for one in results)
    for (kind, ranks, codes), count in sorted(counts.items()):
        print(f"{count:4}  {kind:13} {ranks} rank{'s' * (ranks > 1):1}  exit codes {', '.join(map(str, codes))}")
    bad = [one for one in results if one["problems"]]
    print(*map(json.dumps, bad), f"{len(results)} runs, {len(bad)} bad; {out}", sep="\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
