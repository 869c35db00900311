#!/usr/bin/env bash
# Trains on the devices of this machine.
set -euo pipefail
# shellcheck source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    cat <<'HELP'
usage: launch/local.sh --ranks N --config RECIPE [--port P] [--max-restarts M] [--[no-]bind-core] [--dry-run]
                       [key=value ...]

Checks the recipe, prints the msrun command of the job and runs it: N ranks on this machine, on the CPU or on Ascend.

  --ranks N        number of ranks; on Ascend one device each
  --config RECIPE  the run's YAML file, for example train/recipes/digits_resnet20.yaml
  --port P         port for msrun's scheduler (1024-65535; a free one is chosen if none is given)
  --max-restarts M after a crash or a hang start again from the last checkpoint, at most M times (default: 0)
  --bind-core      let msrun bind each rank to processor cores, on Ascend near its device (launch/ASCEND.md)
  --no-bind-core   on a CPU do not bind each rank to its part of the cores, by its number on
                   the machine; bound, two jobs beside each other share cores (launch/README.md)
  --dry-run        check everything and print the msrun command on stdout, but start nothing
  key=value        settings over the recipe's, for example name=trial

Rank 0's lines appear here; the logs of all ranks are in runs/<name>/logs/.
Exit codes: 0 trained; 2 a mistake in the arguments or the recipe; 130 Ctrl-C; 143 SIGTERM; else that of the rank
that failed first.
HELP
    exit
fi

start_job local "$@"
