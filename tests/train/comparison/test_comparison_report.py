"""What the report says: in which words, in which language, and what comparison.json holds."""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from pathlib import Path
from string import Formatter

import numpy as np
import pytest
from matplotlib import rc_context
from PIL import Image

from tests.jobs import alone, train_task
from tests.train.finished_runs import DOCUMENT, LAYERS, moved, write_run
from train.comparison import picture
from train.comparison.__main__ import main
from train.comparison.finished_run import open_run
from train.comparison.markdown import render
from train.comparison.picture import colours
from train.comparison.report import Comparison, compare
from train.comparison.words import PAIRS
from train.recipe.read import load_config, to_yaml
from train.rundir.metrics import MetricsWriter

pytestmark = pytest.mark.usefixtures("on_cpu")

ROOT = Path(__file__).parents[3]
OTHER = {**DOCUMENT, "lr_max": 0.2}


def log(folder: Path, losses: dict[int, float], ratios: dict[int, float], layers=("conv1.weight",)) -> Path:
    """Log losses and ‖ΔW‖/‖W‖, and norms that belong to them, or to a snapshot where there is one."""
    lr, recorded = open_run(folder).schedule.lr, moved(folder)
    writer = MetricsWriter(folder, keep_bytes=0)
    for step in sorted({*losses, *ratios}):
        scalars = {"train/lr": float(lr[step])}
        scalars |= {"train/loss": losses[step]} if step in losses else {}
        for layer in layers:
            scalars[f"update/{layer}/delta_l2"] = recorded.get((step, layer), float(lr[step]))
            scalars[f"update/{layer}/weight_l2"] = float(lr[step])
            scalars |= {f"update/{layer}/velocity_l2": 1.0}
            scalars |= {f"update/{layer}/ratio": ratios[step]} if step in ratios else {}
        writer.write(step, scalars)
    writer.close()
    return folder


def configured(folder: Path, *settings: str) -> Path:
    recipe = load_config(ROOT / "train" / "recipes" / "digits_resnet20.yaml", settings)
    (folder / "config.yaml").write_text(to_yaml(recipe, versions={}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """The document's schedule, everything logged."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "trial", steps=(5, 30, 60))
    log(folder, {t: 2.0 / (1 + t) for t in range(100)}, {t: 0.01 for t in range(100)}, LAYERS)
    return compare(configured(folder))


@pytest.fixture(scope="module")
def reports(logged: Comparison, tmp_path_factory: pytest.TempPathFactory) -> list[Comparison]:
    """Of every outcome: one step, a zero update, lr the same, v against lr, nothing logged, another schedule."""
    cases: list[dict] = [
        {"steps": (10,)},
        {"steps": (5, 9), "v_scale": 0.1},
        {"steps": (0, 3), "schedule": {**DOCUMENT, "lr_init": 0.0}},
        {"steps": (3, 4), "schedule": {"kind": "constant", "lr_max": 0.1, "total": 20}},
        {"steps": tuple(range(12)), "schedule": OTHER},
    ]
    root = tmp_path_factory.mktemp("cases")
    return [logged, *(compare(write_run(root / str(i), **case)) for i, case in enumerate(cases))]


def test_every_sentence_says_the_same_figures_in_both_languages() -> None:
    for name, (english, chinese) in PAIRS.items():
        fields = [Counter(field for _, field, _, _ in Formatter().parse(text) if field) for text in (english, chinese)]
        assert fields[0].keys() == fields[1].keys(), name
        assert english.count("|") == chinese.count("|"), name
        assert not re.search("[\u4e00-\u9fff]", english), name


def test_every_figure_is_the_same_in_both_languages(reports: list[Comparison]) -> None:
    for report in reports:
        english, chinese = (Counter(figures(render(report.data, language))) for language in ("en", "zh"))
        assert english == chinese and english.total() > 50


def figures(text: str) -> list[str]:
    text = re.sub(r"https?://\S+|`[^`]*`", "", text)
    return re.findall(r"[-−]?\d+(?:\.\d+)?(?:e[-+]\d+)?%?", text)


def test_both_languages_have_the_same_parts(reports: list[Comparison]) -> None:
    for report in reports:
        english, chinese = (render(report.data, language) for language in ("en", "zh"))
        for mark in ("#", "|", "- ", "!["):
            assert len(lines(english, mark)) == len(lines(chinese, mark))
        assert not re.search("[\u4e00-\u9fff]", english)
        without_names = re.sub(r"`[^`]*`|\([^)]*png\)", "", chinese)
        assert not re.search(r"\b(the|factor|update|step|changes)\b", without_names)


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_the_documents_own_terms_in_chinese(logged: Comparison) -> None:
    text = render(logged.data, "zh")
    for term in ("训练阶段", "学习率 `?lr", "更新幅度 ΔW", "物理意义", "初期", "中后期", "步伐", "油门控制器", "剧本"):
        assert re.search(term, text), term


@pytest.mark.parametrize(("font", "title"), [("DejaVu Sans", "本次训练的学习率"), ("", "Learning rate of the run")])
def test_pictures_speak_chinese_where_there_is_a_font(font: str, title: str, tmp_path: Path, monkeypatch) -> None:
    picture.find_chinese_font.cache_clear()
    monkeypatch.setattr(picture, "CHINESE_FONTS", {font})  # the one that Matplotlib brings stands for a Chinese one
    with rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that it lacks
        report = compare(configured(write_run(tmp_path / "run"), "log.language=zh"))
        assert dict(report.pictures)["lr"].axes[0].get_title() == title
    picture.find_chinese_font.cache_clear()


def test_the_language_is_the_runs_unless_the_command_names_one(tmp_path: Path, capsys) -> None:
    folder = configured(write_run(tmp_path / "run"), "log.language=zh")
    assert main([str(folder)]) == 0
    assert "训练阶段" in capsys.readouterr().out
    assert main([str(folder), "--language", "en"]) == 0
    assert "physical" not in capsys.readouterr().out
    own, other = ((folder / "comparison" / name).read_text("utf-8") for name in ("comparison.md", "comparison.en.md"))
    assert "What each update meant" in other and "训练阶段" in own, "the run's own report stays"
    with pytest.raises(SystemExit) as refused:
        main([str(folder), "--language", "fr"])
    assert refused.value.code == 2


def test_the_first_line_says_what_kind_of_run(tmp_path: Path) -> None:
    report = compare(configured(write_run(tmp_path / "trial", schedule=OTHER), "seed=7"))
    assert report.text.splitlines()[0] == (
        "# Run trial: Momentum, 2 ranks, 4 recorded layers, t = 5 and t = 60 of 100, seed 7"
    )
    assert render(report.data, "zh").splitlines()[0] == (
        "# 运行 trial：Momentum，2 个 rank，所记录的层 4 个，t = 5 和 t = 60（共 100 步），种子 7"
    )


def test_the_headline_is_four_short_columns(logged: Comparison) -> None:
    shown, meant = (lines(part, "|") for part in logged.text.split("\n## ")[:2])
    same, seen = logged.data["controlled"]["steps"], logged.data["observed"][0]["steps"]
    for table, key, columns in (
        (shown, "norm_delta_W", ("‖ΔW‖, same W and v", "‖ΔW‖, in training")),
        (meant[: 2 + len(same)], "first_element", ("ΔW[0], same W and v", "ΔW[0], in training")),
    ):
        header, _, *rows = table
        names = [cell.strip() for cell in header.strip("|").split("|")]
        assert len(names) <= 4 and len(rows) == len(same)
        for row, *figures in zip(rows, same, seen, strict=True):
            cells = dict(zip(names, (cell.strip() for cell in row.strip("|").split("|")), strict=True))
            assert [float(cells[name]) for name in columns] == pytest.approx([one[key] for one in figures], rel=1e-5)
    assert max(map(len, shown)) <= 80
    assert len(meant) == 2 + len(same) + 2 + len(same) - 1, "and how each changed to the next"


MEANINGS = {
    # loss and ‖ΔW‖/‖W‖ at the first update, and what the update at t = 5 then meant
    (2.0, 0.5): "larger steps, and the loss falls",
    (0.98, 0.5): "larger steps, and the loss hardly changes",
    (0.5, 0.5): "larger steps, and the loss rises",
    (2.0, 2.0): "smaller steps at a lower loss",
    (0.98, 2.0): "smaller steps at about the same loss",
    (0.5, 2.0): "smaller steps at a higher loss",
    (2.0, 1.01): "steps of the same size, and the loss falls",
    (0.98, 1.01): "steps of the same size at about the same loss",
    (0.5, 1.01): "steps of the same size, and the loss rises",
}


@pytest.fixture(scope="module")
def relative(tmp_path_factory: pytest.TempPathFactory) -> float:
    """‖ΔW‖/‖W‖ of the update at t = 5."""
    folder = write_run(tmp_path_factory.mktemp("meaning") / "run", steps=(5,), world_size=1)
    return compare(folder).data["observed"][0]["steps"][0]["relative"]


@pytest.mark.parametrize(("start", "words"), MEANINGS.items())
def test_what_an_update_meant_follows_from_the_runs_own_figures(
    tmp_path: Path, start, words: str, relative: float
) -> None:
    folder = write_run(tmp_path / "run", steps=(5,), world_size=1)
    log(folder, {0: start[0], 5: 1.0}, {0: start[1] * relative, 5: relative})
    report = compare(folder)
    (meant,) = report.data["meaning"]
    assert (meant["loss"], meant["since"], meant["loss_ratio"]) == (1.0, 0, 1.0 / start[0])
    assert meant["relative_ratio"] == pytest.approx(1.0 / start[1])
    assert words in report.text.split("\n## ")[1]
    others = set(MEANINGS.values()) - {words}
    assert not any(other in report.text for other in others)


def test_each_update_is_compared_with_the_recorded_one_before(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=(5, 60), world_size=1)
    log(folder, {0: 3.0, 5: 2.0, 58: 0.5}, {0: 0.001})
    first, second = compare(folder).data["meaning"]
    assert (first["since"], second["since"]) == (0, 5)
    assert (second["loss"], second["loss_at"], second["loss_ratio"]) == (0.5, 58, 0.25)
    assert second["relative_ratio"] == pytest.approx(second["relative"] / first["relative"])
    assert "loss 0.5 (at t = 58)" in (folder / "comparison" / "comparison.md").read_text()


def test_without_a_log_nothing_is_made_up(tmp_path: Path) -> None:
    report = compare(write_run(tmp_path / "run", world_size=1))
    assert [meant["reading"] for meant in report.data["meaning"]] == ["unknown", "unknown"]
    assert "loss" not in "".join(report.text.split("\n## ")[:2]).lower().replace("loss and ‖δw‖/‖w‖ are", "")


@pytest.mark.parametrize("count", [1, 3, 5, 12])
def test_every_recorded_step_is_drawn_in_its_own_colour(tmp_path: Path, monkeypatch, count: int) -> None:
    drawn: list = []
    monkeypatch.setattr("matplotlib.axes.Axes.imshow", spy(drawn))
    folder = write_run(tmp_path / "run", steps=tuple(range(count)), world_size=1, layers={"fc.weight": (10, 8)})
    compare(folder)
    assert len(drawn) == count
    assert len({(image.norm.vmin, image.norm.vmax) for image in drawn}) == 1
    assert (
        len({tuple(np.ravel(colour)) if not isinstance(colour, str) else colour for colour in colours(count)}) >= count
    )
    titles = [image.axes.title for image in drawn]
    assert [title.get_text() for title in titles] == [f"t = {step}" for step in range(count)]
    assert len({str(title.get_color()) for title in titles}) == count
    with Image.open(folder / "comparison" / "comparison.png") as picture:
        assert picture.width == 1200


def test_all_layers_are_drawn_over_the_whole_run(logged: Comparison, tmp_path: Path, monkeypatch) -> None:
    drawn: list = []
    monkeypatch.setattr("matplotlib.axes.Axes.pcolormesh", spy(drawn, "pcolormesh"))
    folder = write_run(tmp_path / "run", steps=(5,), world_size=1)
    ratios = {t: 10.0 ** -(1 + t / 50) for t in range(0, 100, 3)}
    log(folder, dict.fromkeys(range(100), 1.0), ratios, LAYERS)
    report = compare(folder)
    assert "layers.png" in report.text
    for kind in (["conv1.weight", "fc.weight"], ["bn1.gamma", "scale"]):  # weights, and apart from them all others
        mesh = next(one for one in drawn if [label.get_text() for label in one.axes.get_yticklabels()] == kind)
        np.testing.assert_allclose(np.asarray(mesh.get_array()), np.tile(list(ratios.values()), (len(kind), 1)))
    with Image.open(report.folder / "layers.png") as picture:
        assert picture.width == 1200


def test_of_many_layers_the_weights_of_the_first_a_middle_and_the_last_are_told(tmp_path: Path) -> None:
    layers = {f"{name}.{kind}": (4, 3) if kind == "weight" else (4,) for name in "abcde" for kind in ("weight", "beta")}
    folder = log(write_run(tmp_path / "run", layers=layers), {0: 1.0, 1: 1.0}, {0: 0.1, 1: 0.1}, layers)
    text = compare(folder).text
    told = {row.split("|")[1].strip() for row in lines(text, "| ") if row.split("|")[1].strip() in layers}
    assert told == {"a.weight", "c.weight", "e.weight"} == {line[4:] for line in lines(text, "### ")} - {"All layers"}
    assert "has all 10 recorded" in text


def test_few_layers_have_no_picture_of_all(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=(5,), world_size=1, layers={"conv1.weight": (4, 3)})
    report = compare(log(folder, {0: 1.0, 1: 1.0}, {0: 0.1, 1: 0.1}))
    assert "layers.png" not in report.text and not (report.folder / "layers.png").exists()
    assert (report.folder / "curve.png").exists()


def spy(drawn: list, name: str = "imshow"):
    from matplotlib.axes import Axes

    original = getattr(Axes, name)

    def draw(self, *arguments, **options):
        drawn.append(original(self, *arguments, **options))
        return drawn[-1]

    return draw


def paths(value: object, prefix: str = "") -> set[str]:
    """Where the plain values stand, as ``a.b[].c``."""
    if isinstance(value, dict):
        return set().union(*(paths(item, f"{prefix}.{key}".lstrip(".")) for key, item in value.items()))
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return set().union(*(paths(item, f"{prefix}[]") for item in value))
    return {prefix}


def described_entries() -> tuple[int, set[str]]:
    """The version and the entries of comparison.json as the page has them."""
    page = (ROOT / "train" / "comparison" / "JSON.md").read_text(encoding="utf-8")
    heading, _, section = page.partition("# comparison.json, version ")[2].partition("\n")
    found: list[str] = []
    for entry in re.findall(r"^\| `([^`]+)` \|", section, re.M):
        start, _, names = entry.partition("{")
        found += [start + name for name in names.rstrip("}").split(", ")]
    assert len(found) == len(set(found))
    return int(heading), set(found)


def test_the_page_describes_each_entry_of_the_json(logged: Comparison) -> None:
    written = json.loads((logged.folder / "comparison.json").read_text(encoding="utf-8"))
    assert described_entries() == (written["version"], paths(written))


@pytest.fixture(scope="module")
def adamw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of AdamW, of all layers."""
    folder = tmp_path_factory.mktemp("runs")
    settings = ["optimizer.name=adamw", "snapshots.steps=[2, 7]", 'snapshots.layers=["*"]', 'log.layers=["*"]']
    alone(train_task(folder, "adamw", *settings), folder).check()
    return folder / "adamw"


@pytest.mark.slow
@pytest.mark.msrun
def test_real_reports_hold_what_is_described_and_the_same_figures(runs_dir: Path, adamw: Path) -> None:
    version, described = described_entries()
    for run, kind in ((runs_dir / "two", "Momentum, 2 ranks"), (adamw, "AdamW, 1 rank")):
        written = json.loads((run / "comparison" / "comparison.json").read_text(encoding="utf-8"))
        of_document = {entry for entry in described if entry.startswith("document.")}
        assert written["ok"] and written["version"] == version
        assert paths(written) == described - of_document | {"document.applies"}
        english, chinese = (render(written, language) for language in ("en", "zh"))
        assert Counter(figures(english)) == Counter(figures(chinese))
        assert (run / "comparison" / "comparison.md").read_text(encoding="utf-8") == english
        assert english.startswith(
            f"# Run {run.name}: {kind}, {len(written['layers'])} recorded layers, t = 2 and t = 7 of 12, seed 1\n"
        )
        assert "document" not in english and "文档" not in chinese
    assert len(written["curve"]) == len(written["layers"]) > 20 and (adamw / "comparison" / "layers.png").is_file()


@pytest.mark.msrun
def test_a_run_without_snapshots_compares_nothing_and_names_no_document(tmp_path: Path) -> None:
    (log,) = alone(train_task(tmp_path, "run", "snapshots.layers=[]", "snapshots.steps=[]"), tmp_path).check().logs
    said = log.replace(str(tmp_path), "")  # the folder has this test's name
    assert not re.search("document|comparison|snapshot", said) and not (tmp_path / "run" / "comparison").exists()
