"""``python -m models``."""

import subprocess
import sys
from pathlib import Path

import pytest

import models
from models.__main__ import main


def test_the_table_in_the_readme_is_what_the_command_prints(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert "| resnet20 | 269,722 | 10 |" in printed
    assert printed in Path(models.__file__).with_name("README.md").read_text(encoding="utf-8")


def test_one_model_with_other_classes_and_channels(capsys):
    assert main(["resnet18", "--num-classes", "10", "--in-channels", "1"]) == 0
    fewer = 990 * 513 + 2 * 64 * 49  # rows of the head with their biases, and the stem's other two channels
    assert f"| resnet18 | {11_689_512 - fewer:,} | 10 |" in capsys.readouterr().out


MINE = """
from mindspore import nn

def create(*, num_classes, in_channels, width=4):
    return nn.Dense(in_channels * width, num_classes)

def of_classes(num_classes):
    return nn.Dense(1, num_classes)

def none(num_classes, in_channels):
    return None

NUMBER = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_model.py").write_text(MINE)
    (tmp_path / "my_broken_model.py").write_text("import absent")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_model", None)


def test_a_model_of_the_reader_s_is_listed_beside_ours(mine, capsys):
    assert main(["my_model:create", "resnet20", "--num-classes", "7"]) == 0
    assert f"| my_model:create | {3 * 4 * 7 + 7} | 7 | - | - | - |\n| resnet20 | " in capsys.readouterr().out
    assert main(["my_model:create", "--in-channels", "1"]) == 0
    assert f"| my_model:create | {4 * 1000 + 1000:,} | 1000 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet5"], "did you mean resnet5"),
        (["--num-clases", "3"], "unrecognized arguments: --num-clases"),
        (["--num-classes", "x"], "invalid int value: 'x'"),
        (["--num-classes", "0"], "num_classes: 0 is not allowed"),
        (["my_model:create", "--in-channels", "0"], "in_channels: 0 is not allowed"),
        (["my_model:"], "write it as package.module:function"),
        (["no_such:create"], "no module 'no_such'; is its folder on PYTHONPATH?"),
        (["my_model:creat"], "my_model has no function 'creat'"),
        (["my_model:NUMBER"], "my_model has no function 'NUMBER'"),
        (["my_model:of_classes"], "is called with num_classes and in_channels (got an unexpected keyword"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(mine, words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.count("\n") == 1 and message in err and err.startswith("error: ")


def test_what_is_no_model_is_told(mine, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["my_model:none"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: 'my_model:none' must return a Cell, not NoneType\n"


def test_a_fault_inside_the_reader_s_module_keeps_its_traceback(mine):
    with pytest.raises(ModuleNotFoundError, match="absent"):
        main(["my_broken_model:create"])


def test_the_command_itself_ends_with_one_line():
    done = subprocess.run([sys.executable, "-m", "models", "resnet5"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "did you mean resnet5" in done.stderr
