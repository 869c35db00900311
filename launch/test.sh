#!/usr/bin/env bash
# Runs the tests in the locked environment.
set -euo pipefail
# shellcheck source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

if [[ ${1:-} == --help ]]; then
    cat <<'HELP'
usage: launch/test.sh [--quick | --run-slow | --only-slow] [pytest arguments]

Makes the environment .venv if it is missing or outdated, then runs "python -m pytest" with the given arguments in the
repository root (paths are relative to it). As many files of tests run at the same time as there are cores, at most 4.
At the end stand the ten slowest tests.

  launch/test.sh                        everything but the slow tests
  launch/test.sh --quick                what takes less than two minutes in all, for daily work: no jobs of several ranks
  launch/test.sh --run-slow             the slow tests too: before a release
  launch/test.sh --only-slow            those alone
  launch/test.sh --cpu-times            at the end, the CPU seconds of each file and test
  launch/test.sh tests/schedules -q     one folder
  launch/test.sh -m "not msrun"         without the jobs of several ranks
  launch/test.sh -n 0 -x FILE           one after the other; the output of a test is shown with -s

Exit codes: those of pytest; 2 no suitable Python or not enough disk space, 1 the installation failed.
HELP
    exit
fi

require_environment requirements.txt requirements-test.txt
cd -- "$ROOT"
# Tests that start jobs mostly wait: for a scheduler, for imports, for a time-out. Those of a file share their jobs.
# Files in their order, not those with the most tests first: the longest have few tests and would come last.
exec "$ENV_PYTHON" -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder \
    --durations=10 "$@"
