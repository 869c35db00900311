"""Command ``python -m train.comparison runs/<name>``.

Exit code 0: every update is what its optimizer makes of W_start, state and gradient (with momentum W_start − lr_t·v_t),
on every rank. 7: one is not, or ranks differ; the lines on stderr say where, and the files are written. 2: the folder
cannot be compared; one line says why, and nothing is written.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from train.comparison.report import compare
from train.comparison.words import LANGUAGES
from train.rundir.trust import TRUST_CODE_HELP
from train.runtime import device
from train.runtime.console import print_error
from train.runtime.errors import EXIT_COMPARISON, OneLineParser, a_path, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    return run_command(lambda: command(arguments))


def command(arguments: Sequence[str] | None) -> int:
    parser = OneLineParser(
        prog="python -m train.comparison",
        description="Compares the updates of a finished run, at the recorded steps and over the whole run; "
        "writes comparison/comparison.{md,json,png}, curve.png and layers.png into its folder.",
    )
    parser.add_argument("run_dir", type=a_path, help="the folder of the run, runs/<name>")
    parser.add_argument(
        "--language", choices=LANGUAGES, help="another one than the run's log.language: comparison.zh.md", default=None
    )
    parser.add_argument("--trust-code", action="store_true", help=TRUST_CODE_HELP)
    options = parser.parse_args(arguments)
    report = compare(
        options.run_dir,
        language=options.language,
        before_kernel=device.configure,
        trust_code=options.trust_code,
    )
    print(report.text)
    for problem in report.problems:
        print_error(problem)
    return 0 if report.ok else EXIT_COMPARISON


if __name__ == "__main__":
    sys.exit(main())
