"""``python -m train.dryrun``: real compilations by MindSpore's Ascend back end, and what the command says of them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from models import create_model, list_models
from tests.jobs import DIGITS, ROOT, alone
from train.data.arrays import open_digits
from train.dryrun import stand_ins
from train.dryrun.__main__ import facts, main
from train.recipe.read import load_config
from train.step.options import OPTIMIZERS, StepOptions

RECIPES = sorted((ROOT / "train/recipes").glob("*.yaml"))
IMAGENET = ROOT / "train/recipes/imagenet_resnet50.yaml"
TINY = [
    "model.options={depths: [1, 1, 1]}",
    "data.image_size=8",
    "data.global_batch=16",
    "snapshots.layers=[fc.weight]",
]
# As the budget counts: one watched layer, 32 images a card.
BUDGET = ["data.global_batch=256", "snapshots.layers=[fc.weight]"]
PRECISIONS = ("fp32", "fp16", "bf16")
OWN = "tests.train.dryrun.own_models"


class Judged(NamedTuple):
    code: int
    figures: dict[str, Any]
    text: str


def judge(folder: Path, recipe: Path, *settings: str, ranks: int = 8) -> Judged:
    report = folder / "report.json"
    task = ["-m", "train.dryrun", "--config", recipe, "--ranks", str(ranks), "--json", report, *settings]
    done = alone(task, folder, timeout=1500)
    return Judged(done.code, json.loads(report.read_text()) if report.exists() else {}, done.logs[0])


def own(name: str) -> list[str]:
    return [f"model.name={OWN}:{name}", "data.image_size=8", "data.global_batch=16", "snapshots.layers=[fc.weight]"]


def require_fit(judged: Judged) -> None:
    """All that the target can be asked for: it compiles, and no operator is without a kernel for the AI cores."""
    assert judged.code == 0, judged.text
    for part in (judged.figures, judged.figures["evaluation"]):
        assert part["error"] is None and part["ai_cpu"] == part["host"] == 0 and part["launches"] > 20, judged.text


def test_a_small_network_from_its_recipe_alone(tmp_path: Path) -> None:
    judged = judge(tmp_path, DIGITS, *TINY)
    require_fit(judged)
    figures = judged.figures
    assert figures["exchanges"] == 1 and figures["host_waits"] == 1
    parameters = create_model("resnet20", num_classes=10, in_channels=1, depths=[1, 1, 1]).trainable_params()
    # Behind the gradients travel the loss, the right answers, a wish to stop, and for each rank whether it is finite.
    assert figures["exchange_bytes"] == [4 * (sum(p.size for p in parameters) + 3 + 8)]
    assert figures["evaluation"]["exchanges"] == figures["evaluation"]["host_waits"] == 0
    assert figures["memory_bytes"] > 3 * figures["exchange_bytes"][0], "weights, velocities, gradients"
    kinds = {row["operator"]: row["kind"] for row in figures["operators"]}
    assert kinds["Conv2D"] == "aclop" and kinds["ReLU"] == "aclnn" and kinds["AllReduce"] == "hccl"
    assert figures["asked_of_cann"]["aclop Conv2D"] == 7
    last = judged.text.splitlines()[-1]
    assert last == figures["verdict"] and re.match(
        rf"compiles, {figures['launches']} launches an update, nothing on the AI CPU or the host; 0\.\d\d GiB "
        r"\(\d% of a card of 32 GiB, \d% of a card of 64 GiB\) without CANN's workspaces",
        last,
    )
    assert "compiled by MindSpore for Ascend" in judged.text and "Conv2DBackpropFilter" in judged.text
    assert not (tmp_path / "rank_0").exists(), "MindSpore's own files do not stay"


def test_an_operator_for_the_ai_cpu_is_found_in_a_model_of_ones_own(tmp_path: Path) -> None:
    judged = judge(tmp_path, DIGITS, *own("padded_pooling"), ranks=1)
    assert judged.code == 2, judged.text
    assert judged.figures["ai_cpu"] == 2 and judged.figures["evaluation"]["ai_cpu"] == 1
    assert (
        judged.figures["exchanges"] == 0 and "MaxPool3DGradWithArgmax              1  AI CPU  <-- slow" in judged.text
    )


def test_what_does_not_compile_is_one_line_with_its_place(tmp_path: Path) -> None:
    judged = judge(tmp_path, DIGITS, *own("padded_pooling"), "step.precision=bf16")
    assert judged.code == 1
    lines = [line for line in judged.text.splitlines() if line.startswith("DOES NOT COMPILE")]
    assert len(lines) == 2 and "MaxPool3DWithArgmax" in lines[0] and "BFloat16" in lines[0]
    assert "own_models.py:19)" in lines[0] and lines[0].endswith(judged.figures["error"])


@pytest.mark.parametrize("model, reason", [("Selecting", "dynamic shape"), ("Endless", "not finished after 20 s")])
def test_what_the_simulation_does_not_follow_is_not_judged(model: str, reason: str, tmp_path: Path) -> None:
    judged = judge(tmp_path, DIGITS, "--timeout", "20", *own(model))
    assert judged.code == 3 and "DOES NOT COMPILE" not in judged.text
    assert judged.text.splitlines()[-1].startswith("cannot judge: update: ") and reason in judged.figures["error"]


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


def test_a_fault_in_a_model_of_ones_own_keeps_its_traceback(tmp_path: Path) -> None:
    judged = judge(tmp_path, DIGITS, *own("without_a_class"))
    assert judged.code == 1 and "Traceback" in judged.text
    assert judged.figures["error"] == "RuntimeError: a fault in a model of one's own"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config", "none.yaml"], "none.yaml: no such file"),
        (["--config", str(DIGITS), "--ranks", "0"], "--ranks: '0' is no whole number of 1 or more"),
        (["--config", str(DIGITS), "step.precison=fp16"], "did you mean step.precision"),
        (["--config", str(DIGITS), "--ranks", "200"], "data.global_batch=128: 0 images a rank with --ranks 200"),
        (["--config", str(DIGITS), "step.accumulate=20"], "at least 20 needed (step.accumulate"),
        (
            ["--config", str(DIGITS), "--ranks", "128", "step.mixup=0.2"],
            "1 images a rank with --ranks 128, and at least 2",
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


def test_what_only_the_data_knows() -> None:
    digits = open_digits(8).train
    assert facts(load_config(DIGITS), None, None) == (digits.num_classes, digits.channels)
    assert facts(load_config(IMAGENET), None, None) == (1000, 3)
    assert facts(load_config(IMAGENET, ["data.mean=[0.5]"]), 7, None) == (7, 1)
    assert facts(load_config(DIGITS, ["data.source=synthetic", "data.synthetic_classes=5"]), None, 1) == (5, 1)


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


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_recipe_fits(recipe: Path, precision: str, tmp_path: Path) -> None:
    require_fit(judge(tmp_path, recipe, f"step.precision={precision}"))


@pytest.mark.slow
@pytest.mark.parametrize("model", list_models())
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_model_fits(model: str, precision: str, tmp_path: Path) -> None:
    size = ["data.image_size=64", "data.global_batch=32", "data.eval_batch=4", "snapshots.layers=[fc.weight]"]
    size.append("schedule.lr_init=0")  # the recipe's is above the peak of so small a batch
    require_fit(
        judge(tmp_path, IMAGENET, f"model.name={model}", f"step.precision={precision}", "model.options={}", *size)
    )


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
    others = {
        "precision",
        "loss",
        "loss_options",
    }  # each option is tried in all; a loss of one's own has a test of its own
    assert set(EACH_ON) == set(StepOptions.model_fields) - others


@pytest.mark.slow
@pytest.mark.parametrize("option", EACH_ON)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_option_of_the_step_fits(option: str, precision: str, tmp_path: Path) -> None:
    require_fit(judge(tmp_path, DIGITS, *TINY, f"step.precision={precision}", f"step.{option}={EACH_ON[option]}"))


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("groups", ["[]", "[{params: fc.*, lr_scale: 10}, {params: conv1.*, frozen: true}]"])
def test_every_optimizer_fits(name: str, groups: str, tmp_path: Path) -> None:
    require_fit(judge(tmp_path, DIGITS, *TINY, f"optimizer.name={name}", f"optimizer.groups={groups}"))


@pytest.mark.slow
def test_a_loss_and_an_optimizer_of_ones_own_are_judged_too(tmp_path: Path) -> None:
    mine = [f"step.loss={OWN}:Focal", "step.loss_options={gamma: 1.5}", f"optimizer.name={OWN}:SignDescent"]
    judged = judge(tmp_path, DIGITS, *TINY, *mine)
    require_fit(judged)
    kernels = {row["operator"] for row in judged.figures["operators"]}
    assert {"Sign", "LogSoftmax"} <= kernels and "Momentum" not in str(kernels), kernels


@pytest.mark.slow
def test_waits_are_counted_whatever_an_if_becomes(tmp_path: Path) -> None:
    judged = judge(tmp_path, DIGITS, *TINY, "optimizer.name=mindspore.nn:ASGD", "guard.mode=skip")
    kernels = {row["operator"] for row in judged.figures["operators"]}
    assert judged.code == 0 and judged.figures["host_waits"] > 1 and "ConditionSwitch" not in kernels


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_all_options_together_fit_and_so_does_fusion(precision: str, tmp_path: Path) -> None:
    options = [f"step.{option}={value}" for option, value in EACH_ON.items()]
    judged = judge(tmp_path, DIGITS, *TINY, f"step.precision={precision}", "device.jit_level=O1", *options)
    require_fit(judged)
    assert any(row["kind"] == "fused" for row in judged.figures["operators"]), judged.text


@pytest.mark.slow
@pytest.mark.parametrize("mode, launches, waits", [("skip", 1090, 1), ("stop", 1000, 0)])
def test_the_budget_of_launches(mode: str, launches: int, waits: int, tmp_path: Path) -> None:
    judged = judge(tmp_path, IMAGENET, *BUDGET, f"guard.mode={mode}")
    require_fit(judged)
    assert judged.figures["launches"] <= launches and judged.figures["exchanges"] <= 15
    assert judged.figures["host_waits"] == waits
