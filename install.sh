#!/bin/sh
# Stoker's one script for a new machine: try it, test it, or install it as the appliance. `./install.sh --help` tells.
#
# POSIX sh. Everything is inside functions and the last line calls the first of them, so a file cut short by a broken
# download does nothing. A step is a sentence: it is printed with the time it took, or with `--dry-run` not taken at all.

main() {
    set -eu
    umask 022
    # A cut in the last line could leave a call without its words.
    [ "$(tail -n 1 "$0")" = 'main "$@"' ] || die 65 "$0 is cut short; fetch it again"
    cd "$(dirname "$0")"
    verb='' dry_run=no uninstall=no tui=yes child='' log=/dev/null changed=no reload=no restart=no
    units='stoker-agent.socket stoker-hub.socket stoker-agent.service stoker-hub.service'
    more_units='stoker-metrics.service'  # there for who wants them; not enabled
    commands='stoker stoker-agent stoker-hub stoker-license'
    slurm_names='sbatch squeue scancel sinfo srun salloc scontrol sacct seff sprio sshare'
    read_words "$@"
    trap 'interrupted 129' HUP
    trap 'interrupted 130' INT
    trap 'interrupted 143' TERM
    case $verb in
        demo) demo ;;
        test) run_tests ;;
        install)
            # shellcheck source=agent/units/ssh.sh
            . ./agent/units/ssh.sh
            if [ "$uninstall" = yes ]; then uninstall_appliance; else install_appliance; fi
            ;;
    esac
}

usage() {
    cat <<'TEXT'
usage: ./install.sh demo [--no-tui]         try it: a real training job on this machine, nothing installed
       ./install.sh test                    the same set-up and the whole test suite
       sudo ./install.sh [install]          install the appliance: /opt/stoker, /etc/stoker, systemd units
       sudo ./install.sh --uninstall        remove it; /var/lib/stoker stays

  --dry-run   with install or --uninstall: print each step, change nothing
  --no-tui    with demo: print progress even on a terminal
  --help      this text

Environment: PYTHON        the interpreter to use, 3.11 or newer (default: the first python3 that is)
             STOKER_TORCH  the torch to install for demo and test (default: torch==2.13.0)
TEXT
}

read_words() {
    for word in "$@"; do
        case $word in
            demo | test | install)
                [ -z "$verb" ] || usage_error "two verbs, $verb and $word"
                verb=$word
                ;;
            --dry-run) dry_run=yes ;;
            --uninstall) uninstall=yes ;;
            --no-tui) tui=no ;;
            -h | --help) usage && exit 0 ;;
            *) usage_error "unknown word: $word$(did_you_mean "$word")" ;;
        esac
    done
    verb=${verb:-install}
    [ "$verb" = install ] || [ "$dry_run$uninstall" = nono ] || usage_error "--dry-run and --uninstall belong to install"
    [ "$verb" = demo ] || [ "$tui" = yes ] || usage_error "--no-tui belongs to demo"
}

did_you_mean() {
    case $1 in
        --d* | --no-a* | -n) echo '; did you mean --dry-run?' ;;
        --u* | --r* | un* | rem*) echo '; did you mean --uninstall?' ;;
        --no*) echo '; did you mean --no-tui?' ;;
        -* | h*) echo '; see --help' ;;
        d*) echo '; did you mean demo?' ;;
        t*) echo '; did you mean test?' ;;
        i* | setup) echo '; did you mean install?' ;;
    esac
}

usage_error() {
    printf 'install.sh: %s\n\n' "$1" >&2
    usage >&2
    exit 64
}

# die STATUS SENTENCE: statuses are those of sysexits(3).
die() {
    printf 'install.sh: %s\n' "$2" >&2
    exit "$1"
}

interrupted() {
    trap '' HUP INT TERM
    if [ -n "$child" ]; then
        kill "$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    fi
    printf '\ninstall.sh: interrupted; run it again to go on from here\n' >&2
    exit "$1"
}

# step SENTENCE COMMAND…: run it with its output in $log, showing that time passes; end the script when it fails.
step() {
    sentence=$1 began=$(date +%s) seconds=0
    shift
    "$@" >>"$log" 2>&1 </dev/null &
    child=$!
    [ -t 1 ] || printf '  %s …\n' "$sentence"
    while kill -0 "$child" 2>/dev/null; do
        if [ -t 1 ]; then
            printf '\r  %s … %s s ' "$sentence" "$seconds"
        elif [ "$seconds" -ge 15 ] && [ $((seconds % 15)) -eq 0 ]; then
            printf '    still at it, %s s\n' "$seconds"
        fi
        sleep 1
        seconds=$(($(date +%s) - began))
    done
    status=0
    wait "$child" || status=$?
    child=''
    if [ "$status" -ne 0 ]; then
        printf '\ninstall.sh: failed: %s. The end of %s:\n\n' "$sentence" "$log" >&2
        tail -n 20 "$log" >&2
        exit 1
    fi
    if [ -t 1 ]; then printf '\r  %s: %s s   \n' "$sentence" "$seconds"; else printf '    done, %s s\n' "$seconds"; fi
}

# --- demo and test: an environment inside the checkout ---------------------------------------------------------------

demo() {
    prepare demo
    if [ "$tui" = yes ]; then exec .venv/bin/python -I -m agent.demo; fi
    exec .venv/bin/python -I -m agent.demo --no-tui
}

run_tests() {
    # shellcheck source=tests/means.sh
    . ./tests/means.sh
    install_test_means
    prepare test
    unpack_prometheus
    failed=''
    # What is compiled is kept: the suite starts some thousand Pythons.
    unset PYTHONDONTWRITEBYTECODE
    # All tests are read, and so compiled, once: else each of pytest's workers does so, all of them at the same time. What
    # is wrong with one pytest says itself.
    .venv/bin/python -m pytest --collect-only --quiet </dev/null >/dev/null 2>&1 &
    child=$!
    check 'ruff format' .venv/bin/python -m ruff format --check .
    check 'ruff check' .venv/bin/python -m ruff check .
    check 'mypy' .venv/bin/python -m mypy
    check 'import-linter' .venv/bin/lint-imports
    check 'shellcheck' shellcheck install.sh tests/means.sh agent/units/ssh.sh .ci/run .ci/lock agent/training/digits.sh
    wait "$child" || true
    child=''
    # Most tests wait for processes: with a worker a core the cores would be idle a third of the time. The wall is for a
    # worker that crashed and left a child behind: xdist waits for that child as well.
    check 'pytest' timeout --foreground --kill-after=30 3000 .venv/bin/python -m pytest -n "$(($(nproc) < 4 ? 4 : $(nproc)))"
    [ -z "$failed" ] || die 1 "failed:${failed%,}"
    echo 'install.sh: all checks passed'
}

check() {
    name=$1 began=$(date +%s)
    shift
    printf '\n== %s\n' "$name"
    "$@" </dev/null || failed="$failed $name,"
    printf -- '-- %s took %s s\n' "$name" "$(($(date +%s) - began))"
}

# prepare SET: .venv with everything that `demo` or `test` needs. A stamp makes the second run a matter of a second.
prepare() {
    find_python
    stamp=$({ echo "$PWD" "$version_id" "${STOKER_TORCH:-}"; cat pyproject.toml requirements*.lock; } | cksum)
    if [ -x .venv/bin/stoker ] && [ "$(cat ".venv/stoker-$1" 2>/dev/null)" = "$stamp" ]; then return; fi
    echo "Setting up .venv with Python $version_id (packages' messages: .venv/install.log)"
    if ! is_recent .venv/bin/python; then
        "$python" -m venv --clear .venv || die 69 "cannot make .venv with $python; the lines above say why"
    fi
    mkdir -p .venv/tmp
    log=.venv/install.log
    : >"$log"
    set_up_packages "$1"
    rm -rf .venv/tmp
    echo "$stamp" >".venv/stoker-$1"
    [ "$1" = demo ] || echo "$stamp" >.venv/stoker-demo
}

set_up_packages() {
    case $1 in
        demo) step 'locked packages' pip_install --require-hashes -r requirements.lock -r requirements-train.lock ;;
        test) step 'locked packages and test tools' pip_install --require-hashes \
            -r requirements.lock -r requirements-train.lock -r requirements-test.lock ;;
    esac
    # torch comes after everything it needs, so that nothing unlocked but torch itself (and its CUDA parts) is fetched.
    step "${STOKER_TORCH:-torch==2.13.0}" pip_install "${STOKER_TORCH:-torch==2.13.0}"
    step 'the project' pip_install --no-deps --no-build-isolation --editable .
}

# Neither a cache nor a temporary file outside the checkout. (pip asks rustc for its version; rustup's writes settings.)
# Compiling all of every package is most of pip's work; here Python compiles what is imported when it is.
pip_install() {
    export TMPDIR="$PWD/.venv/tmp" RUSTUP_HOME="$PWD/.venv/tmp"
    exec .venv/bin/python -m pip install --no-compile --no-cache-dir --disable-pip-version-check --no-input "$@"
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_recent "$PYTHON" || die 69 "PYTHON=$PYTHON is not a Python of at least 3.11"
        python=$(command -v "$PYTHON")
    else
        python=''
        for each in python3 python3.13 python3.12 python3.11; do
            if is_recent "$each"; then python=$(command -v "$each") && break; fi
        done
        [ -n "$python" ] || die 69 'no Python 3.11 or newer found; install one (Debian, Ubuntu: apt-get install python3
python3-venv), or name it: PYTHON=/path/to/python3.12 ./install.sh …'
    fi
    version_id=$("$python" -c 'import platform; print(platform.python_version())')
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        die 69 "$python has no venv module; install the package that brings it: apt-get install python3-venv
(for an interpreter that is not the system's: python${version_id%.*}-venv)"
}

is_recent() {
    command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# --- the appliance ----------------------------------------------------------------------------------------------------

install_appliance() {
    version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' agent/__init__.py)
    release=/opt/stoker/$version
    [ "$dry_run" = yes ] || require_appliance_means
    find_python
    "$python" -c 'import sys; sys.exit(sys.base_prefix.startswith(("/root/", "/home/")))' ||
        die 69 "$python lives in a home folder, where services may not look; name another: PYTHON=/usr/bin/python3"
    add_accounts
    add_configuration
    add_release
    add_folders
    add_hub_key
    add_units
    add_commands
    add_slurm_names
    start_services
    add_ssh_access
    if [ "$changed" = no ]; then echo "Stoker $version is installed; nothing to do"; return; fi
    [ "$dry_run" = no ] || return 0
    cat <<TEXT

Stoker $version is installed and runs. What comes next:
  usermod -aG stoker NAME                  let NAME submit jobs (log in again to make it hold)
  usermod -aG stoker,stoker-admin NAME     let NAME see and end everybody's jobs
  stoker-license activate FILE             activate a licence, or to try it for 14 days:
  stoker-license activate /opt/stoker/current/evaluation.voucher
  stoker                                   the screen;  stoker nodes  the same as plain lines
TEXT
    hub_key_line
}

require_appliance_means() {
    [ "$(id -u)" -eq 0 ] || die 77 'installing needs root: sudo ./install.sh (or try it without: ./install.sh demo)'
    [ -d /run/systemd/system ] || die 69 'systemd does not run here, and the appliance needs it to start jobs; try ./install.sh demo'
    for command in $commands; do
        [ ! -e "/usr/local/bin/$command" ] || is_our_link "$command" ||
            die 73 "/usr/local/bin/$command is there already and is not ours; move it away first"
    done
}

# act SENTENCE COMMAND…: one change to the machine, or with --dry-run only its sentence.
act() {
    changed=yes
    if [ "$dry_run" = yes ]; then echo "would $1"; return; fi
    echo "  $1"
    shift
    "$@"
}

add_accounts() {
    for group in stoker stoker-admin; do
        getent group "$group" >/dev/null || act "add the group $group" groupadd --system "$group"
    done
    add_hub_account
}

# A release is built under another name and renamed when it is whole. The stamp tells whether its sources are still these.
add_release() {
    stamp=$({ echo "$python" "$version_id"; find agent tui licensing pyproject.toml requirements.lock -type f \
        ! -name '*.pyc' | LC_ALL=C sort | xargs cksum; } | cksum)
    if [ "$(cat "$release/stamp" 2>/dev/null)" != "$stamp" ]; then
        act "build the release $release" build_release
        restart=yes
    fi
    [ "$(readlink /opt/stoker/current)" = "$version" ] ||
        act "point /opt/stoker/current to $version" replace_link "$version" /opt/stoker/current
}

build_release() {
    rm -rf "$release.new"
    mkdir -p "$release.new/tmp"
    log=/opt/stoker/install.log
    (umask 077 && : >"$log")
    step 'an environment of its own' "$python" -m venv "$release.new"
    step 'locked packages' release_pip --require-hashes -r requirements.lock
    step 'the project' release_pip --no-deps --no-build-isolation .
    rm -rf "$release.new/tmp"
    # At a path that can be typed. A build for customers may ship none.
    for voucher in "$release.new"/lib/python*/site-packages/licensing/data/evaluation.voucher; do
        [ ! -e "$voucher" ] || ln -s "${voucher#"$release.new/"}" "$release.new/evaluation.voucher"
    done
    ln -s "$(cd "$release.new" && echo lib/python*/site-packages/agent/monitoring)" "$release.new/monitoring"
    # Scripts name their interpreter by its full path.
    grep -rlF "$release.new" "$release.new/bin" "$release.new/pyvenv.cfg" | xargs sed -i "s|$release\.new|$release|g"
    echo "$stamp" >"$release.new/stamp"
    rm -rf "$release.old"
    [ ! -e "$release" ] || mv "$release" "$release.old"
    mv "$release.new" "$release"
    rm -rf "$release.old"
}

release_pip() {
    export TMPDIR="$release.new/tmp" RUSTUP_HOME="$release.new/tmp"
    exec "$release.new/bin/python" -I -m pip install --no-cache-dir --disable-pip-version-check --no-input "$@"
}

replace_link() {
    ln -sfn "$1" "$2.new"
    mv -fT "$2.new" "$2"
}

# An edited file stays; what it would have become lies beside it as .new. Edited means: not what the last release brought.
add_configuration() {
    file=/etc/stoker/stoker.toml
    if cmp -s agent/units/stoker.toml "$file"; then return; fi
    if [ ! -e "$file" ] || is_last_default "$file"; then
        act "write $file" install -D -m 0644 agent/units/stoker.toml "$file"
        restart=yes
    elif ! cmp -s agent/units/stoker.toml "$file.new"; then
        act "keep the edited $file and write the new defaults to $file.new" install -m 0644 agent/units/stoker.toml "$file.new"
    fi
}

is_last_default() {
    find /opt/stoker/current/ -path '*/agent/units/stoker.toml' -exec cmp -s {} "$1" \; -print 2>/dev/null | grep -q .
}

add_folders() {
    # Jobs' accounts pass through it to their own folders; nobody may look around.
    add_folder /var/lib/stoker 711 root
    add_folder /var/lib/stoker/hub 700 stoker-hub
}

add_folder() {
    [ "$(stat -c '%a %U %G' "$1" 2>/dev/null)" = "$2 $3 stoker" ] ||
        act "make the folder $1" install -d -m "$2" -o "$3" -g stoker "$1"
}

add_units() {
    for unit in $units $more_units; do
        file=/etc/systemd/system/$unit
        if ! cmp -s "agent/units/$unit" "$file"; then
            act "write $file" install -m 0644 "agent/units/$unit" "$file"
            reload=yes restart=yes
        fi
    done
    [ "$reload" = no ] || act 'tell systemd of the units' systemctl daemon-reload
    for unit in $units; do
        systemctl is-enabled --quiet "$unit" 2>/dev/null || act "enable $unit" systemctl enable --quiet "$unit"
    done
}

add_commands() {
    for command in $commands; do
        is_our_link "$command" ||
            act "link /usr/local/bin/$command" replace_link "/opt/stoker/current/bin/$command" "/usr/local/bin/$command"
    done
}

is_our_link() {
    [ "$(readlink "/usr/local/bin/$1")" = "/opt/stoker/current/bin/$1" ]
}

# Slurm's names are ours only where no Slurm is: a script that says sbatch must never go elsewhere than it did.
add_slurm_names() {
    if other_slurm; then
        for name in $slurm_names; do
            ! is_our_name "$name" || act "remove /usr/local/bin/$name, there is a Slurm now" rm "/usr/local/bin/$name"
        done
        case $dry_run in
            yes) echo "would leave Slurm's names alone: $slurm_is_here" ;;
            no) echo "  Slurm's names stay Slurm's: $slurm_is_here; ours are: stoker slurm sbatch, stoker slurm squeue, …" ;;
        esac
        return
    fi
    for name in $slurm_names; do
        is_our_name "$name" ||
            act "link /usr/local/bin/$name" replace_link /opt/stoker/current/bin/stoker-slurm "/usr/local/bin/$name"
    done
}

# Tells in $slurm_is_here by what: a command of that name that is not ours, or a configuration.
other_slurm() {
    slurm_is_here=''
    for name in $slurm_names; do
        found=$(command -v "$name" 2>/dev/null) || found=''
        for path in "$found" "/usr/local/bin/$name"; do
            if [ ! -e "$path" ] && [ ! -L "$path" ]; then continue; fi
            if [ "$path" = "/usr/local/bin/$name" ] && is_our_name "$name"; then continue; fi
            slurm_is_here="$path is there"
            return
        done
    done
    for path in /etc/slurm/slurm.conf /etc/slurm-llnl/slurm.conf; do
        [ ! -e "$path" ] || { slurm_is_here="$path is there" && return; }
    done
    return 1
}

is_our_name() {
    [ "$(readlink "/usr/local/bin/$1")" = /opt/stoker/current/bin/stoker-slurm ]
}

# Units of type notify: systemctl returns when the daemons listen. Running jobs are not theirs and are not touched.
start_services() {
    if [ "$restart" = yes ]; then
        act 'start the services' bring_up restart
    else
        for unit in $units; do
            systemctl is-active --quiet "$unit" || { act 'start what does not run' bring_up start && break; }
        done
    fi
}

# bring_up start|restart. What failed too often before is forgiven first, or systemd refuses to try.
bring_up() {
    systemctl reset-failed 'stoker-*' 2>/dev/null || true
    systemctl start stoker-agent.socket stoker-hub.socket &&
        systemctl "$1" stoker-agent.service stoker-hub.service && systemctl try-restart $more_units && return
    for unit in stoker-agent stoker-hub; do
        systemctl is-active --quiet "$unit" || journalctl --no-pager -n 15 -u "$unit" >&2 || true
    done
    die 1 'the services do not start; the lines above say why'
}

uninstall_appliance() {
    [ "$dry_run" = yes ] || require_appliance_means
    remove_ssh_access
    for unit in $units $more_units; do
        [ ! -e "/etc/systemd/system/$unit" ] || act "stop and remove $unit" remove_unit "$unit"
    done
    [ "$changed" = no ] || act 'tell systemd' systemctl daemon-reload
    for command in $commands; do
        ! is_our_link "$command" || act "remove /usr/local/bin/$command" rm "/usr/local/bin/$command"
    done
    for name in $slurm_names; do
        ! is_our_name "$name" || act "remove /usr/local/bin/$name" rm "/usr/local/bin/$name"
    done
    remove_configuration
    [ ! -e /opt/stoker ] || act 'remove /opt/stoker' rm -rf /opt/stoker
    [ ! -e /run/stoker ] || act 'remove /run/stoker' rm -rf /run/stoker
    if [ "$changed" = no ]; then echo 'Stoker is not installed; nothing to do'; return; fi
    echo 'Kept: /var/lib/stoker (jobs, logs, licence) and the accounts that own it: stoker, stoker-admin, stoker-hub.'
    echo 'Running jobs go on to their end; their outcomes are recorded when Stoker is installed again.'
}

remove_unit() {
    systemctl disable --quiet --now "$1"
    rm "/etc/systemd/system/$1"
}

# All of it or nothing: what an admin wrote is kept, and the folder with it.
remove_configuration() {
    [ -e /etc/stoker ] || return 0
    file=/etc/stoker/stoker.toml edited=''
    [ ! -e "$file" ] || cmp -s agent/units/stoker.toml "$file" || is_last_default "$file" || edited=" $file"
    ! lets_hubs_in || edited="$edited $hubs_let_in"
    if [ -z "$edited" ]; then act 'remove /etc/stoker' rm -r /etc/stoker; else echo "  keep the edited$edited"; fi
}

main "$@"
