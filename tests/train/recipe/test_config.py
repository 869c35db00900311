"""What a user can write wrong is one line that names the key, before anything starts."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import BaseModel

from schedules.durations import Clock
from tests.jobs import DIGITS, ROOT, Tool, alone, environment
from train.data import open_readers
from train.recipe.read import _is_text, apply_override, load_config, parse_config, read_recipe, to_text, to_yaml
from train.recipe.sections import RunConfig, describe_keys
from train.rundir.folder import load_run_config
from train.runtime.errors import UserError, a_path
from train.runtime.keys import in_updates, load_reference

trust = Tool("train.rundir.trust")

RECIPES = sorted((ROOT / "train" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid(recipe: Path) -> None:
    assert load_config(recipe).schedule


def test_the_cifar10_recipe_reads_the_published_binary_files_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        records = rng.integers(0, 256, (20, 1 + 3 * 32 * 32), np.uint8)
        records[:, 0] = np.arange(20) % 10
        records.tofile(tmp_path / name)
    settings = ["data.source=cifar10", f"data.root={tmp_path}"]
    for held_out, sizes in ((2, (80, 20)), (0, (100, 20))):
        recipe = ROOT / "train" / "recipes" / "cifar10_resnet20.yaml"
        config = load_config(recipe, [*settings, f"data.hold_out={held_out}"])
        readers = open_readers(config.data)
        assert (len(readers.train), len(readers.validation)) == sizes
        assert readers.train.read(np.arange(4), np.random.default_rng).images.shape == (4, 3, 32, 32)


def test_overrides_are_read_as_yaml() -> None:
    config = load_config(DIGITS, ["seed=7", "optimizer.weight_decay=5e-4", "snapshots.steps=[1, 2]", "name=trial"])
    assert (config.seed, config.optimizer.weight_decay, config.snapshots.steps) == (7, 5e-4, [1, 2])
    assert config.run_dir == Path("runs/trial")


def test_one_value_stands_for_a_section_and_leaves_its_other_keys_alone(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    tree = read_recipe(DIGITS)
    tree |= {"device": "cpu", "model": {"name": "resnet20", "init_from": "a.safetensors"}}
    recipe.write_text(yaml.safe_dump(tree))
    config = load_config(recipe, ["device.jit_level=O1", "model.init_from.drop=[fc.*]"])
    assert (config.device.target, config.device.jit_level) == ("cpu", "O1")
    assert (config.model.init_from.path, config.model.init_from.drop) == ("a.safetensors", ["fc.*"])
    tree["model"]["init_from"] = {"path": "a.safetensors", "drop": ["fc.*"], "rename": {"classifier.": "fc."}}
    recipe.write_text(yaml.safe_dump(tree))
    config = load_config(recipe, ["model.init_from=b.ckpt"])
    assert (config.model.init_from.path, config.model.init_from.drop) == ("b.ckpt", ["fc.*"])
    # As checkpoints hold it that were saved when it was always a path.
    assert RunConfig.model_validate(tree | {"model": {"init_from": ""}}).model.init_from.path == ""


def test_the_resolved_configuration_reads_back_as_itself(tmp_path: Path) -> None:
    config = load_config(DIGITS, ["seed=7", "model.options={shortcut: B}"])
    (tmp_path / "config.yaml").write_text(to_yaml(config, versions={"numpy": "1"}))
    assert load_run_config(tmp_path) == config


def test_a_device_alone_is_short_for_its_target(tmp_path: Path) -> None:
    """As a recipe, an argument or a saved run of earlier versions writes it; the section's other keys stay."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(DIGITS.read_text() + "device: {jit_level: O1}\n")
    config = load_config(recipe, ["device=cpu"])
    assert (config.device.target, config.device.jit_level, config.device.deterministic) == ("cpu", "O1", True)
    recipe.write_text(DIGITS.read_text() + "device: cpu\n")
    assert load_config(recipe, ["device.jit_level=O1"]).device == config.device
    (tmp_path / "config.yaml").write_text(recipe.read_text())
    assert load_run_config(tmp_path).device.target == "cpu"


def test_a_run_that_ends_at_an_overflow_cannot_look_for_its_loss_scale() -> None:
    with pytest.raises(UserError, match=r"guard\.mode=stop .* step\.loss_scale_window=10 .* give guard\.mode=skip"):
        load_config(DIGITS, ["guard.mode=stop", "step.loss_scale_window=10"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("device.jit_level=O2", ["device.jit_level", "'O1'"]),
        ("guard.mode=halt", ["guard.mode", "'stop'"]),
        ("seeed=1", ["unknown key seeed", "seed"]),
        ("optimizer.momentun=0.9", ["optimizer.momentun", "momentum"]),
        ("data.global_batch=many", ["data.global_batch", "'many'"]),
        ("data.global_batch=1.5", ["data.global_batch", "1.5"]),
        ("data.global_batch=0", ["data.global_batch=0: must be at least 1"]),
        ("data.global_batch=true", ["data.global_batch", "True"]),
        ("optimizer.momentum=1.0", ["optimizer.momentum=1.0: must be below 1"]),
        ("optimizer.weight_decay=.nan", ["optimizer.weight_decay", "finite"]),
        ("name=../elsewhere", ["name", "../elsewhere"]),
        ("name=", ["name"]),
        ("device=gpu", ["device", "'cpu'"]),
        ("model.init_from.drop=[fc.*]", ["model.init_from", "path is missing"]),
        ("model.init_from={path: a, drop: fc}", ["model.init_from.drop='fc'", "list"]),
        ("model.init_from={path: a, droop: [fc]}", ["model.init_from.droop", "drop"]),
        ("model.init_from={path: a, grey_stem: mean}", ["model.init_from.grey_stem='mean'", "'sum'"]),
        ("schedule.kind=cosin", ["schedule", "cosine"]),
        ("schedule.warmup=100", ["schedule", "warmup"]),
        ("schedule.lr_max=.inf", ["schedule", "lr_max"]),
        ("schedule.extra=1", ["schedule", "extra"]),
        ("schedule.total=50", ["snapshots.steps", "60"]),
        ("snapshots.steps=[-1]", ["snapshots.steps", "-1"]),
        ("snapshots.layers=[]", ["snapshots", "no layer to record"]),
        ("snapshots.ranks=last", ["snapshots.ranks='last': must be auto, all, first, or a list of ranks, as [0, 8]"]),
        ("snapshots.ranks=[]", ["snapshots.ranks=[]", "must be auto, all, first, or a list"]),
        ("snapshots.ranks=[true]", ["snapshots.ranks=[True]", "must be auto, all, first, or a list"]),
        ("evaluate.every=-1", ["evaluate.every=-1", "not negative", "'5 epochs'"]),
        ("evaluate.every=1 epoches", ["evaluate.every='1 epoches'", "steps, epochs or percent"]),
        ("checkpoint.every=2.5", ["checkpoint.every=2.5", "whole updates"]),
        ("checkpoint.every=2.5 steps", ["checkpoint.every='2.5 steps'", "whole number"]),
        ("checkpoint.every=101%", ["checkpoint.every='101%'", "at most 100%"]),
        ("checkpoint.every=true", ["checkpoint.every=True", "steps, epochs or percent"]),
        ("checkpoint.every=[1]", ["checkpoint.every=[1]", "steps, epochs or percent"]),
        ("data=3", ["data=3: is a section"]),
        ("log.tensorboard=yes", ["log.tensorboard='yes': must be true or false"]),
        ("hooks=", ["hooks='': must be a list"]),
        ("data.mean=[123.675]", ["data.mean=[123.675]", "divide by 255: [0.485]"]),
        ("data.std=[58.395]", ["data.std=[58.395]", "divide by 255: [0.229]"]),
        ("evaluate.best=ema_top1", ["evaluate.best=ema_top1: there is no average of weights; set step.ema above 0"]),
        ("data.image_size=100000", ["data.image_size=100000: must be at most 4096"]),
        ("data.eval_batch=1e10", ["data.eval_batch=10000000000", "must be at most 1000000"]),
        ("data.std=[0.0]", ["data.std=[0.0]: must be 1e-06 to 1"]),
        ("data.mean=[-0.1]", ["data.mean=[-0.1]: must be 0 to 1"]),
        ("data.background=wite", ["data.background='wite': no colour"]),
        ("data.classes=nature", ["data.classes='nature': must be name, natural"]),
        ("data.augment=[3]", ["data.augment=[3]: 3: each entry is one name"]),
        ("data.augment=[{flip: 3}]", ["flip=3: its options are keys with values"]),
        ("data.augment=[{flip: {probability: x}}]", ["flip.probability='x': must be a number"]),
        ("seed.deeper=3", ["seed"]),
        ("seed", ["'seed'", "key=value"]),
        ("=1", ["key=value"]),
        ("seed=[1", ["not valid YAML"]),
        ("seed=!!python/object/apply:os.getcwd []", ["not valid YAML"]),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_key(override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_config(DIGITS, [override])
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


WRONG = (None, "x\ny", 2.5, -1, 10**30, 1e300, True, [], ["x"], [None], {}, {"a": 1}, datetime.date(2024, 5, 1))


def leaves(section: type[BaseModel] = RunConfig, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, (*above, key))
        yield (*above, key)


@pytest.mark.parametrize("key", list(leaves()), ids=".".join)
def test_no_wrong_value_is_told_in_the_words_of_a_library(key: tuple[str, ...]) -> None:
    refused = 0
    for value in WRONG:
        tree: dict[str, Any] = {"schedule": {"kind": "cosine"}, "data": {"source": "a:b"}}
        node = tree
        for part in key[:-1]:
            node = node.setdefault(part, {})
        node[key[-1]] = value
        try:
            parse_config("recipe", tree)
        except UserError as error:
            refused += 1
            assert not re.search(
                r"Input|valid |\b(str|int|float|dict|bool|instance)\b|\n", str(error).split(": ", 2)[-1]
            ), error
    assert refused


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("seed=010", 10),
        ("seed=1e3", 1000),
        ("data.global_batch=1e3", 1000),
        ("checkpoint.every=1e3", 1000),
        ("data.root=/data/set #2", "/data/set #2"),
        ("data.root=/data/a: b", "/data/a: b"),
        ("data.root='/data'", "'/data'"),
        ("data.root=[a]", "[a]"),
        ("name=20240501", "20240501"),
        ("name=2024-05-01", "2024-05-01"),
        ("name=1e3", "1e3"),
        ("name=on", "on"),
        ("model.name=~", "~"),
        ("data.background=#808080", "#808080"),
        ("data.orientation=ignore", "ignore"),
        (
            "model.options={a: 1:30, b: on, c: 2024-05-01, d: 0o17}",
            {"a": "1:30", "b": "on", "c": "2024-05-01", "d": 15},
        ),
    ],
)
def test_values_are_what_they_look_like(tmp_path: Path, override: str, value: object) -> None:
    tree = read_recipe(DIGITS)
    tree["data"]["source"] = "a:b"
    key = override.partition("=")[0]
    apply_override(tree, override, _is_text)
    config: Any = parse_config("recipe", tree)
    (tmp_path / "recipe.yaml").write_text(to_yaml(config), encoding="utf-8")
    for read in (config, parse_config("again", read_recipe(tmp_path / "recipe.yaml"))):
        for part in key.split("."):
            read = getattr(read, part)
        assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    "text", ["010", "0o17", "1e3", "on", "1:30", "2024-05-01", "~", "", "a: b", "x #2", "\x07", "=", "<<", "0b1"]
)
def test_what_is_written_is_read_back_as_itself(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(to_text({"key": text, "list": [text]}), encoding="utf-8")
    assert read_recipe(tmp_path / "recipe.yaml") == {"key": text, "list": [text]}


def test_a_section_left_empty_has_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("schedule: {kind: cosine}\noptimizer:\n  # momentum: 0.8\ndata:\n")
    tree = read_recipe(tmp_path / "recipe.yaml")
    assert parse_config("recipe", tree).optimizer == RunConfig(schedule={}).optimizer
    apply_override(tree, "optimizer.momentum=0.5")
    assert parse_config("recipe", tree).optimizer.momentum == 0.5


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("- 1\n", "mapping"),
        ("", "mapping"),
        ("seed: 1\nseed: 2\n", "given twice"),
        ("seed: 1\n", "schedule is missing"),
        ("a: [\n", "not valid YAML"),
        ("? [a]\n: 1\n", "not a word"),
        ("\x00", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=word):
        load_config(path)


@pytest.mark.parametrize(
    ("value", "updates"),
    [(0, 0), (7, 7), ("7 steps", 7), ("2 epochs", 22), ("0.5 epoch", 6), ("5%", 2), ("1%", None), ("0%", 0)],
)
def test_how_often_is_written_as_the_schedule_writes_durations(value: int | str, updates: int | None) -> None:
    config = load_config(DIGITS, [f"checkpoint.every={value}"])
    assert config.checkpoint.every == value, "epochs and shares stay as written: no data is read for them"
    clock = Clock(steps_per_epoch=11, total=40)
    if updates is not None:
        assert in_updates(config, clock).checkpoint.every == updates
    else:
        with pytest.raises(UserError, match=rf"^checkpoint\.every='{value}': is "):
            in_updates(config, clock)


def test_missing_and_binary_files_are_named(tmp_path: Path) -> None:
    for path, content in (
        (tmp_path / "none.yaml", None),
        (tmp_path / "binary.yaml", b"\xff\xfe\x80"),
        (tmp_path, None),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=path.name):
            load_config(path)


def test_the_command_refuses_with_code_2_and_writes_nothing(tmp_path: Path) -> None:
    done = alone(["-m", "train", "--config", DIGITS, "optimizer.momentun=1"], tmp_path)
    assert done.code == 2
    assert len(done.logs[0].strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_print_config_shows_valid_yaml(tmp_path: Path) -> None:
    """What a module of the reader's prints is no part of it: the launcher reads it."""
    (tmp_path / "chatty.py").write_text("print('key: here I am')")
    command = [sys.executable, "-m", "train", "--config", DIGITS, "--print-config", "seed=9", "imports=[chatty]"]
    variables = environment() | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert yaml.safe_load(done.stdout)["seed"] == 9 and "key" not in yaml.safe_load(done.stdout)
    assert done.stderr == "key: here I am\n"


def test_a_module_that_is_a_script_does_not_end_the_run_with_its_own_code(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a_script.py").write_text("import sys; sys.exit(0)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"imports='a_script': a_script ends with SystemExit\(0\) while it is imported"):
        load_config(DIGITS, ["imports=[a_script]"])


def test_reading_a_configuration_imports_no_framework() -> None:
    code = f"import sys; from train.recipe.read import load_config; load_config({str(DIGITS)!r}); "
    code += "sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_every_key_is_described() -> None:
    lines = describe_keys()
    chinese = describe_keys("zh_CN.UTF-8")
    assert len(chinese) == len(lines) and all(re.search("[\u4e00-\u9fff]", line) for line in chinese[:10])
    assert len(lines) > 15
    assert not [line for line in lines if line.endswith("None")]
    assert set(RunConfig.model_fields) == {line.split()[0].split(".")[0] for line in lines}


@pytest.mark.parametrize(
    ("stored", "harmless"),
    [
        ({"evaluate": {"metrics": ["top1", {"train.step.metrics:MacroF1": {"classes": 10}}]}}, True),
        ({"optimizer": {"name": "mindspore.nn:RMSProp"}}, True),
        ({"optimizer": {"name": "evil:make"}}, False),
        ({"evaluate": {"metrics": [{"train.step.metrics:MacroF1": {"classes": "evil:ten"}}]}}, False),
        ({"evaluate": {"metrics": [{"train.step.metrics:load_reference": {"reference": "x"}}]}}, False),
        ({"evaluate": {"metrics": [{"train.runtime.keys:import_modules": {"names": ["evil"]}}]}}, False),
        ({"step": {"loss": "mindspore.ops:Custom"}}, False),
        ({"step": {"loss": "mindspore.nn:BCEWithLogitsLoss"}}, True),
        ({"step": {"loss": "mindspore.nn:CrossEntropyLoss"}}, True),
        ({"step": {"loss": "mindspore.nn:SGD"}}, False),
        ({"optimizer": {"name": "mindspore.nn:GraphCell"}}, False),
        ({"optimizer": {"options": {"x": "mindspore.nn:RMSProp"}}}, False),
        ({"model": {"name": "mindspore.nn:GraphCell"}}, False),
        ({"data": {"source": "mindspore.nn:GraphCell"}}, False),
        ({"model": {"name": "mindspore.nn_evil:Model"}}, False),
    ],
)
def test_only_code_of_others_needs_trust(stored: dict, harmless: bool) -> None:
    """What imports or loads something by its arguments is no less dangerous for being ours or MindSpore's."""
    with nullcontext() if harmless else pytest.raises(UserError, match=r"here: .* is code that may not be yours"):
        trust.refuse_modules(stored, Path("here"), trust_code=False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["step.loss=a:b", "step.loss_options={clip: .inf}"], r"step\.loss_options\.clip=inf: must be a finite number"),
        (["model.options={a: [1.0, {b: .nan}]}"], "must be a finite number"),
        (["imports=['']"], r"imports='': '' is not the name of a module"),
        (["imports=[.x]"], r"imports='\.x': '\.x' is not the name of a module"),
        (["model.name=.x:f"], r"model\.name='\.x:f': '\.x' is not the name of a module"),
    ],
)
def test_values_that_would_fail_later_are_refused_at_once(settings: list[str], words: str) -> None:
    """An infinite option cannot be written into a checkpoint: the first save would have ended the training."""
    with pytest.raises(UserError, match=words):
        config = load_config(DIGITS, settings)
        load_reference(config.model.name, "model.name")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.nam=x", r"unknown key model\.nam: did you mean model\.name\?"),
        ("weight_decay=0.1", r"unknown key weight_decay: did you mean optimizer\.weight_decay\?"),
        ("optimizer.groups=[{params: a, lr_scal: 1}]", r"did you mean optimizer\.groups\.0\.lr_scale\?"),
        ("model.options.x=" + "[" * 3000 + "]" * 3000, "nested more than 50 deep"),
        ("model.options." + "a." * 3000 + "a=1", "keys within keys go 50 deep, not 3002"),
        ("data.global_batch=" + "9" * 4000, "has 4000 digits"),
        ("data.global_batch=1e300", r"data\.global_batch=1\d{199}…: must be at most 1000000$"),
        (
            "schedule={kind: cosin, lr_max: 1, total: 5 epochs}",
            r"schedule\.kind = 'cosin': unknown; did you mean cosine",
        ),
        ("schedule.total=-1 epochs", r"schedule\.total = '-1 epochs': must be steps, epochs or percent"),
        ("snapshots.steps=[90, 100]", r"snapshots\.steps=\[90, 100\]: the run makes updates 0 to 99, not 100$"),
        ("step.clip_norm=1e-320", r"step\.clip_norm=1e-320: must be a finite number that float32"),  # would be 0 there
        ("optimizer.weight_decay=1e300", r"optimizer\.weight_decay=1e\+300: must be a finite number that float32"),
        ('model.options.x="\\ud800"', r"model\.options\.x='\\ud800': a name must not contain"),
    ],
)
def test_what_no_run_can_use_is_named_as_it_is_written(setting: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_config(DIGITS, [setting])


def test_a_tilde_is_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves it alone behind "key=" and "--out="."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "recipe.yaml").write_text(Path(DIGITS).read_text())
    settings = ["runs_dir=~/runs", "resume=~/a", "model.init_from=~/b", "data.source=cifar10", "data.root=~/c"]
    config = load_config("~/recipe.yaml", settings)
    found = [config.runs_dir, config.resume, config.model.init_from.path, config.data.root]
    assert found == [str(tmp_path / name) for name in ("runs", "a", "b", "c")]
    assert a_path("~/d") == tmp_path / "d"
