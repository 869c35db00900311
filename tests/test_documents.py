"""Links lead somewhere, and every command in a page runs.

A command that would train or install is run in the form that only checks it (``--print-config``, ``--dry-run``,
``--help``); the same commands are run in full by the tests of their folder. A page marks what needs Ascend with a
comment, ``# needs Ascend``, and those commands are only checked to be there.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs import HANGS, RECORDED, ROOT, Tool, alone, environment, train_task

new = Tool("train.new")

PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part == "runs" for part in path.relative_to(ROOT).parts)
)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
FENCE = re.compile(r"^```bash\n(.*?)^```$", re.M | re.S)
INLINE = re.compile(r"`((?:python -m [\w.]+|msrun|(?:\./)?launch/\w+\.sh) [^`]+)`")
PLACEHOLDER = re.compile(r"<\w+>|…|\.\.\.|\[|[A-Z]{4,}|RUN_DIR")
# Installing, or programs of others whose use is theirs to test.
NOT_OURS = (
    "pip ",
    ". .venv",
    "ruff ",
    "mypy",
    "pre-commit ",
    "tensorboard ",
    "git ",
    "tar ",
    "apt-get ",
    "cd ",
    "sha256sum ",
)


def commands(page: Path) -> list[str]:
    """Return the commands of a page, from bash blocks (lines joined at a backslash) and from inline code."""
    text = page.read_text(encoding="utf-8")
    found = []
    for block in FENCE.findall(text):
        found += block.replace("\\\n", " ").splitlines()
    found += INLINE.findall(FENCE.sub("", text))
    return [line.strip() for line in found if line.strip() and not line.strip().startswith("#")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, with a finished run under all the names that pages use, and the guide's own files."""
    folder = tmp_path_factory.mktemp("documents")
    for name in ("train", "launch", "schedules", "models", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)  # says which packages a run is made with
    others = dict(new.BLOCK.findall((ROOT / "train" / "TASKS.md").read_text(encoding="utf-8")))
    for name, text in {**others, **new.files()}.items():
        (folder / name).write_text(text, encoding="utf-8")
    alone(train_task(Path("runs"), "quickstart", *RECORDED), folder).check()
    for name in ("tuned", "momentum", "adamw"):
        shutil.copytree(folder / "runs" / "quickstart", folder / "runs" / name, symlinks=True)
    return folder


def split(command: str) -> tuple[list[str], str]:
    """Return the words of a command without variables before it, and its comment."""
    text, _, comment = command.partition(" #")
    words = shlex.split(text)
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words.pop(0)
    return words, comment


def checking_form(command: list[str]) -> list[str]:
    """Return the form of a command that checks it without training or installing."""
    if command[0] == "msrun":
        command = command[command.index("python") :]
    if command[0].endswith(".sh"):
        script, *options = command
        if script.endswith("test.sh"):
            return [script.removeprefix("./"), "--help"]
        # elsewhere, since a run of its name may be there for the commands that read it
        elsewhere = ["runs_dir=not-yet"] if any(word.startswith("name=") for word in options) else []
        return [script.removeprefix("./"), *options, "--dry-run", *elsewhere]
    assert command[:2] == ["python", "-m"], f"no rule to check {command}"
    module, *options = command[2:]
    if module.startswith("tests."):
        return [sys.executable, "-c", f"import {module}"]
    if module == "train.dryrun":  # the recipe and the keys
        ranks = options.index("--ranks") if "--ranks" in options else len(options)
        module, options = "train", options[:ranks] + options[ranks + 2 :]
    checks = ["--print-config"] if module == "train" else []
    return [sys.executable, "-m", module, *options, *checks]


def checked() -> dict[str, list[str]]:
    """Return each form that checks a command of a page once, named after the first page that has it."""
    found: dict[tuple[str, ...], str] = {}
    for page in PAGES:
        for command in commands(page):
            words, comment = split(command)
            if not (command.startswith(NOT_OURS) or "needs Ascend" in comment or PLACEHOLDER.search(" ".join(words))):
                found.setdefault(tuple(checking_form(words)), f"{page.relative_to(ROOT)}: {command}")
    # Modules are imported in one process: most of what each takes is the import of MindSpore.
    imports = [form[2] for form in found if form[1] == "-c"]
    forms = {name: list(form) for form, name in found.items() if form[1] != "-c"}
    return {**forms, "modules of tests": [sys.executable, "-c", "\n".join(imports)]}


CHECKED = checked()


@pytest.mark.parametrize("name", CHECKED, ids=lambda name: name[:90])
def test_every_command_runs(name: str, workplace: Path) -> None:
    form, variables = CHECKED[name], documents_environment()
    done = subprocess.run(form, cwd=workplace, env=variables, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, f"{shlex.join(form)}\n{done.stdout}\n{done.stderr}"


def documents_environment() -> dict[str, str]:
    return {**environment(), "ACTIVE_ENVIRONMENT": "1", "PYTHONPATH": "."}


YAML = re.compile(r"^```yaml\n(.*?)^```$", re.M | re.S)


@pytest.mark.parametrize("recipe", YAML.findall((ROOT / "train" / "COMING_FROM.md").read_text(encoding="utf-8")))
def test_what_stands_beside_another_framework_is_a_recipe(recipe: str, workplace: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe, encoding="utf-8")
    command = [sys.executable, "-m", "train", "--config", str(path), "--print-config"]
    done = subprocess.run(command, cwd=workplace, env=documents_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
