"""``python -m train.dryrun``: real compilations by MindSpore's Ascend back end, and what the command says of them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from models import create_model, list_models
from tests.jobs import DIGITS, ROOT, alone
from tests.train.dryrun.matrix import CASES, PRECISIONS, SETTINGS, Judged, case, judge_all, model_case
from train.dryrun import stand_ins
from train.dryrun.__main__ import main
from train.step.options import OPTIMIZERS, StepOptions

RECIPES = sorted((ROOT / "train/recipes").glob("*.yaml"))
IMAGENET = ROOT / "train/recipes/imagenet_resnet50.yaml"
TINY = [
    "model.options={depths: [1, 1, 1]}",
    "data.image_size=8",
    "data.global_batch=64",
    "snapshots.layers=[fc.weight]",
]
PREFIX = "tests.train.dryrun.own_models"


def judge(folder: Path, recipe: Path, *settings: str) -> tuple[int, dict[str, Any], str]:
    """Run the command; return its exit code, the figures it wrote, and what it printed."""
    report = folder / "report.json"
    done = alone(["-m", "train.dryrun", "--config", recipe, "--json", report, *settings], folder, timeout=1500)
    return done.code, json.loads(report.read_text()) if report.exists() else {}, done.logs[0]


def own(name: str) -> list[str]:
    return [f"model.name={PREFIX}:{name}", "data.image_size=8", "data.global_batch=16", "snapshots.layers=[fc.weight]"]


def require_fit(judged: Judged) -> None:
    """All that the target can be asked for: it compiles, no operator is without a kernel for the AI cores, and every
    kernel takes what it is given, as far as the table knows."""
    assert judged.code == 0 and "types not checked" not in judged.words, judged.words
    assert judged.figures["update"]["launches"] > 20


def test_a_small_network_from_its_recipe_alone(tmp_path: Path) -> None:
    code, figures, text = judge(tmp_path, DIGITS, *TINY, "step.ema=0.9")
    assert code == 0, text
    assert figures["exchanges"] == 1 and figures["host_waits"] == 1
    parameters = create_model("resnet20", num_classes=10, in_channels=1, depths=[1, 1, 1]).trainable_params()
    # Behind the gradients travel the loss, the right answers, a wish to stop, and for each rank whether it is finite.
    assert sum(figures["exchange_bytes"]) == 4 * (sum(p.size for p in parameters) + 3 + 8)
    assert figures["evaluation"]["exchanges"] == figures["evaluation"]["host_waits"] == 0
    assert (
        figures["opening"]["exchanges"] > 0 and figures["gathers"]["launches"] == 2 * figures["evaluation"]["launches"]
    )
    assert 20 < figures["prediction"]["launches"] < figures["evaluation"]["launches"]
    assert figures["memory_bytes"] > 3 * sum(figures["exchange_bytes"]), "weights, velocities, gradients"
    kinds = {row["operator"]: row["kind"] for row in figures["operators"]}
    assert kinds["Conv2D"] == "aclop" and kinds["ReLU"] == "aclnn" and kinds["AllReduce"] == "hccl"
    assert figures["asked_of_cann"]["aclop Conv2D"] == 7
    last = text.splitlines()[-1]
    assert last == figures["verdict"] and re.match(
        rf"compiles, {figures['launches']} launches an update, nothing on the AI CPU or the host; 0\.\d\d GiB "
        r"\(\d% of a card of 32 GiB, \d% of a card of 64 GiB\) without CANN's workspaces",
        last,
    )
    assert "input uint8 (1, 8, 8), target int32 ()" in text and "Conv2DBackpropFilter" in text
    assert not (tmp_path / "rank_0").exists(), "MindSpore's own files do not stay"


SENTENCES = [
    *("model.name={0}:Sentences", "data.source={0}:lines", "data.collate={0}:padded", "step.loss={0}:squares"),
    *("evaluate.metrics=[loss]", "data.eval_batch=8", "snapshots.layers=[of_each.weight]"),
]
JUDGED = {
    "pooling": (own("padded_pooling"), 2, r"slow kernels: \d+ on the AI CPU;"),
    "bf16": (
        [*own("padded_pooling"), "step.precision=bf16"],
        1,
        r"MaxPool3DWithArgmax.*BFloat16.*MaxPool2d, .*own_models.py:23\)",
    ),
    "constructor": (own("without_a_class"), 1, r"a fault in a model of one's own \(.*own_models.py:\d+\)$"),
    "float64": (own("Double"), 1, r"aclnnMatmul does not take float64 \(\S+own_models.py:\d+\)$"),
    "inverse": (own("Inverse"), 2, r"slow kernels: maybe \d+ on the AI CPU \(aclop MatrixInverse\)"),
    "numpy": (own("OnTheHost"), 1, r"ndarray.*\(OnTheHost, .*own_models.py:\d+\)$"),
    "sentences": ([one.format(PREFIX) for one in SENTENCES], 0, "nothing on the AI CPU or the host"),
}


@pytest.fixture(scope="module")
def judged() -> dict[str, Judged]:
    cases = [case(DIGITS, *settings) for settings, *_ in JUDGED.values()]
    return dict(zip(JUDGED, judge_all(cases), strict=True))


@pytest.mark.parametrize("name", JUDGED)
def test_what_is_said_of_parts_of_ones_own(name: str, judged: dict[str, Judged]) -> None:
    _, code, words = JUDGED[name]
    assert judged[name].code == code and re.search(words, judged[name].words), judged[name].words


@pytest.mark.parametrize(
    "model, seconds, reason", [("Selecting", 600, "dynamic shape"), ("Endless", 9, "not finished after 9 s")]
)
def test_what_the_simulation_does_not_follow_is_not_judged(
    model: str, seconds: int, reason: str, tmp_path: Path
) -> None:
    code, figures, text = judge(tmp_path, DIGITS, "--timeout", str(seconds), *own(model))
    assert code == 3 and "DOES NOT COMPILE" not in text
    assert text.splitlines()[-1].startswith("cannot judge: ") and reason in figures["error"]


def start(folder: Path, *settings: str, **options: Any) -> subprocess.Popen:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "train.dryrun", "--config", DIGITS, *settings]
    return subprocess.Popen(command, cwd=folder, env=variables, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_leaves_neither_a_process_nor_a_folder(number: signal.Signals, tmp_path: Path) -> None:
    with start(tmp_path, *own("Endless")) as process:
        while not any(path.stat().st_size for path in tmp_path.glob("dryrun-*/log")):
            assert process.poll() is None
            time.sleep(0.05)
        (folder,) = tmp_path.glob("dryrun-*")
        process.send_signal(number)
        _, err = process.communicate()
    assert process.returncode == 128 + number and "Traceback" not in err
    assert not folder.exists()
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            assert str(folder).encode() not in (status.parent / "environ").read_bytes()


def test_a_full_disk_is_no_fault_of_the_model(tmp_path: Path) -> None:
    """A limit on a file's size stands for it: as there, what is written is cut off somewhere."""
    small = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))  # noqa: E731
    with start(tmp_path, *own("padded_pooling"), preexec_fn=small) as process:
        _, err = process.communicate()
    assert process.returncode == 5 and "set TMPDIR to a folder with room" in err and "COMPILE" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config", "none.yaml"], "none.yaml: no such file"),
        (["--config", str(DIGITS), "--ranks", "0"], "--ranks: '0' is not a whole number of 1 or more"),
        (["--config", str(DIGITS), "step.precison=fp16"], "did you mean step.precision"),
        (
            ["--config", str(DIGITS), "--ranks", "1024", "step.mixup=0.2", "data.global_batch=1400"],
            "leaves one for a micro-batch, with which step.mixup",
        ),
        (["--config", str(DIGITS), "--json", "/"], "--json /: is a folder"),
        (["--config", str(DIGITS), "--json", "none/report.json"], "--json none/report.json: cannot be written there"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture) -> None:
    code: object
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    output = capsys.readouterr()
    assert code == 2 and output.out == "" and output.err.count("\n") == 1 and words in output.err


def test_a_machine_that_cannot_do_it_is_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in ("nm", "readelf"):
        (tmp_path / name).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["--config", str(DIGITS)]) == 2
    assert "missing: g++: install your system's compiler" in capsys.readouterr().err
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert main(["--config", str(DIGITS)]) == 2
    assert "Linux on x86_64 only, this is Linux on aarch64" in capsys.readouterr().err


def test_training_names_a_package_of_canns_that_is_missing(tmp_path: Path) -> None:
    """Where the device is there and only CANN's Python packages are not, which end in a traceback of MindSpore's."""
    package = stand_ins.mindspore_package()
    command = [sys.executable, "-m", "train", "--config", DIGITS, "device=ascend", f"runs_dir={tmp_path}"]
    there = {**os.environ, **stand_ins.environment(package, stand_ins.ready(package)), "MS_SIMULATION_LEVEL": "3"}
    done = subprocess.run(command, cwd=ROOT, env=there | {"RANK_SIZE": "1"}, capture_output=True, text=True)
    assert done.returncode == 2 and "CANN's Python package te cannot be imported" in done.stderr
    assert "Traceback" not in done.stderr and not any(tmp_path.iterdir())


def test_training_imports_nothing_of_it() -> None:
    code = "import sys, train.run, train.__main__; sys.exit(any(n.startswith('train.dryrun') for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_where_they_are_built_no_compiler_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = stand_ins.ready(stand_ins.mindspore_package())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert stand_ins.ready(stand_ins.mindspore_package()) == built


def test_two_that_build_the_stand_ins_at_once_get_the_same(tmp_path: Path) -> None:
    code = "from train.dryrun import stand_ins as s; print(s.ready(s.mindspore_package()))"
    where = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}

    def build(_: int) -> str:
        return subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=where, check=True, capture_output=True, text=True
        ).stdout.strip()

    with ThreadPoolExecutor() as pool:
        first, second = pool.map(build, range(2))
    assert first == second and (Path(first) / "lib64/libstandin.so").is_file()
    assert [path.name for path in (tmp_path / "mindspore-resnet-dp").iterdir()] == [Path(first).parent.name]


def test_a_model_fits() -> None:
    """Another one at each commit, so that all are seen over some days."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    (judged,) = judge_all([model_case(*random.Random(commit).choice(CASES))])
    require_fit(judged)


@pytest.mark.slow
@pytest.mark.parametrize("model", list_models())
def test_every_model_fits(model: str) -> None:
    for judged in judge_all([model_case(model, precision) for precision in PRECISIONS]):
        require_fit(judged)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_recipe_fits(precision: str) -> None:
    for judged in judge_all([case(recipe, f"step.precision={precision}") for recipe in RECIPES]):
        require_fit(judged)


EACH_ON = {
    "label_smoothing": "0.1",
    "mixup": "0.2",
    "cutmix": "1.0",
    "accumulate": "2",
    "clip_norm": "1.0",
    "ema": "0.999",
    "batch_norm": "fp32",
    "loss_scale": "1024.0",
    "loss_scale_window": "2000",
}


def test_each_option_of_the_step_is_among_those_tried() -> None:
    others = {"precision", "loss", "loss_options"}  # each is tried in all; a loss of one's own below
    assert set(EACH_ON) == set(StepOptions.model_fields) - others


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_option_of_the_step_fits(precision: str) -> None:
    options = [f"step.{option}={value}" for option, value in EACH_ON.items()]
    each = [case(DIGITS, *TINY, f"step.precision={precision}", option) for option in options]
    for judged in judge_all(each):
        require_fit(judged)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_all_options_together_fit_and_so_does_fusion(precision: str) -> None:
    options = [f"step.{option}={value}" for option, value in EACH_ON.items()]
    (judged,) = judge_all([case(DIGITS, *TINY, f"step.precision={precision}", "device.jit_level=O1", *options)])
    require_fit(judged)
    assert any(row["kind"] == "fused" for row in judged.figures["update"]["operators"])


@pytest.mark.slow
def test_every_optimizer_fits() -> None:
    groups = ["[]", "[{params: fc.*, lr_scale: 10}, {params: conv1.*, frozen: true}]"]
    settings = [(f"optimizer.name={name}", f"optimizer.groups={group}") for name in OPTIMIZERS for group in groups]
    for judged in judge_all([case(DIGITS, *TINY, *both) for both in settings]):
        require_fit(judged)


@pytest.mark.slow
def test_a_loss_and_an_optimizer_of_ones_own_are_judged_too() -> None:
    mine = [f"step.loss={PREFIX}:Focal", "step.loss_options={gamma: 1.5}", f"optimizer.name={PREFIX}:SignDescent"]
    asgd = ["optimizer.name=mindspore.nn:ASGD", "guard.mode=skip"]
    sign, waiting = judge_all([case(DIGITS, *TINY, *mine), case(DIGITS, *TINY, *asgd)])
    kernels = {row["operator"] for row in sign.figures["update"]["operators"]}
    assert sign.code == 0 and {"Sign", "LogSoftmax"} <= kernels and "Momentum" not in str(kernels), sign.words
    # Its "if" becomes another kind of switch, which waits, too.
    kernels = {row["operator"] for row in waiting.figures["update"]["operators"]}
    assert waiting.figures["update"]["host_waits"] > 1 and "ConditionSwitch" not in kernels, waiting.words


@pytest.mark.slow
def test_the_budget_of_launches() -> None:
    """One watched layer, 32 images a card."""
    modes = {"skip": (1000, 1), "stop": (1000, 0)}
    cases = [case(IMAGENET, *SETTINGS, f"guard.mode={mode}") for mode in modes]
    for (launches, waits), judged in zip(modes.values(), judge_all(cases), strict=True):
        require_fit(judged)
        update = judged.figures["update"]
        assert update["launches"] <= launches and update["exchanges"] <= 15 and update["host_waits"] == waits
