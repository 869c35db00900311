"""The model finds what it was made with, and says no where it cannot."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import scaling_model
from tests.benchmarks.scaling_model import RESNET50_BUCKETS, RESNET50_PARAMETERS, StepModel, fit
from tests.jobs import ROOT

MODEL = StepModel(size=100_000_000, buckets=12, compute=0.02, latency=40e-6, bandwidth=25e9)


def test_a_step_by_hand() -> None:
    assert MODEL.step(1) == 0.02
    # 40 µs · 3 · 12 = 1.44 ms; 100 MB · 14/8 / 25 GB/s = 7 ms
    assert MODEL.step(8) == pytest.approx(0.02 + 0.00144 + 0.007)
    hidden = StepModel(size=100_000_000, buckets=12, compute=0.02, latency=40e-6, bandwidth=25e9, overlap=0.007)
    assert hidden.step(8) == pytest.approx(0.02 + 0.00144)
    assert hidden.step(1) == hidden.step(2) == 0.02  # all of it is hidden, and no more
    assert MODEL.efficiency(8, 1) == pytest.approx(0.02 / 0.02844)


@pytest.mark.parametrize("ranks", [(1, 2, 8), (2, 4, 16), (1, 2, 4, 8, 64)])
def test_the_fit_finds_the_model(ranks: tuple[int, ...]) -> None:
    found = fit({n: MODEL.step(n) for n in ranks}, size=MODEL.size, buckets=MODEL.buckets)
    assert found.compute == pytest.approx(0.02)
    assert found.latency == pytest.approx(40e-6)
    assert found.bandwidth == pytest.approx(25e9)


def test_what_is_given_is_not_fitted() -> None:
    model = StepModel(size=100_000_000, buckets=12, compute=0.02, latency=40e-6, bandwidth=25e9, overlap=0.001)
    measured = {n: model.step(n) for n in (1, 8)}
    found = fit(measured, size=model.size, buckets=12, latency=40e-6, overlap=0.001)
    assert (found.compute, found.bandwidth) == pytest.approx((0.02, 25e9))
    found = fit({8: model.step(8)}, size=model.size, buckets=12, latency=40e-6, bandwidth=25e9, overlap=0.001)
    assert found.step(1024) == pytest.approx(model.step(1024))


def test_no_negative_figures() -> None:
    """Times that do not grow with the bytes: nothing is seen of the bandwidth."""
    found = fit({1: 0.02, 2: 0.0199, 4: 0.0201}, size=100_000_000, buckets=12)
    assert found.latency >= 0 and found.bandwidth > 0 and found.compute == pytest.approx(0.02, rel=0.01)
    assert math.isinf(fit({1: 0.02, 2: 0.02, 4: 0.02}, size=100_000_000, buckets=12).bandwidth)


def test_the_published_figures_are_met() -> None:
    for case in scaling_model.published():
        for ranks, seconds in case.measured.items():
            assert case.model.step(ranks) == pytest.approx(seconds, rel=1e-3)
        assert case.model.step(1024) > case.model.step(8)
        assert case.model.compute > 0.0179


def test_resnet50_in_buckets() -> None:
    from models import create_model
    from train.step.reduction import BUCKET_BYTES, make_buckets

    sizes = [int(parameter.size) for parameter in create_model("resnet50").trainable_params()]
    assert sum(sizes) == RESNET50_PARAMETERS
    assert len(make_buckets([4 * size for size in sizes], BUCKET_BYTES)) == RESNET50_BUCKETS


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks.scaling_model", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_command(tmp_path: Path) -> None:
    table = tmp_path / "times.csv"
    table.write_text("ranks,seconds\n1,0.28\n2,0.31\n4,0.37\n")
    picture = tmp_path / "scaling.png"
    done = run("--measured", table, "--images", 64, "--ranks", 8, "--plot", picture)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row.split()[1] for row in rows[2:]] == ["1", "2", "4", "8"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    same = run("--measured", "1:0.28", "2:0.31", "4:0.37", "--images", 64, "--ranks", 8)
    assert same.stdout == done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--measured", "8:0.03"), "3 figures are to be fitted to 1 measured numbers of ranks: measure more"),
        (("--measured", "8:fast"), "--measured: 8:fast is no RANKS:SECONDS like 8:0.031"),
        (("--measured", "1:0.1", "2"), "--measured: 2: is no RANKS:SECONDS"),
        (("--measured", "0:1"), "at least 1 rank and more than 0 seconds"),
        (("--measured", "nowhere.csv"), "nowhere.csv"),
        (("--measured", "8:0.03", "--latency", "0", "--bandwidth", "1"), "takes all of the measured steps"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert words in done.stderr
