# shellcheck shell=sh
# What the suite needs of the machine: the real sshd, systemd, compiler and shells. As root what is missing is installed;
# otherwise it is named, and the tests that need it are skipped with the reason. Sourced by `install.sh test`, whose
# `step` it uses.

install_test_means() {
    missing='' policy=/usr/sbin/policy-rc.d
    for pair in sshd:openssh-server ssh-keygen:openssh-client systemctl:systemd dbus-daemon:dbus-daemon cc:gcc \
        shellcheck:shellcheck busybox:busybox swtpm:swtpm git:git unshare:util-linux mkfs.ext4:e2fsprogs; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
    done
    [ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
    [ -z "$missing" ] || install_missing
}

install_missing() {
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "Not installed, so the tests that need them are skipped:$missing"
        return 0
    fi
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    step 'apt-get update' apt-get update
    forbid_services
    # shellcheck disable=SC2086  # a list of package names
    step "apt-get install$missing" apt-get install --yes --no-install-recommends $missing
    allow_services
    # The tests start an sshd of their own; one that nobody asked for shall not come with the next boot either.
    case $missing in
        *openssh-server*) for unit in ssh.service ssh.socket; do systemctl disable --quiet "$unit" || true; done ;;
    esac
    rm -f "$log"
}

# After .venv was made. Prometheus, promtool and node_exporter, which judge our metrics and rules, are unpacked and not
# installed: a server that scrapes is
# nothing that a test may leave behind on a machine.
unpack_prometheus() {
    lacks=''
    for program in prometheus promtool prometheus-node-exporter; do
        command -v "$program" >/dev/null 2>&1 || [ -x ".venv/prometheus/usr/bin/$program" ] || lacks=yes
    done
    [ -n "$lacks" ] || return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1 || ! command -v dpkg-deb >/dev/null 2>&1; then
        echo 'Not there, so the tests that need them are skipped: prometheus, prometheus-node-exporter'
        return 0
    fi
    log=$(mktemp)
    step 'prometheus and node_exporter, to be unpacked' fetch_prometheus
    rm -f "$log"
}

fetch_prometheus() {
    mkdir -p .venv
    folder=$(mktemp -d -p .venv prometheus.XXXXXX)
    # The list of packages may be older than what the archive still has.
    (cd "$folder" && apt-get download prometheus prometheus-node-exporter) ||
        (apt-get update && cd "$folder" && apt-get download prometheus prometheus-node-exporter) || return 1
    for package in "$folder"/*.deb; do
        dpkg-deb -x "$package" "$folder"
        rm "$package"
    done
    rm -rf .venv/prometheus
    mv "$folder" .venv/prometheus
}

# Debian's packages ask this file whether they may start what they bring. One that is there already is not ours to touch.
forbid_services() {
    if [ -e "$policy" ] && ! grep -q 'install.sh test' "$policy"; then return; fi
    trap allow_services EXIT
    printf '#!/bin/sh\n# Made by Stoker, install.sh test, for as long as it installs packages.\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}

allow_services() {
    trap - EXIT
    if grep -qs 'install.sh test' "$policy"; then rm "$policy"; fi
}
