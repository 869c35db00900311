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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet5"], "did you mean resnet5"),
        (["--num-clases", "3"], "unrecognized arguments: --num-clases"),
        (["--num-classes", "x"], "invalid int value: 'x'"),
        (["--num-classes", "0"], "num_classes: 0 is not allowed"),
        (["resnet20", "--in-channels", "0"], "in_channels: 0 is not allowed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.count("\n") == 1 and message in err and err.startswith("error: ")


def test_the_command_itself_ends_with_one_line():
    done = subprocess.run([sys.executable, "-m", "models", "resnet5"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "did you mean resnet5" in done.stderr
