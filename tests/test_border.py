"""The border: tools and extras can be deleted with what belongs to them; what is left is whole, collects and trains."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs import HANGS, ROOT, environment, msrun_command

COMPARISON = ("train/comparison", "tests/train/comparison")
COMPARE_RUNS = ("train/compare_runs.py", "tests/train/test_compare_runs.py")
PREDICT = ("train/predict.py", "models/mindir.py")
EXPORT = ("train/export.py", "tests/train/test_export.py")
CKPT = ("models/ckpt.py", "tests/models/test_ckpt.py")
SCORE = ("train/score.py",)
SCHEDULES = ("schedules/__main__.py", "schedules/tables.py", "schedules/source.py", "tests/schedules/test_command.py")
TOOLS = {
    "predict": PREDICT,
    "export": EXPORT,
    # Both are made of it.
    "the saved model as a function": ("train/run/trained.py", *PREDICT, *EXPORT),
    "score": SCORE,
    # They ask whether a module may be imported.
    "trust": ("train/rundir/trust.py", "train/run/trained.py", *PREDICT, *EXPORT, *SCORE, *COMPARISON, *COMPARE_RUNS),
    "compare_runs": COMPARE_RUNS,
    # What puts runs side by side reads them as the comparison does.
    "comparison": (*COMPARISON, *COMPARE_RUNS),
    "preflight": ("train/preflight", "tests/train/preflight", "launch/preflight.sh"),
    "dryrun": ("train/dryrun", "tests/train/dryrun"),
    "new": ("train/new.py", "tests/train/test_adapting.py"),
    "the schedules' command": SCHEDULES,
    # Both draw with it.
    "the pictures of a schedule": ("schedules/plot.py", *SCHEDULES, *COMPARISON, *COMPARE_RUNS),
    "the models' command": ("models/__main__.py", "tests/models/test_command.py"),
    "the page of keys": ("train/recipe/reference.py", "tests/train/recipe/test_reference.py"),
}
"""By tool what is deleted with it, and its entry points in pyproject.toml."""
MINDRECORD = ("train/data/mindrecord.py", "train/data/convert.py", "tests/train/data/test_mindrecord.py")
# Both list folders and number classes with it.
IMAGE_FOLDER = ("train/data/image_folder.py", "tests/train/data/test_images_folder.py", *MINDRECORD)
CIFAR10 = ("train/data/cifar10.py", "tests/train/data/test_cifar10.py")
DIALECTS = ("schedules/dialects.py", "tests/schedules/test_dialects.py")
EXTRAS = {
    "mindrecord": MINDRECORD,
    "image_folder": IMAGE_FOLDER,
    "cifar10": CIFAR10,
    "sources of files": ("train/data/of_files.py", *IMAGE_FOLDER, *CIFAR10),
    "trivial_augment and rand_augment": ("train/data/policies.py", "tests/train/data/test_policies.py"),
    "MindSpore's callbacks": ("train/hooks/callbacks.py", "tests/train/hooks/test_callbacks.py"),
    "EarlyStopping": ("train/hooks/early_stopping.py", "tests/train/hooks/test_early_stopping.py"),
    "Profile": ("train/hooks/profile.py", "tests/train/hooks/test_profile.py"),
    "dialects of schedules": DIALECTS,
    # Two dialects are made of them.
    "more kinds of schedules": ("schedules/more_kinds.py", *DIALECTS),
    "pad_crop, flip and random_erasing": ("train/data/geometry.py", "tests/train/data/test_geometry.py"),
    "more optimizers": ("train/step/more_rules.py",),
    "Dropout": ("train/step/dropout.py", "tests/train/step/test_dropout.py"),
    ".ckpt": CKPT,
    # Two of these look through such messages.
    "protobuf": ("models/protobuf.py", *CKPT, *PREDICT),
}
"""By what a recipe may name what is deleted with it: read only by whoever uses it, and known to the rest by its name in
one table."""
TABLES = (
    "pyproject.toml",
    "models/formats.py",
    "schedules/__init__.py",
    "schedules/config.py",
    "train/data/options.py",
    "train/data/augment.py",
    "train/step/options.py",
    "train/hooks/__init__.py",
    "train/hooks/base.py",
)
"""Files in which a line is all that names what can be deleted."""
PARTS = TOOLS | EXTRAS
CASES = [(name,) for name in PARTS] + [tuple(PARTS)]
MOST_CORE_LINES = 11_812
"""Of Python outside tests/, launch/, the tools and the extras: what who takes the template home has to know. To be
lowered with every change that makes it smaller; the goal is 11,500."""
NAMED = {
    "data.source=mindrecord": "data.source='mindrecord': allowed: digits, synthetic",
    "schedule.kind=one_cycle": "kind = 'one_cycle': unknown",
    "schedule.dialect=torch": "dialect = 'torch': unknown",
    "optimizer.name=lars": "optimizer.name='lars'",
    "data.augment=[rand_augment]": "unknown augmentation 'rand_augment'",
    "hooks=[mindspore.train:LossMonitor]": "makes a LossMonitor, neither a train.hooks.Hook",
    "profile.steps=[1, 2]": "no module 'train.hooks.profile'",
    "model.init_from=model.ckpt": "model.ckpt' is not a readable safetensors file",
}
"""Settings that name an extra, and what is said where it has been deleted."""
SMALL = ["model.options={depths: [1, 1, 1]}", "data.image_size=8", "schedule.warmup=1", "schedule.total=3"]
SMALL += ["snapshots.steps=[1]", "snapshots.layers=[fc.weight]", "runs_dir=runs", "name=trial"]


def delete(copy: Path, parts: tuple[str, ...]) -> None:
    deleted = dict.fromkeys(place for part in parts for place in PARTS[part])
    for place in deleted:
        path = copy / place
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    modules = [place.removesuffix(".py").replace("/", ".") for place in deleted]
    named = [words for module in modules for words in (f'"{module}', f"import {module} ", f"from {module} import")]
    for table in TABLES:
        lines = (copy / table).read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not any(words in line for words in named)]
        (copy / table).write_text("".join(kept), encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    left_out = shutil.ignore_patterns(".*", "__pycache__", "runs", "*.egg-info", "build", "dist")
    return Path(shutil.copytree(ROOT, tmp_path / "copy", ignore=left_out))


def run(copy: Path, *command: str, code: int = 0) -> str:
    done = subprocess.run(
        command,
        cwd=copy,
        env={**environment(), "PYTHONPATH": str(copy)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=HANGS,
    )
    assert done.returncode == code, done.stdout[-3000:]
    return done.stdout


@pytest.mark.msrun
@pytest.mark.parametrize(
    "parts", [pytest.param(c, marks=[] if len(c) > 1 else pytest.mark.slow, id="+".join(c)) for c in CASES]
)
def test_without_a_part_the_rest_is_whole(parts: tuple[str, ...], copy: Path) -> None:
    delete(copy, parts)
    collected = run(copy, sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider")
    assert int(re.findall(r"(\d+) tests? collected", collected)[-1]) > 1000
    for module in re.findall(r'^[\w-]+ = "([\w.]+):main"$', (copy / "pyproject.toml").read_text(), re.M):
        assert (copy / f"{module.replace('.', '/')}.py").is_file(), f"{module} is offered and not there"

    recipe = "train/recipes/digits_resnet20.yaml"
    (copy / "model.ckpt").write_bytes(b"\n\x00")
    job = msrun_command(2, ["-m", "train", "--config", recipe, *SMALL], copy / "logs")
    run(copy, *job)
    trained = copy / "runs/trial"
    assert len(list((trained / "snapshots").glob("*.npz"))) == 2 and list((trained / "checkpoints").iterdir())
    assert (trained / "comparison/comparison.md").exists() == (copy / "train/comparison").exists()
    for setting, words in NAMED.items() if set(EXTRAS) <= set(parts) else ():
        told = run(copy, sys.executable, "-m", "train", "--config", recipe, *SMALL, "name=other", setting, code=2)
        assert told.count("\n") == 1 and words in told, told
    assert not (copy / "runs/other").exists()


def test_the_core_stays_small() -> None:
    parts = [ROOT / place for places in PARTS.values() for place in places]
    outside = [ROOT / "tests", ROOT / "launch", *parts]
    files = [
        path
        for path in ROOT.rglob("*.py")
        if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        and not any(path.is_relative_to(place) for place in outside)
    ]
    counted = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    assert counted <= MOST_CORE_LINES and len(files) > 50, f"the core has {counted} lines"
