"""A traceback is cut to the files of whoever wrote the part that failed."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from train.runtime.faults import is_own, print_fault

THEIRS = """
def broken():
    try:
        {}["inner"]
    finally:
        helper()

def helper():
    from train.runtime.keys import load_reference
    load_reference("statistics:mean", "key")([])
"""
COMPILED = "For primitive[Reshape]\n# 0 In file /home/me/my_loss.py:13, 15~28\n    return x"


def test_a_reader_sees_the_lines_that_they_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my_part.py").write_text(THEIRS)
    try:
        runpy.run_path(str(tmp_path / "my_part.py"))["broken"]()
    except ValueError as error:
        print_fault(error)
    told = capsys.readouterr().err
    assert "statistics" not in "".join(line for line in told.splitlines(True) if line.startswith("  File"))
    assert f'{tmp_path}/my_part.py", line 6, in broken\n    helper()' in told and "KeyError: 'inner'" in told
    assert told.startswith("(") and "frames of this program, MindSpore and Python are left out)\n" in told
    assert told.splitlines()[-1].startswith("statistics.StatisticsError: mean requires")


@pytest.mark.parametrize("message", ["a fault of ours", COMPILED])
def test_a_fault_of_ours_is_whole_and_one_of_the_compiler_names_the_line(
    message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import train.runtime.faults as faults

    monkeypatch.setattr(faults, "OTHERS", (*faults.OTHERS, str(Path(__file__).parent)))
    try:
        raise RuntimeError(message)
    except RuntimeError as error:
        print_fault(error)
    told = capsys.readouterr().err
    assert (f'File "{__file__}"' in told) == (message != COMPILED)
    assert message in told and is_own("/home/me/my_loss.py") and not is_own(faults.__file__)
