#!/usr/bin/env bash
# From a fresh clone to a trained network and the comparison of its weights.
set -euo pipefail
ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    cat <<'HELP'
usage: launch/quickstart.sh [--ranks N] [--port P] [--dry-run] [key=value ...]

Makes the environment .venv (the first time), trains ResNet-20 on the digits data set with 2 ranks on this machine and
prints the comparison of the weights and where to look next. The run is runs/quickstart, the next one
runs/quickstart-2, and so on.
Options and exit codes are those of launch/local.sh.
HELP
    exit
fi

# Later options win, so the user's --ranks and key=value stand behind ours.
name='' runs_dir=runs resume=''
for argument in "$@"; do
    case $argument in
    name=*) name=${argument#*=} ;;
    runs_dir=*) runs_dir=${argument#*=} ;;
    resume=*) resume=${argument#*=} ;;
    esac
done
if [[ -z $name ]]; then
    name=quickstart
    number=1
    while [[ -e $runs_dir/$name/config.yaml ]]; do
        number=$((number + 1))
        name=quickstart-$number
    done
    if [[ $resume == auto ]] && ((number > 1)); then # the newest one goes on
        name=quickstart
        ((number == 2)) || name=quickstart-$((number - 1))
        number=1
    fi
    ((number == 1)) || printf 'launch: %s\n' "earlier runs are kept; this one is $runs_dir/$name" >&2
    set -- "$@" "name=$name"
fi

exec bash "$ROOT/launch/local.sh" --ranks 2 --config "$ROOT/train/recipes/digits_resnet20.yaml" "$@"
