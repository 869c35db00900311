"""Needs nothing heavy, and gives the same bits wherever it runs."""

import os
import subprocess
import sys

import pytest

BITS = """
from schedules import build
from schedules.plot import EXAMPLES
print(*[build({"kind": kind, **options}).fingerprint for kind, options in EXAMPLES.items()])
"""
AVX512 = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"


def python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def here():
    pytest.importorskip("schedules.plot", exc_type=ModuleNotFoundError)
    return python(BITS)


@pytest.mark.parametrize(
    "environment",
    [
        # As on an older processor: NumPy's and the C library's sin and pow change their last float64 bits with these,
        # which the rounding to float32 hides.
        {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F", "NPY_DISABLE_CPU_FEATURES": AVX512},
        {"NPY_DISABLE_CPU_FEATURES": AVX512 + " AVX2 FMA3"},
        {"RANK_ID": "3", "RANK_SIZE": "8", "DEVICE_ID": "3", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"},
        {"LC_ALL": "C", "TZ": "Asia/Shanghai"},
    ],
    ids=["no FMA", "no AVX", "rank 3 of 8", "other locale"],
)
def test_the_same_bits_in_another_environment(here, environment):
    assert python(BITS, **environment) == here


def test_imports_neither_mindspore_nor_matplotlib():
    code = "import sys, schedules, schedules.__main__; print([m for m in sys.modules if m in {names}])"
    assert python(code.format(names=("mindspore", "matplotlib"))) == "[]\n"


def test_builds_a_schedule_where_mindspore_is_not_installed():
    code = """
import sys
sys.modules["mindspore"] = sys.modules["matplotlib"] = None  # importing either raises
from schedules import build
print(build({"kind": "cosine", "lr_max": 0.1, "total": 10}).total_steps)
"""
    assert python(code) == "10\n"
