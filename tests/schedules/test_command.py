"""`python -m schedules`."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from schedules import Schedule, build
from schedules.__main__ import main
from schedules.kinds import KINDS
from schedules.plot import EXAMPLES

DOCUMENT = {"kind": "cosine", "lr_init": 0.01, "lr_max": 0.1, "lr_end": 0.001, "warmup": 10, "total": 100}
WORDS = [f"{key}={value}" for key, value in DOCUMENT.items()]
RECIPES = sorted((Path(__file__).parents[2] / "train" / "recipes").glob("*.yaml"))


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    section = "\n".join(f"  {key}: {value}" for key, value in DOCUMENT.items())
    path.write_text(f"model: {{name: resnet20}}\ndata:\n  global_batch: 512\nschedule:\n{section}\n")
    return str(path)


def run(capsys, *argv):
    code = main(list(argv))
    return code, *capsys.readouterr()


def test_show_prints_the_steps_asked_for(capsys, recipe):
    code, out, err = run(capsys, "show", recipe, "--at", "5", "60")
    assert code == 0 and not err
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()[:1].isdigit()}
    assert rows["5"] == ["5", "0.055", "warm-up", "<-"]
    assert rows["60"] == ["60", "0.041904416", "decay", "<-"]
    assert rows["10"] == ["10", "0.1", "peak"]
    assert "fingerprint 1f3f60cd3525" in out


def test_words_and_recipe_and_changes_are_one_schedule(capsys, recipe):
    by_recipe = run(capsys, "show", recipe)
    assert by_recipe == run(capsys, "show", *WORDS)
    assert by_recipe == run(capsys, "show", recipe, "lr_max=null", "schedule.lr_per_256=0.05")
    assert by_recipe != run(capsys, "show", recipe, "data.global_batch=1024", "lr_max=null", "lr_per_256=0.05")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_show_works_for_every_recipe(capsys, path):
    epochs = "epochs" in path.read_text() and "steps_per_epoch" not in path.read_text()  # then only the data knows
    code, out, err = run(capsys, "show", str(path), *(["--steps-per-epoch", "100"] if epochs else []))
    assert (code, err) == (0, "") and "fingerprint" in out


def test_epochs_in_the_table(capsys):
    words = ["kind=cosine", "lr_max=0.1", "warmup=1 epochs", "total=4 epochs"]
    code, out, _ = run(capsys, "show", *words, "--steps-per-epoch", "25", "--at", "50")
    assert code == 0 and ["50", "2.00", "0.075", "decay", "<-"] in [line.split() for line in out.splitlines()]
    assert run(capsys, "show", *words, "steps_per_epoch=2.5e1", "--at", "50")[1] == out


def test_csv_reads_back_bit_for_bit(capsys, recipe, tmp_path):
    code, out, _ = run(capsys, "show", recipe, "--csv", str(tmp_path / "lr.csv"))
    with open(tmp_path / "lr.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert code == 0 and not out
    assert np.array_equal(np.array([row["lr"] for row in rows], dtype=np.float32), build(DOCUMENT).lr)
    assert [row["phase"] for row in rows] == [build(DOCUMENT).phase_at(t) for t in range(100)]
    assert run(capsys, "show", recipe, "--csv", "-")[1] == (tmp_path / "lr.csv").read_text(encoding="utf-8")


def test_notes_are_shown(capsys):
    words = ["kind=cosine", "lr_max=0.1", "total=4 epochs", "warmup=0.5 epochs", "--steps-per-epoch", "25"]
    assert main(["show", *words]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert shown[0] == "note: warmup = '0.5 epochs': is 12.5 steps, rounded to 13" and "lr[0] = 0" in shown[1]


def test_compare_two_dialects(capsys, recipe):
    code, out, _ = run(capsys, "compare", recipe, "--with", "dialect=zoo_resnet", "--at", "60")
    a, b = build(DOCUMENT).lr, build({**DOCUMENT, "dialect": "zoo_resnet"}).lr
    worst = int(np.argmax(np.abs(b.astype(float) - a)))
    assert code == 0 and "they part at step 0 and differ in 100 of 100 steps" in out
    assert f"at step {worst} ({a[worst]!s} and {b[worst]!s})" in out
    assert ["60", str(a[60]), str(b[60])] in [line.split()[:3] for line in out.splitlines()]


def test_compare_finds_the_first_step_that_differs(capsys):
    words = ["kind=multistep", "lr_max=0.1", "total=50"]
    _, out, _ = run(capsys, "compare", *words, "milestones=[20, 40]", "--with", "milestones=[20, 30]")
    assert "they part at step 30 and differ in 10 of 50 steps" in out
    assert "largest difference: -0.009 at step 30" in out


def test_compare_equal_ones_and_other_lengths(capsys, recipe):
    assert "equal in all 100 steps, bit for bit" in run(capsys, "compare", recipe, "--with", recipe)[1]
    longer = ["kind=constant", "lr_max=0.1", "total=50"]
    out = run(capsys, "compare", *longer, "--with", "total=60")[1]
    assert "lengths differ: 50 and 60" in out and "equal in all 50 steps" in out


@pytest.mark.parametrize("words", [["show", "--csv"], ["plot", "-o"], ["plot", "--kinds", "-o"]], ids=" ".join)
@pytest.mark.parametrize("there", ["recipe", "link", "pipe", "earlier"])
def test_only_what_it_wrote_is_replaced(capsys, tmp_path, words, there):
    path, other = tmp_path / "out", tmp_path / "other"
    (path if there == "recipe" else other).write_text("seed: 1\n")
    path.symlink_to(other) if there == "link" else os.mkfifo(path) if there == "pipe" else None
    command = [words[0], *WORDS, *words[1:], str(path)] if "--kinds" not in words else [*words, str(path)]
    if there == "earlier":
        assert run(capsys, *command)[0] == run(capsys, *command)[0] == 0
        return
    code, out, err = run(capsys, *command)
    assert code == 2 and not out and str(path) in err and len(err.splitlines()) == 1
    assert (path if there == "recipe" else other).read_text() == "seed: 1\n"


def test_there_is_an_example_of_every_kind():
    assert set(EXAMPLES) == set(KINDS)


def test_plot_writes_a_png(capsys, recipe, tmp_path):
    for name, words in (("one", [recipe, "--at", "5", "60"]), ("kinds", ["--kinds"])):
        path = tmp_path / f"{name}.png"
        assert run(capsys, "plot", *words, "-o", str(path)) == (0, "", "")
        content = path.read_bytes()
        width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
        assert content.startswith(b"\x89PNG") and content.endswith(b"IEND\xaeB`\x82")
        assert width > 900 and height > 500 and len(content) > 20_000


@pytest.mark.parametrize(
    "argv, message",
    [
        (["show"], "schedule.kind = None: required"),
        (["show", "no-such.yaml"], "No such file or directory: 'no-such.yaml'"),
        (["show", "cosine"], "cosine: neither a .yaml file nor key=value"),
        (["show", *WORDS, "warmup=100"], "schedule.warmup = 100: must be shorter"),
        (["show", *WORDS, "warmup=[1"], "warmup=[1, line 1: not valid YAML"),
        (["show", *WORDS, "wormup=1"], "schedule.wormup = 1: unknown key; did you mean warmup"),
        (["show", *WORDS, "--at", "100"], "t = 100: the schedule has the steps 0 … 99"),
        (["show", *WORDS, "--csv", "no/such/folder.csv"], "No such file or directory"),
        (["show", *WORDS, "--csv", ""], "No such file or directory"),
        (["plot", *WORDS, "-o", "no/such/folder.png"], "No such file or directory"),
        (["plot", *WORDS], "required: -o"),
        (["compare", *WORDS], "required: --with"),
        (["compare", "a.yaml", "b.yaml", "--with", "total=3"], "one recipe at a time"),
        (["shaw", *WORDS], "invalid choice: 'shaw'"),
        (["show", *WORDS, "--at", "x"], "invalid int value: 'x'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(argv, message, tmp_path):
    done = subprocess.run([sys.executable, "-m", "schedules", *argv], capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("content", ["- a list\n", "model: {name: resnet20}\n", "schedule: [1]\n", "a: b: c\n"])
def test_a_file_that_is_no_recipe(capsys, tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    code, out, err = run(capsys, "show", str(path))
    assert code == 2 and not out and str(path) in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("kind", ["pipe", "device", "huge"])
def test_what_would_never_end_is_not_read(capsys, tmp_path, kind):
    path = tmp_path / "recipe.yaml"
    if kind == "huge":
        path.touch()
        os.truncate(path, 10**13)  # a hole: takes no room on the disk
    else:
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    code, out, err = run(capsys, "compare", *WORDS, "--with", str(path))
    assert code == 2 and not out and f": '{path}'" in err and len(err.splitlines()) == 1
    with pytest.raises(OSError, match=r"Is not a regular file|Is too large"):
        Schedule.load(path)


def test_a_recipe_is_data_and_not_code(capsys, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"schedule: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
    assert run(capsys, "show", str(path))[0] == 2 and not (tmp_path / "made").exists()


def test_a_recipe_s_own_kind_is_known(capsys, tmp_path, monkeypatch):
    (tmp_path / "my_kind.py").write_text(
        "from schedules import curves\n"
        "from schedules.curves import Segment\n"
        "from schedules.kinds import Plan, register\n"
        "@register('flat_for_test')\n"
        "def flat(plan: Plan) -> list[Segment]:\n"
        "    return [Segment('flat', plan.steps, curves.constant(plan.lr_max))]\n"
    )
    path = tmp_path / "recipe.yaml"
    path.write_text("imports: [my_kind]\nschedule: {kind: flat_for_test, lr_max: 0.5, total: 9}\n")
    code, _, err = run(capsys, "show", str(path))
    assert code == 2 and err == f"error: {path}: imports='my_kind': no module 'my_kind'; is its folder on PYTHONPATH?\n"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_script_for_test.py").write_text("raise SystemExit(0)\n")
    script = tmp_path / "script.yaml"
    script.write_text(path.read_text().replace("my_kind", "a_script_for_test"))
    code, _, err = run(capsys, "show", str(script))
    assert code == 2 and err == f"error: {script}: imports='a_script_for_test': ends with SystemExit(0)\n"
    for command in (["show", str(path)], ["compare", str(path), "--with", "lr_max=0.4"]):
        code, out, err = run(capsys, *command)
        assert code == 0 and not err, err
    assert "0.5" in out
    del KINDS["flat_for_test"]  # other tests of this process take each kind for one of ours


def test_numbers_are_those_of_the_training(capsys, tmp_path):
    """YAML 1.2, as train reads a recipe: PyYAML itself takes 0100 for 64 and 1:40 for 100."""
    path = tmp_path / "recipe.yaml"
    path.write_text("schedule: {kind: cosine, lr_max: 1e-1, warmup: 0, total: 0100}\n")
    assert "100 steps, " in run(capsys, "show", str(path))[1]
    path.write_text("schedule: {kind: cosine, lr_max: 0.1, warmup: 0, total: '1:40'}\n")
    assert run(capsys, "show", str(path))[0] == 2


@pytest.mark.parametrize(
    "words", [["lr_max\x1b[31m\nx=3"], ["total=10\x1b[31m\n0"], ["a\x1b[31m\nb.yaml"], ["--\x1b[31m\n"]]
)
def test_signs_of_a_key_or_a_name_move_no_cursor(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "schedules", "show", *words], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.rstrip("\n").isprintable()


@pytest.mark.parametrize("command", [["show"], ["show", "--csv", "-"], ["compare", "--with", "lr_max=0.2"]])
def test_a_closed_console_is_no_fault(command: list[str], recipe: str) -> None:
    words = [sys.executable, "-m", "schedules", command[0], recipe, *command[1:]]
    done = subprocess.run(["bash", "-c", '"$@" >&-', "-", *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
