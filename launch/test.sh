#!/usr/bin/env bash
# Runs the tests in the locked environment.
set -euo pipefail
# shellcheck source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

if [[ ${1:-} == --help ]]; then
    cat <<'HELP'
usage: launch/test.sh [pytest arguments]

Makes the environment .venv if it is missing or outdated, then runs "python -m pytest" with the given arguments in the
repository root (paths are relative to it).

  launch/test.sh                        everything but the slow tests
  launch/test.sh tests/schedules -q     one folder
  launch/test.sh -m "not msrun"         without the jobs of several ranks

Exit codes: those of pytest; 2 no suitable Python or not enough disk space, 1 the installation failed.
HELP
    exit
fi

require_environment requirements.txt requirements-test.txt
cd -- "$ROOT"
exec "$ENV_PYTHON" -m pytest "$@"
