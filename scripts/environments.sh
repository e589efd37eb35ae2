# Virtual environments that repair and refresh themselves. Sourced by scripts, in the repository's directory.
# shellcheck shell=bash

say() { echo "$(basename "$0"): $*" >&2; }
fail() {
    say "$*"
    exit 1
}

# The interpreter to make environments with.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "needs Python 3.10, 3.11, 3.12 or 3.13 (Debian: apt-get install python3 python3-venv), or PYTHON set to one"
}

# install_debian PACKAGE... : only as root on Debian; elsewhere it says what to install.
install_debian() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "please install $* (on Debian or Ubuntu: sudo apt-get install $*)"
    fi
    say "installing $* (apt-get)"
    local log
    log="$(mktemp)"
    # apt-get's own lock is no waiting one, and two environments may be made at once.
    exec 8>"${TMPDIR:-/tmp}/ray_reproducer_apt.lock"
    flock 8
    if ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"; } \
        </dev/null >"$log" 2>&1 8>&-; then
        tail -n 20 "$log" >&2
        fail "apt-get could not install $*"
    fi
    rm -f "$log"
    exec 8>&-
}

# pip_install ENVIRONMENT ARGUMENT... : what pip says is shown only if it fails; a network that stutters is tried again.
pip_install() {
    local environment="$1" log attempt
    shift
    log="$environment/install.log"
    for attempt in 1 2 3; do
        if "$environment/bin/python" -m pip --disable-pip-version-check --no-input install "$@" </dev/null >"$log" 2>&1; then
            return 0
        fi
        [ "$attempt" = 3 ] || say "pip failed (attempt $attempt), trying again"
    done
    tail -n 30 "$log" >&2
    fail "pip could not install into $environment; the whole log: $log"
}

# make_environment DIRECTORY NAME FILE... -- PIP-ARGUMENT...
# Installs unless that was done already with these files, from this place. "dev" includes "run".
make_environment() {
    local directory="$1" name="$2" python stamp files=()
    shift 2
    while [ "$1" != -- ]; do
        files+=("$1")
        shift
    done
    shift
    mkdir -p "$directory"
    exec 9<"$directory" # two scripts at once: the second one waits, and finds everything done
    flock 9
    stamp="$(pwd) $(cat "${files[@]}" | sha256sum)"
    if "$directory/bin/python" -c '' 2>/dev/null; then
        if grep -qsxF "$stamp" "$directory/.installed-$name" "$directory/.installed-dev"; then
            exec 9<&-
            return 0
        fi
    else
        python="$(find_python)"
        "$python" -c 'import ensurepip, venv' 2>/dev/null || install_debian python3-venv
        say "making $directory with $("$python" --version)"
        "$python" -m venv --clear "$directory"
    fi
    rm -f "$directory"/.installed-*
    say "installing into $directory (a minute or two, only when something has changed)"
    pip_install "$directory" "$@"
    echo "$stamp" >"$directory/.installed-$name"
    exec 9<&-
}
