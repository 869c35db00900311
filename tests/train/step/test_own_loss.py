"""A reader's loss and metrics: what they are given, and what becomes of it, against plain NumPy."""

from __future__ import annotations

from typing import Any, cast

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from tests.jobs import ROOT, msrun
from train.data.reader import Batch
from train.recipe.read import parse_config
from train.run.job import make_step
from train.run.task import make_eval_step
from train.runtime.errors import FiguresError, UserError
from train.step.evaluate import evaluate
from train.step.feeder import Feeder, Mixing
from train.step.loss import make_loss
from train.step.metrics import ConfusionMatrix, MacroF1, MeanSquaredError, Sums, figures_of, make_metrics

pytestmark = pytest.mark.usefixtures("on_cpu")

N, FEATURES, CLASSES, RATE = 12, 6, 4, 0.5


class TwoHeads(nn.Cell):
    """float32 (N, 6) to logits (N, 4) and a number (N, 1)."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.weight = Parameter(Tensor(rng.normal(0, 0.3, (FEATURES, CLASSES)).astype(np.float32)), name="weight")
        self.line = Parameter(Tensor(rng.normal(0, 0.3, (FEATURES, 1)).astype(np.float32)), name="line")

    def construct(self, x):
        return ops.matmul(x, self.weight), ops.matmul(x, self.line)


def both(outputs, targets, *, weight: float):
    """Focal loss of the classes and the squared error of the number."""
    logits, number = outputs
    classes, value = targets
    log_probability = ops.log_softmax(logits, 1)
    true = ops.gather_elements(log_probability, 1, classes.reshape(-1, 1)).reshape(-1)
    return -((1.0 - ops.exp(true)) ** 2) * true + weight * ops.square(number.reshape(-1) - value)


def with_figures(outputs, targets, *, weight: float):
    values = both(outputs, targets, weight=weight)
    number = ops.square(outputs[1].reshape(-1) - targets[1])
    return values, {"number": number, "classes": values - weight * number}


with_figures.figures = ("classes", "number")  # type: ignore[attr-defined]


def weighted(outputs, targets, *, weight: float):
    """Classes count 0.5, 1, 1.5 and 2."""
    of_class = 0.5 + 0.5 * targets[0].astype(ms.float32)
    return of_class * both(outputs, targets, weight=weight), {"weight": of_class}


weighted.figures, weighted.mean_over = ("weight",), "weight"  # type: ignore[attr-defined]


def weightless(outputs, targets):
    losses = both(outputs, targets, weight=0.5)
    return 0.0 * losses, {"weight": 0.0 * losses}


weightless.figures, weightless.mean_over = ("weight",), "weight"  # type: ignore[attr-defined]


class AsCell(nn.Cell):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def construct(self, outputs, targets):
        return both(outputs, targets, weight=self.weight)


def averaged(outputs, targets):
    return both(outputs, targets, weight=1.0).mean()


class ErrorOfNumber:
    """Mean squared error of the second of two outputs."""

    def sums(self, outputs, targets):
        assert len(outputs[0]) == len(targets[0]) > 0, "padding is left out"
        return np.array([((outputs[1][:, 0] - targets[1]).astype(np.float64) ** 2).sum(), len(targets[1])])

    def compute(self, sums):
        return sums[0] / sums[1]


def expected_loss(x: np.ndarray, classes: np.ndarray, values: np.ndarray, weight: float) -> np.ndarray:
    model = TwoHeads()
    logits = x.astype(np.float64) @ model.weight.asnumpy()
    number = (x.astype(np.float64) @ model.line.asnumpy())[:, 0]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    true = log_p[np.arange(len(x)), classes]
    return -((1 - np.exp(true)) ** 2) * true + weight * (number - values) ** 2


def batch_of(seed: int = 1, count: int = N) -> Batch:
    rng = np.random.default_rng(seed)
    targets = (rng.integers(0, CLASSES, count).astype(np.int32), rng.normal(size=count).astype(np.float32))
    return Batch(rng.normal(size=(count, FEATURES)).astype(np.float32), targets, np.arange(count))


def config_of(**sections: Any) -> Any:
    return parse_config("recipe", {"schedule": {}, "data": {"global_batch": N}, **sections})


def one_update(mixing: Mixing | None = None, loss: str = "both", **options: Any) -> tuple[Any, Any]:
    options = {"loss": f"{__name__}:{loss}", "loss_options": {"weight": 0.5}, **options}
    metrics = {"metrics": ["loss"]}
    config = config_of(step=options, evaluate=metrics, optimizer={"name": "sgd", "weight_decay": 0.0})
    model = TwoHeads()
    step = make_step(config, _Plain(model), np.full(3, RATE, np.float32))
    result = Feeder(step, accumulate=config.step.accumulate, mixing=mixing, seed=3)(batch_of(), 0).result
    return model, result


class _Plain(nn.Cell):
    def __init__(self, model: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, x):
        return self.model(x)


@pytest.mark.parametrize("loss", ["both", "AsCell", "with_figures", "weighted"])
@pytest.mark.parametrize("options", [{}, {"accumulate": 3}, {"loss_scale": 64.0}], ids=["whole", "parts", "scaled"])
def test_the_mean_and_its_gradient(loss: str, options: dict[str, Any]) -> None:
    batch = batch_of()
    weights = 0.5 + 0.5 * batch.labels[0] if loss == "weighted" else np.ones(N)
    model, result = one_update(loss=loss, **options)
    of_each = expected_loss(batch.images, *batch.labels, weight=0.5)
    assert result.loss == result.own_loss == pytest.approx(np.average(of_each, weights=weights), rel=1e-5)
    if loss == "with_figures":
        classes = expected_loss(batch.images, *batch.labels, weight=0).mean()
        assert result.figures == pytest.approx({"classes": classes, "number": 2 * (result.loss - classes)}, rel=1e-4)
    started = TwoHeads()
    x, number = batch.images.astype(np.float64), batch.labels[1]
    error = x @ started.line.asnumpy() - number[:, None]
    gradient = 2 * 0.5 * np.average(x * error, axis=0, weights=weights)[:, None]
    np.testing.assert_allclose(model.line.asnumpy(), started.line.asnumpy() - RATE * gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_a_batch_without_weight_is_skipped_and_leaves_the_loss_scale() -> None:
    model, result = one_update(loss="weightless", loss_options={}, loss_scale=64.0, loss_scale_window=2)
    assert np.isnan(result.loss) and not result.applied and not result.scale_lowered
    np.testing.assert_array_equal(model.line.asnumpy(), TwoHeads().line.asnumpy())


def test_mixing_weighs_both_targets() -> None:
    batch, mixing = batch_of(), Mixing(mixup=0.8)
    own = float(mixing.lam(1, FEATURES, seed=3, step=0).mean())
    mixed = own * batch.images + (1 - own) * batch.images[::-1]
    first, second = (
        expected_loss(mixed, *labels, weight=0.5) for labels in (batch.labels, [t[::-1] for t in batch.labels])
    )
    _, result = one_update(mixing, loss="with_figures")
    assert result.figures["classes"] + 0.5 * result.figures["number"] == pytest.approx(result.loss, rel=1e-5)
    assert result.loss == pytest.approx((own * first + (1 - own) * second).mean(), rel=1e-5)


def test_a_loss_that_is_a_mean_already_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^step\.loss: must return one value for each example"):
        one_update(loss="averaged", loss_options={})


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (f"{__name__}:both", {}, "called with outputs, targets and its options .*missing a required"),
        (f"{__name__}:AsCell", {"width": 1}, "called with its options .*missing"),
        (f"{__name__}:none", {}, "has no 'none'"),
    ],
)
def test_a_loss_that_cannot_be_called_is_one_line(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_loss(name, options)


class Loader:
    """Batches of five, the last of them padded with what no target is."""

    def batches(self):
        whole = batch_of(count=13)
        for first in range(0, 15, 5):
            places = np.arange(first, first + 5)
            known = places < 13
            places = np.where(known, places, 0)
            images = np.where(known[:, None], whole.images[places], np.nan).astype(np.float32)
            targets = (np.where(known, whole.labels[0][places], -1), np.where(known, whole.labels[1][places], np.nan))
            yield Batch(
                images, (targets[0].astype(np.int32), targets[1].astype(np.float32)), np.where(known, places, -1)
            )


def test_evaluation_weighs_as_training_does() -> None:
    step = {"loss": f"{__name__}:weighted", "loss_options": {"weight": 0.5}}
    config = config_of(step=step, evaluate={"metrics": ["loss"]})
    found = evaluate(make_eval_step(config, _Plain(TwoHeads()), CLASSES), Loader())  # type: ignore[arg-type]
    whole = batch_of(count=13)
    of_each = expected_loss(whole.images, *whole.labels, weight=0.5)
    assert found["loss"] == pytest.approx(np.average(of_each, weights=0.5 + 0.5 * whole.labels[0]), rel=1e-5)


def test_evaluation_uses_the_loss_and_the_metrics_and_counts_no_padding() -> None:
    metrics = ["loss", f"{__name__}:ErrorOfNumber"]
    step = {"loss": f"{__name__}:with_figures", "loss_options": {"weight": 0.5}}
    config = config_of(step=step, evaluate={"metrics": metrics})
    assert config.evaluate.deciding == "loss" and config.evaluate.smaller_is_better
    sums: dict[str, np.ndarray] = {}
    found = evaluate(make_eval_step(config, _Plain(TwoHeads()), CLASSES), Loader(), sums=sums)  # type: ignore[arg-type]
    whole = batch_of(count=13)
    assert found["examples"] == 13
    assert list(found) == ["loss", "loss/classes", "loss/number", "ErrorOfNumber", "examples"]
    assert found["loss/number"] == pytest.approx(found["ErrorOfNumber"], rel=1e-5)
    assert found["loss"] == pytest.approx(expected_loss(whole.images, *whole.labels, weight=0.5).mean(), rel=1e-5)
    number = (whole.images.astype(np.float64) @ TwoHeads().line.asnumpy())[:, 0]
    assert found["ErrorOfNumber"] == pytest.approx(((number - whole.labels[1]) ** 2).mean(), rel=1e-5)
    assert sums["ErrorOfNumber"][1] == 13


def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    return rng.normal(size=(count, 3)).astype(np.float32), rng.integers(0, 3, count).astype(np.int32)


def test_the_metrics_that_come_with_it_are_scikit_learn_s() -> None:
    from sklearn.metrics import confusion_matrix, f1_score, mean_squared_error

    outputs, targets = drawn(57)
    predicted = outputs.argmax(axis=1)
    matrix = ConfusionMatrix(3).sums(outputs, targets)
    np.testing.assert_array_equal(matrix, confusion_matrix(targets, predicted))
    assert MacroF1(3).compute(matrix) == pytest.approx(f1_score(targets, predicted, average="macro"), rel=1e-12)
    values = outputs[:, :1]
    squares = MeanSquaredError().sums(values, targets.astype(np.float32))
    assert MeanSquaredError().compute(squares) == pytest.approx(mean_squared_error(targets, values[:, 0]), rel=1e-6)


def nothing_to_do() -> object:
    return object()


class Words:
    def sums(self, outputs, targets):
        return np.array(["a"])

    def compute(self, sums):
        return "high"


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ([f"{__name__}:nothing_to_do"], "has no method sums"),
        (["train.step.metrics:MacroF1"], "is called with its options .*classes"),
        ([{"train.step.metrics:MacroF1": {"classes": "3"}}], r"MacroF1\(classes='3'\): classes is a whole number"),
        ([{f"{__name__}:examples": {"classes": 3}}], "there is a examples already"),
        ([{"train.step.metrics:MacroF1": {"classes": 3}}] * 2, "there is a MacroF1 already"),
    ],
)
def test_what_is_no_metric_is_one_line(metrics: list[Any], words: str) -> None:
    with pytest.raises(UserError, match=rf"^evaluate\.metrics[=:].*{words}"):
        make_metrics(metrics)


def test_what_a_metric_may_not_return() -> None:
    sums = Sums({"Words": Words()})
    sums.add(*drawn(2), np.ones(2, bool))
    with pytest.raises(FiguresError, match=r"Words\.sums\(\) returned <U1; return numbers"):
        sums.over_ranks()
    with pytest.raises(UserError, match=r"Words\.compute\(\) returned Words='high'; return a number"):
        figures_of({"Words": Words()}, {"Words": np.zeros(1)})


class Area:
    """Area under the curve of class 1."""

    def rows(self, outputs, targets):
        return np.column_stack([outputs[:, 1] - outputs[:, 0], targets == 1])

    def compute(self, rows):
        positive, negative = (rows[rows[:, 1] == kind, 0] for kind in (1, 0))
        return (positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean()


def test_a_figure_of_the_whole_set_gets_a_row_of_each_example() -> None:
    from sklearn.metrics import roc_auc_score

    outputs, targets = drawn(40)
    sums = Sums({"Area": Area()})
    for first in range(0, 45, 15):
        places = np.minimum(np.arange(first, first + 15), 39)
        sums.add(outputs[places], targets[places], np.arange(first, first + 15) < 40)
    found = figures_of(sums.metrics, sums.over_ranks())["Area"]
    assert found == pytest.approx(roc_auc_score(targets == 1, outputs[:, 1] - outputs[:, 0]), rel=1e-12)


class Rowless(Area):
    def rows(self, outputs, targets):
        return np.zeros(len(outputs) + 1)


class examples(ConfusionMatrix):
    pass


class Grows:
    """Sums of a shape that depends on how many examples there are, of which a bug makes none."""

    def sums(self, outputs, targets):
        return np.zeros(len(targets) if targets[0] >= 0 else targets["a"])

    def compute(self, sums):
        return sums[10**6]


@pytest.mark.parametrize(
    ("metric", "batches", "words"),
    [
        (ConfusionMatrix(2), [(2, 0)], r"ConfusionMatrix\(classes=2\): the model's outputs are \[2, 3\]"),
        (MacroF1(4), [(2, 0)], r"MacroF1\(classes=4\): the model's outputs are \[2, 3\]"),
        (ConfusionMatrix(3), [(2, 1)], r"ConfusionMatrix\(classes=3\): the targets are not classes, 0 to 2"),
        (ConfusionMatrix(3), [(2, 0.5)], r"the targets are not classes"),
        (Grows(), [(2, 0), (3, 0)], r"Grows\.sums\(\) returned the shape \(3,\), before it was \(2,\)"),
        (Rowless(), [(2, 0)], r"Rowless\.rows\(\) returned the shape \(3,\), not \(2,\), a row an example"),
        (Grows(), [(2, -9)], r"Grows\.sums\(\) failed: IndexError"),
        (Grows(), [(2, 0), (2, 0)], r"Grows\.compute\(\) failed: IndexError"),
    ],
)
def test_a_metric_s_fault_is_told_when_all_ranks_hear_it(metric: Any, batches: Any, words: str) -> None:
    name = type(metric).__name__
    sums = Sums({name: metric})
    for count, more in batches:
        outputs, _ = drawn(count)
        targets = np.full(count, 2, np.int32) + np.asarray(more)
        sums.add(outputs, targets, np.ones(count, bool))
    with pytest.raises(FiguresError, match=f"^evaluate.metrics: .*{words}"):
        figures_of(sums.metrics, sums.over_ranks())


def renamed(classes: int) -> ConfusionMatrix:
    return ConfusionMatrix(classes)


def test_a_metric_has_the_name_that_the_recipe_gives_it() -> None:
    reference = {f"{__name__}:renamed": {"classes": 3}}
    assert list(make_metrics([reference])) == config_of(evaluate={"metrics": [reference]}).evaluate.names == ["renamed"]


@pytest.mark.parametrize(
    ("evaluate_keys", "words"),
    [
        ({"metrics": ["top2"]}, r"evaluate\.metrics=\['top2'\]: 'top2': did you mean top5, top1"),
        ({"metrics": []}, r"evaluate\.metrics=\[\]"),
        ({"best": "F1"}, "evaluate: best='F1': is not among the metrics"),
        ({"best_is": "most"}, r"evaluate\.best_is='most'"),
    ],
)
def test_wrong_keys_are_one_line(evaluate_keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"^recipe: {words}"):
        config_of(evaluate=evaluate_keys)


@pytest.mark.msrun
@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_sums_over_ranks_are_those_of_one(ranks: int, tmp_path: Any) -> None:
    done = msrun(ranks, [ROOT / "tests" / "train" / "tasks" / "metrics.py"], tmp_path).check()
    outputs, targets = drawn(7)
    expected = ConfusionMatrix(3).sums(outputs, targets).tolist()
    assert all("rows True" in log for log in done.logs)
    assert all(str(expected) in log and "the targets are not classes, 0 to 2" in log for log in done.logs)
    assert all("{'Rows': 7.0}" in log for log in done.logs), "a figure is rank 0's, whatever it is elsewhere"
    assert all("on rank 1: no such folder" in log for log in done.logs), done.logs


@pytest.mark.parametrize("shape", [(), (3,), (3, 2), (1, 4, 4)])
def test_examples_of_any_number_of_axes_are_mixed(shape: tuple[int, ...]) -> None:
    seen: list[tuple[int, ...]] = []

    def step(images: Any, targets: Any, asked: Any, lam: Any) -> None:
        seen.append((lam * images).shape)
        raise ValueError("seen enough")

    batch = Batch(np.ones((N, *shape), np.float32), np.zeros(N, np.float32), np.arange(N))
    with pytest.raises(ValueError, match="seen enough"):
        Feeder(cast(Any, step), mixing=Mixing(mixup=0.2))(batch, 0)
    assert seen == [batch.images.shape]
