"""What the README says is so."""

import re
from pathlib import Path

import pytest

from schedules import DIALECTS, KINDS, build
from schedules.config import COMMON_KEYS
from schedules.options import options_of

README = (Path(__file__).parents[2] / "schedules" / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
DOCUMENT = {"kind": "cosine", "lr_init": 0.01, "lr_max": 0.1, "lr_end": 0.001, "warmup": 10, "total": 100}


def test_the_table_of_dialects():
    rows = re.findall(
        r"^\| `(\w+)` \| ([\d.e-]+) \| ([\d.e-]+) \| ([\d.e-]+) \| ([\d.e-]+) \| ([\d.e-]+) \|$", README, re.M
    )
    assert [name for name, *_ in rows] == list(DIALECTS)
    for name, *values in rows:
        lr = build({**DOCUMENT, "dialect": name}).lr
        assert values == [str(lr[t]) for t in (0, 9, 10, 60, 99)], name


def test_every_kind_and_every_key_is_described():
    for kind in KINDS:
        (row,) = re.findall(rf"^\| `{kind}` \|.*$", README, re.M)
        for key in options_of(KINDS[kind].build):
            assert f"`{key}`" in row, (kind, key)
    for key in {*COMMON_KEYS} - {"kind"}:
        assert re.search(rf"^\|.*`{key}`.*\|", README, re.M), key


def test_the_first_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(CODE[0], names)
    assert str(names["lr"][60]) == "0.041904416" and (tmp_path / "schedule.npz").exists()


def test_a_new_kind_is_one_function_and_one_registration(monkeypatch):
    names: dict = {"__name__": "example"}
    monkeypatch.delitem(KINDS, "linear_then_hold", raising=False)
    try:
        exec(CODE[1], names)
    finally:
        KINDS.pop("linear_then_hold", None)
    schedule = names["schedule"]
    assert [(p.name, p.stop) for p in schedule.phases] == [
        ("warm-up", 50),
        ("peak", 51),
        ("decay", 800),
        ("hold", 1000),
    ]
    assert schedule.lr[850] == 0 and schedule.lr[50] == pytest.approx(0.1)
