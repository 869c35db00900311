"""A project of your own that trains at once: ``python -m train.new FOLDER`` writes the files of the guide."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path

from train.runtime.errors import OneLineParser, UserError, a_path, refused, run_command

GUIDE = Path(__file__).with_name("ADAPTING.md")
BLOCK = re.compile(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", re.M | re.S)
LAUNCHER = Path(__file__).resolve().parents[1] / "launch" / "local.sh"
HELP = """\
Write a small project into FOLDER: a model, data, a loss, an optimizer, a schedule, a metric and a hook of your own, the
recipe that names them, a test for each, and a README. It trains at once, on two ranks; change one file after the other.

  python -m train.new ~/mine"""
README = """\
# {name}

A training of our own, with the reference pipeline for data-parallel training on MindSpore as its engine.

| file | what it is |
|---|---|
{table}
Train on two ranks, from this folder:

```bash
{launch}
```

Everything that a run makes is in `runs/mine/`: `tensorboard --logdir runs` shows its curves. To see what the recipe
comes to without training, check the parts, or compile the training for Ascend without a card:

```bash
PYTHONPATH={path} python -m train --config my_recipe.yaml --print-config
PYTHONPATH={path} python -m pytest -q
PYTHONPATH={path} python -m train.dryrun --config my_recipe.yaml
```
"""
WORDS = {"my_recipe": "the settings of a run", "test_my_parts": "what each part promises, for your CI"}


def files() -> dict[str, str]:
    """Return the text of each file of the guide, by its name."""
    return dict(BLOCK.findall(GUIDE.read_text(encoding="utf-8")))


def main(arguments: list[str] | None = None) -> int:
    return run_command(lambda: command(arguments))


def command(arguments: list[str] | None) -> int:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser(prog="python -m train.new", description=HELP, formatter_class=formatter)
    parser.add_argument("folder", type=a_path, metavar="FOLDER", help="a folder that is empty or does not exist yet")
    folder: Path = parser.parse_args(arguments).folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"{folder}: is not empty; name a folder that is empty or does not exist yet")
        launch = write(folder)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder}: a file has this name; name a folder that does not exist yet") from None
    except OSError as error:
        raise refused(error, f"{folder}: cannot be written: {error.strerror}") from None
    print(f"written: {folder}; it trains with\n  cd {shlex.quote(str(folder))}\n  {launch}")
    return 0


def write(folder: Path) -> str:
    """Write the project into the empty ``folder`` and return the command that trains it."""
    path, launch = ".", "msrun --worker_num=2 --local_worker_num=2 --join=True python -m train --config my_recipe.yaml"
    if LAUNCHER.is_file():  # a clone, which is nowhere installed
        path = f".:{shlex.quote(str(LAUNCHER.parents[1]))}"
        launch = f"PYTHONPATH=. {shlex.quote(str(LAUNCHER))} --ranks 2 --config my_recipe.yaml"
    else:
        launch = f"PYTHONPATH=. {launch}"
    table = ""
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")
        stem = name.partition(".")[0]
        table += f"| `{name}` | {WORDS.get(stem, 'your ' + stem.removeprefix('my_'))} |\n"
    readme = README.format(name=folder.resolve().name, table=table, launch=launch, path=path)
    (folder / "README.md").write_text(readme, encoding="utf-8")
    return launch


if __name__ == "__main__":
    sys.exit(main())
