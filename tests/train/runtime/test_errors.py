"""How commands end: one short line for a mistake, and their own exit code whatever the console is."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from tests.consoles import CONSOLES
from tests.faults.runs import steps_saved
from tests.jobs import DIGITS, HANGS, RECORDED, ROOT, environment, train_task
from tests.test_package import commands_of_train
from train.runtime.console import LINE_LIMIT, one_line
from train.runtime.errors import describe_exit_codes, is_of_storage, refused, run_command

COMMANDS = sorted(commands_of_train())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistake_is_one_line_and_exit_code_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    required = {"train.export": ["--to", "onnx"], "train.predict": ["a.png"]}
    with pytest.raises(SystemExit) as ended:
        main_of(name)(["runs/trial", "--config", "recipe.yaml", *required.get(name, []), "--no-such-option"])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: ") and err.endswith(f"--no-such-option; see python -m {name} --help\n")


def main_of(name: str) -> Callable[[list[str]], int]:
    module = import_module(name)
    return getattr(module, "main", None) or import_module(f"{name}.__main__").main


PRINTS = """
import sys
from train.runtime.errors import StorageError, run_command
def command():
    for number in range(3000):
        print(f"line {number} − 学 \x1b[31m", flush=number % 2 == 0)
        print(f"line {number}", file=sys.stderr)
    open("done", "w").close()
    raise StorageError("no room −")
sys.exit(run_command(command, patience=0.5))
"""


def written(folder: Path, program: str = PRINTS) -> list[str]:
    """Return the command that runs ``program``: a file, as no command line holds its signs in every encoding."""
    (folder / "program.py").write_text(program, encoding="utf-8")
    return [sys.executable, "program.py"]


def run_in_shell(console: str, command: list[str], folder: Path) -> int:
    with CONSOLES[console]() as (redirection, variables):
        words = ["bash", "-c", f'set -o pipefail; "$@" {redirection}', "-", *command]
        return subprocess.run(words, cwd=folder, env={**environment(), **variables}, timeout=HANGS).returncode


@pytest.mark.parametrize("console", CONSOLES)
def test_a_command_ends_as_it_would_whatever_the_console_is(console: str, tmp_path: Path) -> None:
    assert run_in_shell(console, written(tmp_path), tmp_path) == 5
    assert (tmp_path / "done").exists()
    if console == "few signs":
        shown = (tmp_path / "shown").read_text("ascii")
        assert shown.count("line 2999 \\u2212 \\u5b66 \\x1b[31m\n") == 1 and shown.endswith("error: no room \\u2212\n")


GONE = [errno.ENOTCONN, errno.EHOSTDOWN, errno.ENODEV, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EACCES, *GONE])
def test_what_a_disk_refuses_is_one_line_from_every_command(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise OSError(number, os.strerror(number), "runs/a\n/comparison.md")

    assert run_command(command) == 5
    assert capsys.readouterr().err == f"error: runs/a\\n/comparison.md: {os.strerror(number)}\n"


@pytest.mark.parametrize(
    "bug",
    [FileNotFoundError(errno.ENOENT, "missing", "a"), ConnectionRefusedError(errno.ECONNREFUSED, "no"), OSError("own")],
)
def test_what_may_be_a_bug_keeps_its_traceback(bug: OSError) -> None:
    def command() -> int:
        raise bug

    with pytest.raises(OSError) as raised:
        run_command(command)
    assert raised.value is bug


def test_a_file_that_the_run_had_is_no_bug(tmp_path: Path) -> None:
    lost = FileNotFoundError(errno.ENOENT, "No such file", str(tmp_path / "run/metrics.jsonl"))
    assert is_of_storage(lost, tmp_path / "run") and not is_of_storage(lost, tmp_path / "another")


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.EROFS, errno.EIO, *GONE])
def test_only_what_another_path_mends_is_a_mistake(number: int) -> None:
    mistakes = (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.EROFS)
    assert refused(OSError(number, "x"), "x").exit_code == (2 if number in mistakes else 5)


def test_out_of_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: len(np.ones(1 << 50))) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory: Unable to allocate") and said.count("\n") == 1

    def compile_too_much() -> int:
        raise RuntimeError("std::bad_alloc\n\n- C++ Call Stack: (For framework developers)")

    assert run_command(compile_too_much) == 2
    assert capsys.readouterr().err == "error: out of memory: std::bad_alloc; use a smaller model, batch or file\n"


@pytest.mark.parametrize("kind", ["pipe", "device", "huge"])
def test_a_recipe_that_would_never_end_is_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with open(path, "wb") as file:
            file.truncate(1 << 40)
    assert main_of("train")(["--config", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --config {path}: cannot be read as text: i")


@pytest.mark.parametrize("encoding", ["gbk", "cp1252", "shift_jis", "utf-16", "ascii"])
def test_signs_that_an_encoding_lacks_are_escapes(encoding: str, tmp_path: Path) -> None:
    variables = {**environment(), "PYTHONIOENCODING": encoding}
    done = subprocess.run(written(tmp_path), cwd=tmp_path, env=variables, capture_output=True)
    assert done.returncode == 5 and done.stderr.decode(encoding).splitlines()[-1].startswith("error: no room ")


def test_a_reader_that_is_slow_gets_everything_of_a_command_that_only_shows(tmp_path: Path) -> None:
    command = [*written(tmp_path, PRINTS.replace(", patience=0.5", "")), "2>&1 | (sleep 3; cat) >shown"]
    subprocess.run(["bash", "-c", " ".join(command)], cwd=tmp_path, env=environment(), timeout=HANGS)
    assert (tmp_path / "shown").read_text().count("\n") == 6001


@pytest.mark.parametrize("text", ["a\nb\rc", "\x1b[2J\x9b", "\u202e\u2028", "x" * 3_000_000, "\0" * 3000, "\udcff"])
def test_a_message_is_one_short_printable_line(text: str) -> None:
    assert one_line(text).isprintable() and len(one_line(text)) <= LINE_LIMIT
    assert one_line("学 − é") == "学 − é"


MISTAKES = [["--config", "x" * 300], ["--config", "a\x1b[31m\nb.yaml"], ["--config", "recipe.yaml"]]


@pytest.mark.parametrize("arguments", MISTAKES, ids=["long name", "control characters", "its keys"])
@pytest.mark.parametrize("optimize", ["0", "2"])
def test_names_and_keys_of_all_kinds_are_one_line(arguments: list[str], optimize: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text('? "\\e[31m\\n' + "k" * 3_000_000 + '"\n: 1\n')
    command = [sys.executable, "-m", "train", *arguments]
    variables = {**environment(), "PYTHONOPTIMIZE": optimize}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and len(done.stderr) < LINE_LIMIT + 20
    assert done.stderr.rstrip("\n").isprintable()


NUL = [
    ("train", "name"),
    ("train", "runs_dir"),
    ("train", "resume"),
    ("train", "data.root"),
    ("train", "model.init_from"),
]


@pytest.mark.parametrize(("module", "key"), NUL, ids=[key for _, key in NUL])
@pytest.mark.parametrize("value", ["a\\0b", "n" * 300])
def test_a_path_that_no_system_knows_is_refused(module: str, key: str, value: str, tmp_path: Path) -> None:
    config = (ROOT / "train/recipes/digits_resnet20.yaml").read_text()
    *section, last = key.split(".")
    if section:
        line = f'{last}: "{value}"'
        config = config.replace(f"{section[0]}:\n", f"{section[0]}:\n  {line}\n")
    else:
        config += f'\n{key}: "{value}"\n'
    if key == "data.root":
        config = config.replace("source: digits", "source: image_folder")
    (tmp_path / "recipe.yaml").write_text(config)
    command = [sys.executable, "-m", module, "--config", "recipe.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.startswith("error: ")


def test_a_notebooks_backend_is_not_that_of_a_command_started_in_it(tmp_path: Path) -> None:
    """The notebook's environment has a module that a clone's own may lack: a training ended with a traceback."""
    notebook = {**environment(), "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    commands = {
        "train.comparison none": "error: none: no such folder; give the folder of a finished run, runs/<name>\n",
        "schedules plot kind=constant lr_max=1 total=9 -o lr.png": "",
    }
    for words, said in commands.items():
        command = [sys.executable, "-m", *words.split()]
        done = subprocess.run(command, cwd=tmp_path, env=notebook, capture_output=True, text=True, timeout=HANGS)
        assert (done.returncode, done.stderr) == (2 if said else 0, said)


def test_the_exit_codes_are_told_without_docstrings() -> None:
    command = [sys.executable, "-OO", "-c", "from train.runtime.errors import describe_exit_codes as d; print(d())"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == describe_exit_codes() + "\n" and "  143  " in done.stdout


@pytest.mark.parametrize("module", ["train", "train.preflight"])
def test_a_rank_that_cannot_read_its_recipe_says_so(module: str, tmp_path: Path) -> None:
    said = "--config nowhere.yaml: no such file; recipes are in train/recipes/"
    command = [sys.executable, "-m", module, "--config", "nowhere.yaml"]
    variables = {**environment(), "RANK_ID": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=HANGS)
    assert (done.returncode, done.stderr) == (2, f"error: rank 1: {said}\n")


@pytest.mark.slow
@pytest.mark.parametrize("console", CONSOLES)
def test_a_training_is_saved_whatever_the_console_is(console: str, tmp_path: Path) -> None:
    command = [sys.executable, *map(str, train_task(tmp_path, "run", *RECORDED))]
    assert run_in_shell(console, command, tmp_path) == 0
    assert steps_saved(tmp_path / "run") == [12] and (tmp_path / "run/comparison/comparison.md").exists()


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("GLOG_v=7", "must be 0 to 4"),
        *((f"{name}=x", "must be a whole number") for name in ("RANK_ID", "MS_WORKER_NUM", "LAUNCH_RANKS")),
    ],
)
def test_a_variable_that_is_no_number_is_one_line(variable: str, words: str, tmp_path: Path) -> None:
    name, value = variable.split("=")
    task = [sys.executable, "-m", "train", "--config", str(DIGITS), f"runs_dir={tmp_path}"]
    worker = {**environment(), "MS_ROLE": "MS_WORKER", name: value}
    done = subprocess.run(task, env=worker, cwd=ROOT, capture_output=True, text=True)
    line = f"error: (rank x: )?variable {name}='{value}': {words}; change it, or unset it\n"
    assert done.returncode == 2 and re.fullmatch(line, done.stderr), done.stderr
    assert not list(tmp_path.iterdir())
