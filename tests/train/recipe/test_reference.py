"""The pages of all keys say what the code says."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from tests.jobs import ROOT, environment
from train.recipe.reference import CHINESE, page
from train.recipe.sections import keys


@pytest.mark.parametrize(("language", "name"), [("en", "KEYS.md"), ("zh", "KEYS.zh-CN.md")])
def test_the_page_is_what_the_command_prints(language: str, name: str) -> None:
    command = [sys.executable, "-m", "train.recipe.reference", "--language", language]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    written = (ROOT / "train" / name).read_text(encoding="utf-8")
    assert done.stdout == written, f"renew it: python -m train.recipe.reference --language {language} > train/{name}"


def test_each_key_has_its_row_and_each_sentence_its_key() -> None:
    names = [key for key, _ in keys()]
    assert list(yaml.safe_load(CHINESE.read_text(encoding="utf-8"))) == names
    rows = [line.split("|") for line in page("en").splitlines() if line.startswith("| `")]
    assert [row[1].strip(" `") for row in rows] == names and all(len(row) == 7 for row in rows)
    told = {row[1].strip(" `"): [cell.strip() for cell in row[2:5]] for row in rows}
    assert told["step.precision"] == ["`fp32`, `fp16`, `bf16`", "`fp32`", "fixed"]
    assert told["checkpoint.keep"] == ["whole number ≥ 2", "`2`", "may change"]
    assert told["evaluate.every"] == ["duration", "`0`", "may change"]


def test_help_names_what_may_stand_there() -> None:
    command = [sys.executable, "-m", "train", "--help"]
    said = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True).stdout
    for allowed in ("(fp32, fp16, bf16)", "(skip, stop)", "(en, zh)", "(apply, ignore)"):
        assert allowed in said
