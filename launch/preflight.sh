#!/usr/bin/env bash
# Checks machine, environment, data and network before a training.
set -euo pipefail
# shellcheck source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    cat <<'HELP'
usage: launch/preflight.sh --ranks R [--config RECIPE] [--free-gib G] [--timeout S] [--port P] [--dry-run]
                           [key=value ...]
       launch/preflight.sh --nodes N --node-rank K --master ADDRESS --ranks R [...the same]

Starts R ranks (on each of N nodes), each of which checks what a training needs: versions, device, disk and, of a
recipe, the data; together they check what they exchange, and make two updates of the recipe, timed apart: the first
compiles. One table, and a line for each failure that says what to do. Nothing is kept of what the updates did.

  --ranks R        ranks on this machine; on Ascend one device each
  --config RECIPE  also check what this YAML file needs
  --free-gib G     GiB wanted on the disk of runs_dir (default: 5)
  --timeout S      seconds to wait for the other ranks (default: 120; in an update ten times as many)
  key=value        settings over the recipe's
  --nodes, --node-rank, --master, --port, --dry-run  as in launch/node.sh, variables of a cluster included

Exit codes: 0 all is well; 2 a check failed, or a mistake in the arguments; 6 a rank did not answer; else as in
launch/local.sh. After a failure the ranks' logs are kept.
HELP
    exit
fi

start_job preflight "$@"
