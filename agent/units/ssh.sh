# shellcheck shell=sh
# The ways between a hub and its nodes: the key this machine's hub shows to others, and what sshd allows to other hubs
# here. Sourced by install.sh, whose `act` and `die` it uses.

hub_key=/var/lib/stoker/hub/ssh_key
hubs_let_in=/etc/stoker/authorized_keys.d/stoker-hub
sshd_rules=/etc/ssh/sshd_config.d/50-stoker.conf

# Home and shell for sshd, which starts even a forced command by the shell. The home is no place where the account could
# write files that sshd, the shell or Python would read; the password `*` fits no word and, unlike `!`, is not locked.
add_hub_account() {
    case $(getent passwd stoker-hub | cut -d: -f 6,7) in
        '') act 'add the account stoker-hub, in the group stoker' useradd --system --gid stoker \
            --home-dir / --no-create-home --shell /bin/sh --password '*' stoker-hub ;;
        /:/bin/sh) ;;
        *) act 'give the account stoker-hub the home / and the shell /bin/sh' mend_hub_account ;;
    esac
}

mend_hub_account() {
    systemctl stop stoker-hub.socket stoker-hub.service 2>/dev/null || true
    # usermod refuses while a process has the account: another hub's way in, which that hub opens again.
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        if why=$(usermod --home / --shell /bin/sh --password '*' stoker-hub 2>&1); then return; fi
        pkill -KILL -u stoker-hub || true
        sleep 0.2
    done
    die 1 "the account stoker-hub keeps its old home and shell: $why
End what runs under it (ps -u stoker-hub) and run this again."
}

add_hub_key() {
    # Who may not look into the folder (a dry run by anybody) leaves it at that.
    if [ -e "$hub_key" ] || { [ -e "${hub_key%/*}" ] && [ ! -x "${hub_key%/*}" ]; }; then return; fi
    command -v ssh-keygen >/dev/null 2>&1 || return 0
    act "make the hub's key for other nodes, $hub_key" make_hub_key
}

# By the account itself: in a folder of its own it could lead root's writing astray. Renamed when it is whole.
make_hub_key() {
    # shellcheck disable=SC2016  # the inner shell's words
    runuser -u stoker-hub -- sh -c '
        set -eu
        umask 077
        rm -f "$1.new" "$1.new.pub"
        ssh-keygen -q -t ed25519 -N "" -C "$2" -f "$1.new"
        mv "$1.new.pub" "$1.pub"
        mv "$1.new" "$1"' sh "$hub_key" "stoker-hub@$(uname -n)"
}

# What the admin of another node adds there.
hub_key_line() {
    [ -e "$hub_key.pub" ] || return 0
    printf '\nTo run another node from this hub, add this line to %s there (agent/README.md, A second node):\n  ' "$hubs_let_in"
    sed 's/^/restrict /' "$hub_key.pub"
}

add_ssh_access() {
    [ -e "$hubs_let_in" ] ||
        act "write $hubs_let_in, with no key in it" install -D -m 0644 agent/units/authorized_keys "$hubs_let_in"
    if [ ! -d "${sshd_rules%/*}" ] || ! sshd=$(PATH=$PATH:/usr/sbin:/sbin command -v sshd); then return; fi
    cmp -s agent/units/sshd.conf "$sshd_rules" || act "write $sshd_rules and reload sshd" write_sshd_rules
}

write_sshd_rules() {
    install -m 0644 agent/units/sshd.conf "$sshd_rules"
    # Where sshd has not been started yet, it refuses to look at its configuration without this.
    [ -d /run/sshd ] || mkdir -m 0755 /run/sshd
    if why=$(sshd_takes_rules 2>&1); then
        reload_sshd
        return
    fi
    rm "$sshd_rules"
    die 1 "no hub can come in by ssh, and $sshd_rules is taken back: $why
Mend that and run this again. All else is installed."
}

sshd_takes_rules() {
    "$sshd" -t || return
    "$sshd" -T -C user=stoker-hub,host=localhost,addr=127.0.0.1 | grep -q '^forcecommand .*stoker-agent dial-stdio$' ||
        { echo "sshd's configuration has no line: Include ${sshd_rules%/*}/*.conf" && return 1; }
}

reload_sshd() {
    for each in ssh sshd; do
        if systemctl is-active --quiet "$each.service"; then systemctl reload "$each.service" && return; fi
    done
}

remove_ssh_access() {
    [ ! -e "$sshd_rules" ] || act "remove $sshd_rules and reload sshd" remove_sshd_rules
}

remove_sshd_rules() {
    rm "$sshd_rules"
    reload_sshd || true
}

lets_hubs_in() {
    grep -qs '^[^#]' "$hubs_let_in"
}
