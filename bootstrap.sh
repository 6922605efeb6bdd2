#!/bin/sh
# bootstrap.sh run|check|tpu: makes .venv ready for ./run, for ./check, or for a host of a TPU slice; silent and instant
# when it is.
#
# .venv/state says what .venv holds: the clone, the interpreter, the checksum of what was asked for, and for what.
# It says "incomplete" while an installation is under way, so that one which was cut short is made again from nothing.
# A .venv without that file was made by hand (for a GPU, say): it is used as it is and never changed.

for=$1
cd -- "$(dirname -- "$0")" || exit
root=$(pwd -P)

refuse() {
    echo "scaling: $1" >&2
    exit 2
}

base() { # what an installation cannot outlive
    echo "$root $(readlink -f .venv/bin/python)"
}

wanted() {
    echo "$(base) $(cat pyproject.toml requirements.lock requirements-dev.lock requirements-tpu.lock | cksum)"
}

ready() {
    [ -f .venv/state ] && [ -x .venv/bin/python ] || return
    state=$(cat .venv/state) && now=$(wanted) || return
    [ "$state" = "$now $for" ] && return
    [ "$for" = run ] && { [ "$state" = "$now check" ] || [ "$state" = "$now tpu" ]; }
}

find_python() { # sets python to one that has wheels in the locks and can make an environment, or to uv, or refuses
    found="there is no python3"
    bare=
    for python in python3.13 python3.12 python3.11 python3; do
        version=$($python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        if ! $python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))'; then
            found="$python is $version"
        elif ! $python -c 'import ensurepip, venv' 2>/dev/null; then
            bare=${bare:-$version}
        else
            return
        fi
    done
    python=uv
    python3 -m pip --version >/dev/null 2>&1 && return # it fetches uv, and uv brings a newer Python
    [ -z "$bare" ] ||
        refuse "Python $bare is here without venv: apt install python$bare-venv, or install uv (docs.astral.sh/uv)"
    apt="apt install python3.12-venv (Ubuntu 22.04: from ppa:deadsnakes/ppa)"
    refuse "Python 3.11 to 3.14 is needed ($found): install uv (docs.astral.sh/uv), which brings one, or $apt"
}

install() {
    case $for in
    run) lock=requirements.lock ;;
    check) lock=requirements-dev.lock ;;
    tpu) lock=requirements-tpu.lock ;;
    esac
    if [ "$python" = uv ]; then
        if ! uv --version; then
            python3 -m pip install --quiet --disable-pip-version-check --upgrade --target .venv/uv \
                --require-hashes -r requirements-uv.lock || return
            PATH=$root/.venv/uv/bin:$PATH
        fi
        [ -x .venv/bin/python ] || uv venv --quiet --allow-existing --python '>=3.11,<3.14' .venv || return
        set -- uv pip install --quiet --python .venv/bin/python
    else
        [ -x .venv/bin/python ] || "$python" -m venv .venv || return
        .venv/bin/python -m pip --version || .venv/bin/python -m ensurepip || return # uv leaves pip out
        set -- .venv/bin/python -m pip install --quiet --disable-pip-version-check
    fi
    # The package itself is built by the backend that the lock has just brought: nothing unpinned is fetched.
    "$@" --require-hashes -r $lock && "$@" --no-deps --no-build-isolation -e .
}

ready && exit
if [ -f .venv/pyvenv.cfg ] && ! [ -f .venv/state ]; then
    command=scaling
    [ "$for" != check ] || command=pytest
    [ -x .venv/bin/$command ] && exit
    refuse ".venv was made by hand and has no $command: pip install -e '.[cpu,dev]' in it, or move it away"
fi
python=uv
uv --version >/dev/null 2>&1 || find_python
echo "setting up .venv (once, about a minute) ..." >&2

# A lock on a file that is there anyway leaves nothing behind, and ends with its holder. macOS has perl, not flock.
exec 9>>requirements.lock
if command -v flock >/dev/null; then flock 9; else perl -e 'open my $f, ">&=", 9; flock $f, 2'; fi
ready && exit # another call has just done it
if [ -f .venv/state ]; then
    case $(cat .venv/state) in
    "$(base) "*) ;;
    *) rm -rf .venv ;;
    esac
fi
mkdir -p .venv && echo incomplete >.venv/state || exit
if ! install </dev/null >.venv/setup.log 2>&1; then
    tail -n 15 .venv/setup.log >&2
    echo "scaling: setting up .venv failed; all of it is in $root/.venv/setup.log" >&2
    exit 1
fi
echo "$(wanted) $for" >.venv/state
