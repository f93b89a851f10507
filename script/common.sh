# Shared by the scripts: a virtual environment of the project's own, with what is asked for in it.
# Sourced; sets $python.  POSIX sh.

say() { printf '%s\n' "$*" >&2; }

# The system Python, 3.11 or newer, with venv; as root what is missing is installed.
find_python() {
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            system_python=$candidate
            return 0
        fi
    done
    return 1
}

apt_install() {
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        say "missing: $*. Install it as root: apt-get install $*"
        exit 1
    fi
    say "installing $* ..."
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1; then
        say "apt-get could not install $*:"
        tail -n 5 "$log" >&2
        exit 1
    fi
}

# Be another program from here on; an EXIT trap would not be run.
become() {
    rm -f "$log"
    exec "$@"
}

# What builds the extensions; without it all but KVM works.
compiler() {
    command -v "${CC:-cc}" >/dev/null && "$python" -c 'import os, sysconfig, sys
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' && return
    if [ "$(id -u)" -ne 0 ] || ! (apt_install gcc libc6-dev python3-dev); then
        say "no C compiler or no Python headers, so no engine kvm: apt-get install gcc libc6-dev python3-dev"
    fi
}

# environment EXTRAS...: make .venv if need be, and install the project with these extras.
environment() {
    umask 022
    venv=${HFSCHED_VENV:-$top/.venv}
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    find_python || { apt_install python3 python3-venv && find_python; } || exit 1
    python=$venv/bin/python
    if ! "$python" -c 'import pip' 2>/dev/null; then
        say "making a virtual environment ..."
        "$system_python" -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
        "$system_python" -m venv --clear "$venv"
    fi
    wanted="$(command -v "${CC:-cc}" || :) $(cat "$top/pyproject.toml" "$top"/hfsched/*/*/*.[ch]) $top"
    wanted=$(printf '%s' "$wanted" | cksum)
    for extra in "$@"; do
        if ! grep -qsxF "$wanted $extra" "$venv/installed"; then
            compiler
            say "installing the project with: $* ..."
            if ! "$python" -m pip install --disable-pip-version-check -e "$top[$(echo "$*" | tr ' ' ,)]" \
                >"$log" 2>&1; then
                say "pip could not install it:"
                tail -n 15 "$log" >&2
                exit 1
            fi
            # pip has left in place what other scripts had asked for.
            others=$(grep -sF "$wanted " "$venv/installed" || :)
            { printf '%s\n' "$others"; printf "$wanted %s\n" "$@"; } >"$venv/installed"
            break
        fi
    done
}
