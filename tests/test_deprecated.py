"""Nothing here uses a name of which the installed MindSpore's own documentation says that it is to go."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.jobs import alone

ROOT = Path(__file__).parents[1]
GOING = re.compile(
    r"(?:this|the|the current) (?:\w+ )?(?:interface|api|class)(?: \w+)? (?:is|has been|will be) deprecated"
    r"|`(?:mindspore\.)?(?:nn|ops)\.\w+` is deprecated",
    re.IGNORECASE,
)
REFERENCE = re.compile(r"(mindspore[\w.]*):(\w+)")
"""As a recipe names a part."""
WITHOUT_SUCCESSOR = {"mindspore.set_context", "mindspore.get_context"}
"""Said to be deprecated one day; nothing else in 2.10 sets or tells the mode and the level of the compiler."""

ORACLES = {"tests/schedules/test_kinds.py", "tests/train/comparison/test_comparison_optimizers.py"}
"""Compare ours with what is to go, or prove an update of it: only as long as it is there."""


def used(tree: ast.Module) -> Iterator[str]:
    """Yield the full names of MindSpore's that a module uses, however it imported them."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            ours = [one for one in node.names if one.name.split(".")[0] == "mindspore"]
            known |= {one.asname or "mindspore": one.name if one.asname else "mindspore" for one in ours}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mindspore"):
            known |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    yield from known.values()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (name := full_name(node, known)):
            yield name
        elif isinstance(node, ast.Constant) and (match := REFERENCE.fullmatch(str(node.value))):
            yield f"{match[1]}.{match[2]}"


def full_name(node: ast.expr, known: Mapping[str, str]) -> str | None:
    """Return what ``ms.ops.assign`` stands for; None: for nothing of MindSpore's."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    base = full_name(node.value, known) if isinstance(node, ast.Attribute) else None
    return base and f"{base}.{node.attr}"


@pytest.mark.parametrize(
    "code",
    [
        "import mindspore as ms\nms.ops.assign(a, b)",
        "import mindspore\nmindspore.ops.assign(a, b)",
        "import mindspore.ops\nmindspore.ops.assign(a, b)",
        "import mindspore.ops as mo\nmo.assign(a, b)",
        "from mindspore import ops\nops.assign(a, b)",
        "from mindspore.ops import assign",
        "name = 'mindspore.ops:assign'",
    ],
)
def test_a_name_is_seen_however_it_is_written(code: str) -> None:
    assert "mindspore.ops.assign" in used(ast.parse(code))


def is_going(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module or name), attribute, None)
    except ImportError:
        return False
    return bool(GOING.search(" ".join((getattr(found, "__doc__", None) or "").split())))


@pytest.mark.parametrize(
    ("name", "going"),
    [("nn.Momentum", True), ("ops.assign", True), ("ops.floor_divide", True), ("set_context", True), ("nn.LARS", True),
     ("ops.Assign", False), ("ops.ApplyMomentum", False), ("nn.SGD", False), ("nn.Adam", False), ("jit", False)],
)  # fmt: skip
def test_what_mindspore_says_of_a_name_is_understood(name: str, going: bool) -> None:
    assert is_going(f"mindspore.{name}") == going


def test_no_name_that_is_to_go_is_used() -> None:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    places: dict[str, list[str]] = {}
    for file in listed.splitlines():
        for name in used(ast.parse((ROOT / file).read_text())):
            places.setdefault(name, []).append(file)
    assert "mindspore.ops.Assign" in places
    going = {name: files for name, files in places.items() if is_going(name) and name not in WITHOUT_SUCCESSOR}
    assert not {name: files for name, files in going.items() if not ORACLES.issuperset(files)}


def test_what_mindspore_itself_has_out_of_date_is_not_said_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line of a run says what to do next, and a program may read it."""
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    code = "from train.runtime import device; device.set_environment_defaults('cpu'); import mindspore"
    assert alone(["-c", code], tmp_path).check().logs == [""]
