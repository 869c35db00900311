# shellcheck shell=bash
# The Python environment of the other scripts, which source this file.
#
#   require_environment LOCK...   leaves in ENV_PYTHON the interpreter to run; makes or repairs .venv first if it must
#   environment_ready LOCK...     true if that would have nothing to do
#   find_python                   leaves in BASE_PYTHON a Python 3.10-3.12 that can make the environment
#   start_job KIND ARGUMENT...    hands over to job.py
#
# Variables of the user: PYTHON (the interpreter to make .venv with), ACTIVE_ENVIRONMENT=1 (use the active environment
# as it is and install nothing: containers, conda, the image of a cluster).

LAUNCH=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=$(dirname -- "$LAUNCH")
VENV=$ROOT/.venv
NEEDED_GB=5 # 3.1 GB installed (du -sh .venv), and what is downloaded on the way

# A console that is gone or closed must not affect the job; the next file opened would take the place of a closed one.
trap '' PIPE
[[ -e /dev/fd/0 ]] || exec </dev/null
[[ -e /dev/fd/1 ]] || exec >/dev/null
[[ -e /dev/fd/2 ]] || exec 2>/dev/null

# Control characters of a path or argument do not reach the terminal.
say() { printf 'launch: %s\n' "${*//[[:cntrl:]]/?}" >&2 2>/dev/null || true; }

# refuse MESSAGE [EXIT_CODE]
refuse() {
    say "$1"
    exit "${2:-2}"
}

suitable_python() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

find_python() {
    local candidate without_venv='' candidates=(python3.12 python3.11 python3.10 python3 python)
    if [[ -n ${PYTHON:-} ]]; then
        suitable_python "$PYTHON" || refuse "PYTHON=$PYTHON is no Python 3.10-3.12 that runs; set it to one or unset it"
        candidates=("$PYTHON")
    fi
    for candidate in "${candidates[@]}"; do
        suitable_python "$candidate" || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            # The interpreter behind an active .venv: the one in it would be deleted under its own feet by a repair.
            BASE_PYTHON=$("$candidate" -c 'import sys; print(getattr(sys, "_base_executable", None) or sys.executable)')
            return
        fi
        without_venv=${without_venv:-$candidate}
    done
    [[ -z $without_venv ]] || refuse "$without_venv cannot make a virtual environment (no venv or ensurepip module): \
install it (Debian, Ubuntu: apt install $without_venv-venv) or set PYTHON to another Python 3.10-3.12"
    refuse "no Python 3.10-3.12 found (looked for ${candidates[*]}); install one or set PYTHON to its path"
}

# A copy of the lock, written last, says what is installed: absent or different, the lock is installed (again).
lock_installed() { cmp -s "$LAUNCH/$1" "$VENV/installed-$1"; }

environment_ready() {
    local lock
    [[ ${ACTIVE_ENVIRONMENT:-0} == 0 ]] || return 0
    sound_venv || return 1
    for lock in "$@"; do lock_installed "$lock" || return 1; done
}

# Not sound: interrupted while installing, moved (its commands name the old place), without a suitable interpreter, or
# with another one than it was made with, as after an update of the system, which does not find the packages.
sound_venv() {
    local version
    [[ ! -e $VENV/installing ]] && grep -qsF "$VENV/bin/" "$VENV/bin/pip" && suitable_python "$VENV/bin/python" &&
        version=$("$VENV/bin/python" -c 'import sys; print("%d.%d." % sys.version_info[:2])') &&
        grep -qsF "version = $version" "$VENV/pyvenv.cfg"
}

made_by_us() { compgen -G "$VENV/install*" >/dev/null; }

make_venv() {
    local free_kb
    find_python
    free_kb=$(df -Pk -- "$ROOT" 2>/dev/null | awk 'NR == 2 { print $4 }') || free_kb=''
    if [[ $free_kb =~ ^[0-9]+$ ]] && ((free_kb < NEEDED_GB * 1000000)); then
        refuse "the environment .venv needs $NEEDED_GB GB of disk space, but $ROOT has \
$((free_kb / 1000000)).$((free_kb / 100000 % 10)) GB free"
    fi
    if [[ -L $VENV ]] || { [[ -e $VENV ]] && ! made_by_us; }; then
        refuse "$VENV was not made by these scripts; move it away, or activate it and set ACTIVE_ENVIRONMENT=1"
    fi
    say "making the environment .venv with $BASE_PYTHON"
    rm -rf -- "$VENV"
    mkdir -- "$VENV"
    : >"$VENV/installing"
    "$BASE_PYTHON" -m venv -- "$VENV" >/dev/null 2>&1 || refuse "$BASE_PYTHON -m venv could not make $VENV" 1
}

install_lock() {
    local lock=$1 log=$VENV/install.log status=0
    say "installing $(grep -c '==' "$LAUNCH/$lock") packages from launch/$lock (the first time this takes minutes)"
    : >"$VENV/installing" # stays if this is interrupted; pip that fails by itself has undone what it began
    { "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
        -r "$LAUNCH/$lock" >"$log" 2>&1; } 2>/dev/null || status=$? # the shell's own word of a killed pip goes nowhere
    ((status < 128)) || refuse "the installation was killed (signal $((status - 128))); the next start makes .venv anew" 1
    rm -- "$VENV/installing"
    ((status == 0)) || refuse "the installation failed (all of it in $log): \
$(grep -m 1 '^ERROR' "$log" || tail -n 1 "$log")" 1
    cp -- "$LAUNCH/$lock" "$VENV/installed-$lock"
}

# One installation at a time: the nodes of a job, or two terminals, may share this folder.
wait_for_turn() {
    command -v flock >/dev/null || return 0
    flock -n 9 && return
    say "waiting for another installation into $VENV"
    flock 9 || true # a file system without locks
}

require_environment() {
    local lock
    [[ $ROOT != *:* ]] || refuse "$ROOT: the : in it separates the folders of PATH; move this folder to another place"
    if [[ ${ACTIVE_ENVIRONMENT:-0} != 0 ]]; then
        ENV_PYTHON=$(command -v "${PYTHON:-python}" || true)
        suitable_python "$ENV_PYTHON" || refuse "ACTIVE_ENVIRONMENT: ${PYTHON:-python} is no Python 3.10-3.12"
        return
    fi
    ENV_PYTHON=$VENV/bin/python
    environment_ready "$@" && return
    # No user can repair for another what that other runs: its interpreter may lie in a home that is closed.
    if [[ -L $VENV/bin/python && ! -x $VENV/bin/python && ! -O $VENV ]]; then
        refuse "$VENV/bin/python cannot be run by this user: it leads to $(readlink -- "$VENV/bin/python"), \
which is closed to others or gone; make .venv with PYTHON=/usr/bin/python3, or use an environment of your own"
    fi
    [[ -w $ROOT && -w $LAUNCH/requirements.txt ]] || refuse "no permission to make the environment .venv in $ROOT"
    (
        trap 'exit 130' INT
        trap 'exit 143' TERM
        wait_for_turn
        sound_venv || make_venv
        for lock in "$@"; do lock_installed "$lock" || install_lock "$lock"; done
    ) 9<>"$LAUNCH/requirements.txt"
}

# A mistake in the arguments is told before anything is installed.
start_job() {
    unset PYTHONSAFEPATH # the launcher's other files lie beside it, where this keeps Python from looking; job.py sets it
    if ! environment_ready requirements.txt; then
        find_python
        "$BASE_PYTHON" "$LAUNCH/job.py" "$@" --check-arguments
    fi
    require_environment requirements.txt
    exec "$ENV_PYTHON" "$LAUNCH/job.py" "$@"
}
