"""Thousands of mutated files through the public entry points: documented errors only, quickly, and nothing written."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from schedules import Schedule, build
from tests.faults.checkpoints import describe, put
from tests.jobs import DIGITS, Tool, alone
from train.__main__ import main
from train.checkpoint import disk as files
from train.checkpoint.resume import differences
from train.checkpoint.saved import load
from train.rundir.folder import load_run_config
from train.rundir.snapshots import write_snapshot
from train.runtime.errors import UserError

finished_run = Tool("train.comparison.finished_run")

CASES = 1500
SECONDS_A_CASE = 10
INTERESTING = ["", "0", "-1", "1e400", "nan", ".inf", "null", "true", "[]", "{}", "[[[[]]]]", "{a: {b: {c: 1}}}", "~"]
INTERESTING += ["2024-01-01", "0x1f", "1_000", "'", '"', "&a [*a]", "*b", "!!python/object:os.system x", "!!binary x"]
INTERESTING += [
    "99999999999999999999999",
    "9" * 5000,
    "é",
    "\x00",
    "\ud800",
    "..",
    "../../etc",
    "/etc/passwd",
    "a" * 300,
]
INTERESTING += ["[&x [y, y], &z [*x, *x], [*z, *z]]"]
INTERESTING += ["[1, 2", "<<", "%", "@", "- x", "? y", ": z", "3 epochs", "-5%", "200%", "1e-320", "[.nan]", "{1: 2}"]


class Mutator:
    """Random edits of text and of trees, the same in every run of the test."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)

    def text(self, text: str) -> str:
        for _ in range(self.rng.randint(1, 4)):
            place, other = sorted(self.rng.randrange(len(text) + 1) for _ in range(2))
            edit = self.rng.randrange(4)
            if edit == 0:
                text = text[:place] + self.rng.choice(INTERESTING) + text[place:]
            elif edit == 1:
                text = text[:place] + text[min(other, place + 20) :]
            elif edit == 2:
                text = text[:place] + chr(self.rng.randrange(1, 0x250)) + text[place + 1 :]
            else:
                lines = text.splitlines(keepends=True) or [""]
                self.rng.shuffle(lines)
                text = "".join(lines)
        return text

    def data(self, content: bytes) -> bytes:
        array = bytearray(content)
        edit = self.rng.randrange(4)
        if edit == 0:
            return bytes(array[: self.rng.randrange(len(array))])
        if edit == 1:
            return bytes(array) + self.rng.randbytes(self.rng.randint(1, 50))
        for _ in range(self.rng.randint(1, 8)):
            array[self.rng.randrange(min(len(array), 400) if edit == 2 else len(array))] = self.rng.randrange(256)
        return bytes(array)

    def tree(self, tree: object) -> object:
        """Replace, drop or add one value somewhere in a tree of JSON values."""
        if isinstance(tree, dict) and tree and self.rng.random() < 0.8:
            key = self.rng.choice(sorted(tree))
            if self.rng.random() < 0.15:
                return {name: value for name, value in tree.items() if name != key}
            return {**tree, key: self.tree(tree[key])}
        values: list[object] = [None, True, -1, 0, 1.5, 2**70, "", "x", "../..", [], {}, [{}], {"a": 1}, 1e308]
        return self.rng.choice(values)


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """A case that hangs raises TimeoutError."""

    def late(*_: object) -> None:
        raise TimeoutError("this case hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS_A_CASE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def feed(
    cases: Iterator[object], entry: Callable[..., object], allowed: type[Exception] | tuple[type[Exception], ...]
) -> dict[str, int]:
    """Call ``entry`` with every case; return how many were taken and how many refused with ``allowed``."""
    counts = {"taken": 0, "refused": 0}
    for case in cases:
        try:
            with in_time():
                entry(case)
            counts["taken"] += 1
        except allowed as error:
            assert str(error).strip() and "\n" not in str(error), repr(error)
            counts["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error} for {str(case)[:2000]!r}") from error
    return counts


def print_config(arguments: list[str]) -> None:
    """``python -m train … --print-config`` must end with 0, or with 2 and one line."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main(arguments)
    if code != 0:
        assert code == 2 and said.getvalue().startswith("error: "), said.getvalue()
        raise UserError(said.getvalue().removesuffix("\n"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK_ID", raising=False)
    return tmp_path


def test_recipes(here: Path) -> None:
    mutator, recipe = Mutator(1), DIGITS.read_text()
    path = here / "recipe.yaml"

    def cases() -> Iterator[list[str]]:
        for _ in range(CASES):
            path.write_text(mutator.text(recipe), encoding="utf-8", errors="surrogatepass")
            yield ["--config", str(path), "--print-config"]

    counts = feed(cases(), print_config, UserError)
    assert counts["taken"] > 50 and counts["refused"] > 500
    assert [entry.name for entry in here.iterdir()] == ["recipe.yaml"]


def test_overrides(here: Path) -> None:
    mutator = Mutator(2)
    keys = ["name", "runs_dir", "seed", "resume", "resume_changes", "data.source", "schedule.kind", "schedule.warmup"]
    keys += ["schedule.total", "schedule", "model.options", "model", "checkpoint.keep", "watchdog.timeout", "hooks"]
    keys += [
        "optimizer.momentum",
        "snapshots.steps",
        "step.ema",
        "data.augment",
        "data.mean",
        "",
        ".",
        "a.b.c",
        "data.",
    ]

    def cases() -> Iterator[list[str]]:
        for _ in range(CASES):
            value = mutator.rng.choice(INTERESTING)
            value = mutator.text(value) if mutator.rng.random() < 0.3 else value
            yield ["--config", str(DIGITS), "--print-config", f"{mutator.rng.choice(keys)}={value}"]

    counts = feed(cases(), print_config, UserError)
    assert counts["taken"] > 50 and counts["refused"] > 500
    assert not list(here.iterdir())


def with_sums(folder: Path) -> None:
    """Let the sums be right again, as someone would who changes a file on purpose."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / files.SUMS_FILE).write_text("".join(lines))


def test_states(here: Path) -> None:
    mutator = Mutator(3)
    now = describe(4)
    folder = put(here, now)
    state = json.loads((folder / "state.json").read_text())
    state["config"] = {"name": "a", "schedule": {"kind": "cosine", "total": 100}, "data": {"global_batch": 8}}

    def cases() -> Iterator[Path]:
        for number in range(CASES):
            text = json.dumps(mutator.tree(state))
            (folder / "state.json").write_text(mutator.text(text) if number % 3 == 0 else text, errors="replace")
            with_sums(folder)
            yield folder

    counts = feed(cases(), lambda path: differences(load(path).description, now), UserError)
    assert counts["taken"] > 50 and counts["refused"] > 500
    deep = b"[" * 100_000
    (folder / "state.json").write_bytes(deep)
    with_sums(folder)
    assert feed(iter([folder]), load, UserError)["refused"] == 1


@pytest.mark.parametrize("name", ["model.safetensors", "ranks/00/rank-0.safetensors", "SHA256SUMS"])
def test_files_of_a_checkpoint(name: str, here: Path) -> None:
    mutator = Mutator(4)
    folder = put(here, describe(4))
    content = (folder / name).read_bytes()

    def cases() -> Iterator[Path]:
        for _ in range(CASES // 3):
            (folder / name).write_bytes(mutator.data(content))
            if name != files.SUMS_FILE:
                with_sums(folder)
            yield folder

    assert feed(cases(), load, UserError)["refused"] > 100


def test_snapshots_and_schedules(here: Path) -> None:
    mutator = Mutator(5)
    path = here / "snapshots" / "step-00000005.rank-0.npz"
    arrays: dict[str, np.ndarray] = {f"{what}.0": np.ones((2, 3), np.float32) for what in ("W_start", "v", "W_new")}
    scalars = {key: np.int64(value) for key, value in (("step", 5), ("kernel_step", 5), ("rank", 0), ("world_size", 1))}
    write_snapshot(path, {**arrays, **scalars, "lr": np.float32(0.1), "layers": np.array(["fc.weight"])})  # type: ignore[dict-item]
    content = path.read_bytes()
    schedule = here / "schedule.npz"
    build({"kind": "cosine", "lr_init": 0.01, "lr_max": 0.1, "lr_end": 0, "warmup": 2, "total": 9}).save(schedule)
    plan = schedule.read_bytes()

    def cases(target: Path, whole: bytes) -> Iterator[Path]:
        for _ in range(CASES // 3):
            target.write_bytes(mutator.data(whole))
            yield target

    assert feed(cases(path, content), finished_run.load_snapshot, UserError)["refused"] > 100
    assert feed(cases(schedule, plan), Schedule.load, ValueError)["refused"] > 100


def test_configurations_of_run_folders(here: Path) -> None:
    mutator = Mutator(6)
    text = DIGITS.read_text() + "versions: {numpy: '1'}\n"

    def cases() -> Iterator[Path]:
        for _ in range(CASES // 3):
            (here / "config.yaml").write_text(mutator.text(text), errors="surrogatepass")
            yield here

    assert feed(cases(), load_run_config, UserError)["refused"] > 100


OF_TOOLS = {"mindir": "models.mindir", "npz": "train.predict", "ckpt": "models.ckpt"}
OF_TOOLS |= dict.fromkeys(("records", "index of records"), "train.data.convert")
"""Readers that a tool brings along."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "reader",
    ["safetensors", "ckpt", "mindir", "npz", "card", "records", "index of records", "jpeg", "recipe"],
)
def test_a_thousand_mutations_of_each_foreign_file(reader: str, tmp_path: Path) -> None:
    """No signal, no hang, no traceback: in a process of its own."""
    pytest.importorskip(OF_TOOLS.get(reader, "train"))
    done = alone(["-m", "tests.faults.foreign", reader, "1000"], tmp_path, timeout=1800).check()
    counts = json.loads(done.logs[0].splitlines()[-1])
    assert counts["taken"] + counts["refused"] == 1000 and counts["refused"] > 100
