"""What can be done with a finished run: its file alone is enough to score, to export and to ask it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import yaml
from mindspore import Tensor, nn
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.jobs import DIGITS, Tool, alone, train_task
from tests.models.reference import Case
from train.checkpoint.card import CARD_FILE, METADATA_KEY, InputCard, ModelCard, parse_card, read_card
from train.checkpoint.disk import SUMS_FILE
from train.checkpoint.saved import find_model
from train.data.arrays import MemorySource, open_digits
from train.recipe.read import load_config
from train.rundir.folder import CONFIG_FILE
from train.runtime import packages
from train.runtime.errors import RunError, UserError

pytestmark = pytest.mark.usefixtures("on_cpu")

export, predict, score = Tool("train.export"), Tool("train.predict"), Tool("train.score")
trained = Tool("train.run.trained")

CLASSES = ("round", "square", "wide")
IMAGENET = ["model.name=resnet18", "model.options={depths: [1, 1, 1, 1]}", "data.source=image_folder"]
IMAGENET += ["data.image_size=33", "data.eval_resize=40", "data.global_batch=6", "schedule.warmup=1"]
IMAGENET += ["schedule.total=3", "snapshots.steps=[]", "snapshots.layers=[fc.weight]", "step.ema=0.5"]


def draw_folder(root: Path, classes: tuple[str, ...] = CLASSES, count: int = 6) -> Path:
    """Photographs of nothing: noise of another brightness for each class."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for number, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 120, (45, 50, 3)) + 60 * number
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / part / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small CIFAR ResNet on the digits, and a small ImageNet ResNet on a folder of images."""
    folder = tmp_path_factory.mktemp("runs")
    root = draw_folder(folder / "images")
    alone(train_task(folder, "cifar"), folder).check()
    alone(train_task(folder, "imagenet", *IMAGENET, f"data.root={root}"), folder).check()
    return {name: folder / name for name in ("cifar", "imagenet")}


@pytest.fixture(params=["cifar", "imagenet"])
def run(request: pytest.FixtureRequest, runs: dict[str, Path]) -> Path:
    return runs[request.param]


def some_images(card: ModelCard, count: int = 4) -> np.ndarray:
    shape = (count, card.channels, card.image_size, card.image_size)
    return np.random.default_rng(3).integers(0, 256, shape, np.uint8)


def test_a_saved_model_says_what_it_is_and_how_images_are_prepared(runs: dict[str, Path]) -> None:
    path = find_model(runs["imagenet"])
    card = read_card(path)
    assert card is not None and card.class_names == list(CLASSES) and card.versions == packages.versions()
    assert (card.name, card.options, card.num_classes, card.channels) == ("resnet18", {"depths": [1, 1, 1, 1]}, 3, 3)
    assert (card.image_size, card.eval_resize, card.mean) == (33, 40, [0.485, 0.456, 0.406])
    assert read_card(path.with_name("ema.safetensors")) == card
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {METADATA_KEY: card.to_json()}
    beside = path.with_name(CARD_FILE)
    assert parse_card(beside.read_text(), beside) == card
    assert hashlib.sha256(beside.read_bytes()).hexdigest() in (path.parent / SUMS_FILE).read_text()
    subprocess.run(["sha256sum", "-c", "--quiet", SUMS_FILE], cwd=path.parent, check=True)


def test_the_exported_mindir_gives_the_logits_of_the_run_bit_for_bit(run: Path) -> None:
    card, network = trained.open_model(find_model(run), trust_code=False)
    out = export.export(run, "mindir")
    assert out == run / "exports" / "model.mindir"
    graph = nn.GraphCell(ms.load(str(out)))
    for count in (1, 4):
        images = Tensor(some_images(card, count))
        logits = network(images).asnumpy()
        assert np.ptp(logits) > 0
        np.testing.assert_array_equal(graph(images).asnumpy(), logits)


def test_the_exported_onnx_gives_the_logits_of_the_run(run: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    card, network = trained.open_model(find_model(run), trust_code=False)
    out = export.export(run, "onnx", batch=2, out=tmp_path / "new" / "two.onnx")
    assert read_json(tmp_path / "new" / "two.json") == card.model_dump()
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    images = some_images(card, 2)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    np.testing.assert_allclose(logits, network(Tensor(images)).asnumpy(), atol=1e-4)


def test_the_exported_weights_are_those_of_torch(run: Path) -> None:
    out = export.export(run, "safetensors-torch")
    tensors, own = load_file(out), load_file(find_model(run))
    assert tensors["bn1.running_mean"].tolist() == own["bn1.moving_mean"].tolist()
    assert read_card(out) == read_card(find_model(run))
    torch = pytest.importorskip("torch")
    from tests.models.torch_resnet import TorchResNet, conv_bn

    card, network = trained.open_model(find_model(run), trust_code=False)
    if run.name == "cifar":
        twin = TorchResNet(Case("", (1, 1, 1), (16, 32, 64), "A", "cifar", bottleneck=False))
        twin.conv1, _ = conv_bn(1, 16, 3)  # the digits are grey
    else:
        twin = TorchResNet(Case("", (1, 1, 1, 1), (64, 128, 256, 512), bottleneck=False, classes=3))
    twin.eval()
    twin.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()}, strict=True)
    images = some_images(card)
    scaled = (images / 255 - np.reshape(card.mean, (-1, 1, 1))) / np.reshape(card.std, (-1, 1, 1))
    with torch.no_grad():
        logits = twin(torch.from_numpy(scaled.astype(np.float32))).numpy()
    np.testing.assert_allclose(logits, network(Tensor(images)).asnumpy(), atol=1e-4)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def asked(model: Path, *arguments: str | Path) -> list[dict]:
    done = alone(["-m", "train.predict", model, *arguments], model.parent).check()
    return [json.loads(line) for line in done.logs[0].splitlines() if line.startswith("{")]


def test_a_run_its_file_and_its_export_say_the_same_of_images(runs: dict[str, Path], tmp_path: Path) -> None:
    validation = open_digits(8).validation
    assert isinstance(validation, MemorySource)
    paths = []
    for index in range(3):
        Image.fromarray(validation.images[index, 0]).save(tmp_path / f"{index}.png")
        paths.append(tmp_path / f"{index}.png")
    alone_file = tmp_path / "elsewhere.safetensors"
    shutil.copy(find_model(runs["cifar"]), alone_file)
    answers = asked(runs["cifar"], *paths, "--top", "10")
    assert [answer["image"] for answer in answers] == [str(path) for path in paths]
    _, network = trained.open_model(alone_file, trust_code=False)
    for index, answer in enumerate(answers):
        logits = network(Tensor(validation.images[index][None])).asnumpy()[0]
        expected = predict.softmax(logits)
        for entry in answer["top"]:
            assert entry["probability"] == pytest.approx(expected[entry["label"]], abs=1e-6)
        assert answer["top"][0]["label"] == logits.argmax() and len(answer["top"]) == 10
    assert asked(alone_file, *paths, "--top", "10") == answers
    exported = export.export(runs["cifar"], "mindir", out=tmp_path / "away" / "digits.mindir")
    assert asked(exported, *paths, "--top", "10") == answers


def test_an_image_is_prepared_as_in_the_evaluation_of_the_run(runs: dict[str, Path]) -> None:
    from train.data import open_readers
    from train.rundir.folder import load_run_config

    reader = open_readers(load_run_config(runs["imagenet"]).data)[1]
    card = read_card(find_model(runs["imagenet"]))
    assert card is not None
    (image,) = predict.prepare(Path(reader.source.name(4)), card)
    np.testing.assert_array_equal(image, reader.read(np.array([4])).images)


def test_the_average_is_another_model(runs: dict[str, Path]) -> None:
    out = export.export(runs["imagenet"], "safetensors-torch", averaged=True)
    assert out.name == "ema.torch.safetensors"
    assert (load_file(out)["conv1.weight"] != load_file(find_model(runs["imagenet"]))["conv1.weight"]).any()


@pytest.mark.parametrize(
    ("kind", "words"),
    [("nothing", "cannot be read: No such file"), ("pipe", "is not a regular file"), ("text", "no image of a format")],
)
def test_what_is_no_image_is_one_line(kind: str, words: str, runs: dict[str, Path], tmp_path: Path) -> None:
    card = read_card(find_model(runs["cifar"]))
    assert card is not None
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "text":
        path.write_text("no image")
    with pytest.raises(UserError, match=f"a.png: .*{words}"):
        predict.prepare(path, card)


def test_mistakes_are_one_line_and_exit_code_2(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"fc.weight": np.zeros((2, 2), np.float32)}, foreign)
    (tmp_path / "broken.mindir").write_bytes(b"no graph")
    shutil.copy(find_model(runs["cifar"]).with_name(CARD_FILE), tmp_path / "broken.json")
    for command, arguments, words in (
        (predict.main, [str(tmp_path / "nowhere"), "a.png"], "no saved model"),
        (predict.main, [str(foreign), "a.png"], "does not describe its model"),
        (predict.main, [str(tmp_path / "broken.mindir"), "a.png"], "not a readable MindIR file"),
        (predict.main, [str(tmp_path / "lost.mindir"), "a.png"], "lost.json: No such file"),
        (predict.main, [str(tmp_path / "a.onnx"), "a.png"], "as onnxruntime"),
        (predict.main, [str(runs["cifar"]), "a.png", "--best"], "a.png: cannot be read"),
        (predict.main, [str(foreign), "a.png", "--best"], "--best needs the folder of a run"),
        (export.main, [str(foreign), "--to", "mindir"], "does not describe its model"),
        (export.main, [str(runs["cifar"]), "--to", "onnx", "--ema"], "step.ema above 0"),
    ):
        assert command(arguments) == 2, arguments
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and words in err, err


def test_one_bad_image_of_many_is_named_and_the_others_are_asked(
    runs: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "c.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"no image")
    for model in ("checkpoints/best", "checkpoints/latest", "."):
        arguments = [str(runs["cifar"] / model), *(str(tmp_path / f"{name}.png") for name in "abc")]
        assert predict.main(arguments) == 2
        out, err = capfd.readouterr()
        found = [json.loads(line)["image"] for line in out.splitlines() if line.startswith("{")]
        assert found == [str(tmp_path / "a.png"), str(tmp_path / "c.png")]
        assert err.count("error: ") == 1 and "b.png: its content is no image" in err


def test_what_is_not_finite_is_no_answer(runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["cifar"], run)
    path = find_model(run)
    card = read_card(path)
    assert card is not None
    weights = load_file(path)
    weights["fc.weight"][:] = 3e38
    save_file(weights, path, {METADATA_KEY: card.to_json()})
    renew_sum(path)
    Image.new("L", (8, 8), 200).save(tmp_path / "a.png")
    model = predict.open_predictor(run)
    for ask in (
        lambda: predict.answer_of(model, predict.prepare(tmp_path / "a.png", model.card), 5),
        lambda: score.score(run),
    ):
        with pytest.raises(RunError, match="finite") as raised:
            ask()
        assert raised.value.exit_code == 3


def renew_sum(path: Path) -> None:
    """Let the sum of a changed file of a checkpoint be right again."""
    sums = (path.parent / SUMS_FILE).read_text().splitlines()
    fresh = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"
    lines = [fresh if line.endswith(f"  {path.name}") else line for line in sums]
    (path.parent / SUMS_FILE).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "change", [{"num_classes": 10**12}, {"num_classes": 10**7}, {"options": {"depths": [10**6, 1, 1]}}], ids=str
)
def test_a_description_of_more_than_its_file_holds_is_refused(
    change: dict, runs: dict[str, Path], tmp_path: Path
) -> None:
    path = find_model(runs["cifar"])
    card = read_card(path)
    assert card is not None
    text = card.model_copy(update={"class_names": [], **change}).to_json()
    save_file(load_file(path), tmp_path / "model.safetensors", {METADATA_KEY: text})
    with pytest.raises(UserError, match=r"model\.safetensors: (it describes a model of|its description)"):
        trained.open_model(tmp_path / "model.safetensors", trust_code=False)


class TwoInputs(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Dense(3, 2)

    def construct(self, size, words):
        return self.fc(size) + words.astype(ms.float32).sum(), size * 2


def make_two(num_classes: int, in_channels: int) -> nn.Cell:
    return TwoInputs()


def test_a_model_of_any_task_is_asked_and_exported(tmp_path: Path) -> None:
    """Two inputs by name, in another order than the model's, and two outputs that are no classes."""
    given = json.loads(broken_cards()["fine"]) | {
        "name": f"{__name__}:make_two",
        "mean": [],
        "std": [],
        "gives": "values",
    }
    given["inputs"] = [
        {"name": "words", "shape": [4], "dtype": "int32"},
        {"name": "size", "shape": [3], "dtype": "float32"},
    ]
    weights = {name: value.asnumpy() for name, value in TwoInputs().parameters_dict().items()}
    save_file(weights, tmp_path / "model.safetensors", {METADATA_KEY: json.dumps(given)})
    words, size = np.arange(4, dtype=np.int32), np.array([0.5, 1, 2], np.float32)
    np.savez(tmp_path / "a.npz", words=words, size=size)
    model = trained.open_trained(tmp_path / "model.safetensors", trust_code=True)
    first, second = model(words[None], size[None])
    np.testing.assert_allclose(first[0], weights["fc.weight"] @ size + weights["fc.bias"] + 6, rtol=1e-5)
    assert (second[0] == size * 2).all()
    out = export.export(tmp_path / "model.safetensors", "mindir", trust_code=True)
    for path in (tmp_path / "model.safetensors", out):
        asked = predict.open_predictor(path, trust_code=True)
        answer = predict.answer_of(asked, predict.prepare(tmp_path / "a.npz", asked.card), 5)
        assert answer == {"outputs": {"output 0": first[0].tolist(), "output 1": second[0].tolist()}}


def broken_cards() -> dict[str, str]:
    fine = {"name": "resnet20", "options": {}, "num_classes": 2, "channels": 1, "class_names": ["a", "b"]}
    fine |= {"orientation": "apply", "background": "white", "max_pixels": 100}
    fine |= {"image_size": 8, "eval_resize": 0, "mean": [0.5], "std": [0.5], "precision": "fp32", "batch_norm": "fp32"}
    fine |= {"inputs": [{"name": "", "shape": [1, 8, 8], "dtype": "uint8"}], "gives": "classes", "versions": {}}
    assert parse_card(json.dumps(fine), "here").num_classes == 2
    changes = {"mean": [float("nan")], "std": [0.0], "class_names": ["a"], "channels": 3, "precision": "fp8"}
    changes |= {"num_classes": -1, "extra": 1, "format": 2, "image_size": 1.5, "background": "none", "eval_resize": 4}
    broken = {key: json.dumps(fine | {key: value}) for key, value in changes.items()}
    more = {"a mean of 1e308": {"mean": [1e308]}, "a std of 1e-320": {"std": [1e-320]}}
    more |= {
        "no inputs": {"inputs": []},
        "huge images": {"image_size": 10**9},
        "an input": {"inputs": [{"name": "", "shape": [3], "dtype": "O"}]},
    }
    broken |= {name: json.dumps(fine | change) for name, change in more.items()}
    return broken | {"no JSON": "{", "a list": "[]", "fine": json.dumps(fine)}


@pytest.mark.parametrize("key", [key for key in broken_cards() if key != "fine"])
def test_a_description_that_cannot_be_true_is_refused(key: str, tmp_path: Path) -> None:
    text = broken_cards()[key]
    path = tmp_path / "model.safetensors"
    save_file({"fc.weight": np.zeros((2, 2), np.float32)}, path, {METADATA_KEY: text})
    with pytest.raises(UserError, match=r"model\.safetensors: its description of the model is not readable"):
        read_card(path)


def test_a_model_of_arrays_is_described_too_but_takes_no_image_files(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    inputs = [InputCard(name="words", shape=[None], dtype="int32"), InputCard(name="size", shape=[2], dtype="float32")]
    images = parse_card(broken_cards()["fine"], "here")
    card = images.model_copy(update={"mean": [], "std": [], "inputs": inputs})
    assert parse_card(card.to_json(), "here") == card
    with pytest.raises(UserError, match=r"a\.png: no \.npy file, or \.npz with words, size"):
        predict.prepare(tmp_path / "a.png", card)
    words, size = np.arange(3, dtype=np.int32), np.ones(2, np.float32)
    np.savez(tmp_path / "a.npz", words=words, size=size)
    assert [array.shape for array in predict.prepare(tmp_path / "a.npz", card)] == [(1, 3), (1, 2)]
    np.savez(tmp_path / "b.npz", words=words.astype(np.int64), size=size)
    with pytest.raises(UserError, match=r"b\.npz: int64 \[3\]; the model takes int32 \[any\]"):
        predict.prepare(tmp_path / "b.npz", card)


def test_a_source_that_contradicts_itself_is_one_line() -> None:
    source = MemorySource(np.zeros((4, 1, 8, 8), np.uint8), np.zeros(4, np.int32), 2, class_names=["a"])
    source.mean, source.std = (0.5,), (0.2,)
    config = load_config(DIGITS)
    with pytest.raises(UserError, match=r"data\.source=digits: 1 names for 2 classes"):
        ModelCard.describe(config.model, config.data, config.step, source, source.example)


def test_a_run_is_scored_on_other_data(runs: dict[str, Path], tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "more", count=9)
    figures = score.score(runs["imagenet"], [f"data.root={root}", "data.eval_batch=5"])
    assert figures["examples"] == 27
    with pytest.raises(UserError, match=r"unknown key data\.rot"):
        score.score(runs["imagenet"], ["data.rot=x"])


def test_other_classes_are_refused_by_name(runs: dict[str, Path], tmp_path: Path) -> None:
    card = read_card(find_model(runs["imagenet"]))
    assert card is not None
    named = card.model_copy(update={"class_names": list(CLASSES)})
    named.refuse_other_classes(CLASSES, "here", "")
    named.refuse_other_classes([], "here", "")
    for names, words in (
        (("round", "wide", "square"), "class 1 is 'square' there and 'wide' here"),
        (("round", "square"), r"3 classes \(round, square, wide\), not 2"),
    ):
        with pytest.raises(UserError, match=rf"here: made for other classes.*{words}; do that"):
            named.refuse_other_classes(names, "here", "do that")
    root = draw_folder(tmp_path / "others", ("round", "square", "tall"))
    with pytest.raises(UserError, match="class 2 is 'wide' there and 'tall' here; score it"):
        score.score(runs["imagenet"], [f"data.root={root}"])


EVIL = "import pathlib\npathlib.Path({!r}).write_text('imported')\nfrom models import create_model as create\n"


def test_a_downloaded_run_imports_nothing_unless_its_code_is_trusted(runs: dict[str, Path], tmp_path: Path) -> None:
    """Both places are tried that name a model: the stored configuration and the file of weights."""
    run, trace = tmp_path / "downloaded", tmp_path / "trace"
    shutil.copytree(runs["cifar"], run)
    (tmp_path / "evil.py").write_text(EVIL.format(str(trace)))
    tree = yaml.safe_load((run / CONFIG_FILE).read_text())
    options = {"name": "resnet20", **tree["model"]["options"]}
    tree["model"] |= {"name": "evil:create", "options": options}
    (run / CONFIG_FILE).write_text(yaml.safe_dump(tree))
    path = find_model(run)
    card = read_card(path)
    assert card is not None
    save_file(load_file(path), path, {METADATA_KEY: card.model_copy(update={"name": "evil:create"}).to_json()})
    renew_sum(path)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    # The run's folder is where a reader would start the command, so its modules can be found.
    commands = {
        "score": ["-m", "train.score", run],
        "export": ["-m", "train.export", run, "--to", "mindir"],
        "predict": ["-m", "train.predict", run, tmp_path / "a.png"],
    }
    for name, command in commands.items():
        done = alone(command, tmp_path)
        assert done.code == 2 and done.logs[0].count("\n") == 1, done.logs[0]
        assert "model.name='evil:create'" in done.logs[0] and "--trust-code" in done.logs[0], name
        assert not trace.exists(), name
    done = alone([*commands["score"], "--trust-code", "model.options={depths: [9, 9]}"], tmp_path)
    assert trace.exists(), done.logs[0]


def test_a_run_trained_here_with_a_module_of_ones_own_is_trusted_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "nets.py").write_text("from models import create_model\n\n\ndef create(**options):\n"
        "    return create_model('resnet20', depths=[1, 1, 1], **options)\n")  # fmt: skip
    own = ["model.name=own.nets:create", "model.options={}", "snapshots.layers=[]", "snapshots.steps=[]"]
    alone(train_task(tmp_path, "mine", *own), tmp_path).check()
    assert alone(["-m", "train.score", "mine"], tmp_path).check().logs[0].startswith("{")
    shutil.copytree(tmp_path / "mine", tmp_path / "copy")
    trace = tmp_path / "trace"
    (tmp_path / "own" / "__init__.py").write_text(f"open({str(trace)!r}, 'w')")  # no package above is imported either
    for name in ("copy", "mine"):
        done = alone(["-m", "train.predict", name, "a.png"], tmp_path)
        if name == "mine":
            assert "a.png: cannot be read" in done.logs[0], "its own file is as it was"
            (tmp_path / "own" / "nets.py").write_text("raise SystemExit('imported')")
            done = alone(["-m", "train.predict", name, "a.png"], tmp_path)
        assert done.code == 2 and "'own.nets:create' is code" in done.logs[0] and "--trust-code" in done.logs[0]
        assert name == "mine" or not trace.exists()


@pytest.mark.parametrize(
    "stored",
    [
        {"data": {"source": "evil:open"}},
        {"data": {"augment": ["flip", {"evil:Change": {}}]}},
        {"model": {"options": {"norm": "evil:norm"}}},
        {"model": {"name": "evil mod:create"}},
    ],
)
def test_whatever_names_a_module_is_refused(stored: dict, runs: dict[str, Path], tmp_path: Path) -> None:
    tree = yaml.safe_load((runs["cifar"] / CONFIG_FILE).read_text())
    for section, keys in stored.items():
        tree[section] |= keys
    (tmp_path / CONFIG_FILE).write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=r"config\.yaml: (data|model)\..*evil.*--trust-code"):
        score.score(tmp_path)
    with pytest.raises(UserError, match="no saved model"):  # what the user says here is not the run's
        keys = [f"{section}.{key}" for section in stored for key in stored[section]]
        plain = {"data.source": "digits", "data.augment": "[]", "model.options": "{}", "model.name": "resnet20"}
        score.score(tmp_path, [f"{key}={plain[key]}" for key in keys])
