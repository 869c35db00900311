"""Needs nothing heavy, and gives the same bits wherever it runs."""

import os
import subprocess
import sys

import pytest

BITS = """
import hashlib, numpy as np
from schedules import build, elementary
from schedules.plot import EXAMPLES
u = np.arange(200_001) / 200_000
parts = [elementary.sin_quarter(u), elementary.exp2(20 * u - 30), elementary.log2(u[1:]), elementary.power(u, 0.9)]
parts += [np.array([elementary.sin_quarter(x) for x in u[:2000].tolist()])]
print(*[hashlib.sha256(part).hexdigest()[:12] for part in parts])
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
    return python(BITS)


@pytest.mark.parametrize(
    "environment",
    [
        # As on an older processor: the C library's and NumPy's own cos, exp and pow change their last bits with these.
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


def test_the_memory_at_the_peak_is_the_array():
    """tracemalloc counts NumPy's buffers: no more than the array and a few chunks (the promise is three arrays)."""
    code = """
import tracemalloc
from schedules import build
tracemalloc.start()
schedule = build({"kind": "cosine", "lr_max": 0.1, "warmup": "1%", "total": 1_000_000})
schedule.fingerprint
print(tracemalloc.get_traced_memory()[1] / schedule.lr.nbytes)
"""
    assert float(python(code)) < 1.5
