"""The appliance from nothing to nothing: install, use, install again, remove, under a systemd of its own.

The box is `tests.fakes.appliance`.
"""

from __future__ import annotations

import json
import re
import shutil

import pytest

from tests.fakes.appliance import HUB_KEY, PYTHON, SOURCE, UNITS, Machine
from tests.fakes.appliance import machine as machine
from tests.fakes.daemons import wait_until

pytestmark = pytest.mark.timeout(300)

METRICS_UNIT, METRICS = "stoker-metrics.service", "http://127.0.0.1:9402"
SCRIPT = "#!/bin/bash\n#SBATCH --gres=gpu:2\n#SBATCH --output=out-%j\nid -un; id -gn; pwd; echo $CUDA_VISIBLE_DEVICES\n"
LET_IN = "/etc/stoker/authorized_keys.d/stoker-hub"
SSHD_RULES = "/etc/ssh/sshd_config.d/50-stoker.conf"


@pytest.fixture(scope="module")
def installed(machine: Machine) -> Machine:
    """The appliance, installed under the strictest umask; its dry run came first."""
    before = machine.tree()
    dry = machine.install("--dry-run")
    assert machine.tree() == before, "a dry run touches nothing"
    promised = [line.removeprefix("would ") for line in dry.stdout.splitlines()]
    done = machine.install(umask="077")
    assert [line for line in promised if f"  {line}" not in done.stdout.splitlines()] == []
    machine.first_words = done.stdout
    return machine


@pytest.fixture(scope="module")
def working(installed: Machine) -> Machine:
    """With simulated GPUs, as an admin would set them, with the evaluation's seats, and with a user."""
    installed.box.run("sed", "-i", 's/^# source = "auto".*/source = "simulated"/', "/etc/stoker/stoker.toml")
    installed.box.run("systemctl", "restart", "stoker-agent.service", "stoker-hub.service")
    installed.box.run("stoker-license", "activate", "/opt/stoker/current/evaluation.voucher")
    for user in ("alice", "bob"):
        installed.box.run("useradd", "--create-home", "--groups", "stoker", user)
    return installed


@pytest.fixture(scope="module")
def linked(working: Machine) -> Machine:
    """With a hub that reaches this node by ssh, as it would another one: by the line that the installer printed."""
    root = working.box.root
    line = working.first_words.splitlines()[-1].strip()
    with (root / LET_IN[1:]).open("a") as let_in:
        let_in.write(line + "\n")
    host_key = " ".join((root / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2])
    name = working.box.run("uname", "-n").stdout.strip().partition(".")[0]
    with (root / "etc/stoker/stoker.toml").open("a") as config:
        config.write(f'[[hub.nodes]]\nname = "{name}"\nssh = "stoker-hub@127.0.0.1"\nhost_key = "{host_key}"\n')
    working.box.run("systemctl", "restart", "stoker-hub.service")
    return working


def test_the_services_run_and_listen_on_their_sockets_alone(installed: Machine) -> None:
    for unit in UNITS:
        assert installed.box.run("systemctl", "is-active", unit).stdout.strip() == "active"
        assert installed.box.run("systemctl", "is-enabled", unit).stdout.strip() == "enabled"
    for name in ("agent", "hub"):
        about = installed.box.run("stat", "-c", "%F %a %U %G", f"/run/stoker/{name}.sock").stdout.strip()
        assert about == "socket 660 root stoker"
    sockets = [line.split() for line in installed.box.run("cat", "/proc/net/tcp", "/proc/net/tcp6").stdout.splitlines()]
    listening = {fields[1].rpartition(":")[2] for fields in sockets if fields[3] == "0A"}
    assert listening == {"0016"}, "0A is LISTEN in proc_net_tcp(5); 0x16 is sshd's port 22"


def test_accounts_and_folders_are_as_promised(installed: Machine) -> None:
    assert installed.box.run("id", "-nG", "stoker-hub").stdout.split() == ["stoker"]
    assert installed.box.run("getent", "group", "stoker-admin").returncode == 0
    assert installed.box.run("getent", "passwd", "stoker-hub").stdout.rstrip().split(":")[5:] == ["/", "/bin/sh"]
    expected = [
        "/var/lib/stoker 711 root stoker",
        "/var/lib/stoker/hub 700 stoker-hub stoker",
        "/var/lib/stoker/hub/ssh_key 600 stoker-hub stoker",
        "/etc/stoker/stoker.toml 644 root root",
        "/etc/stoker/authorized_keys.d 755 root root",
        "/etc/stoker/authorized_keys.d/stoker-hub 644 root root",
        "/etc/ssh/sshd_config.d/50-stoker.conf 644 root root",
        "/run/stoker/hardware.json 400 stoker-hub root",
    ]
    paths = [line.split()[0] for line in expected]
    assert installed.box.run("stat", "-c", "%n %a %U %G", *paths).stdout.splitlines() == expected


def test_the_hub_looked_at_its_machine(working: Machine) -> None:
    """What root read for it is of this boot, and its own reading goes through the sandbox of the unit."""
    boot_id = working.box.run("cat", "/proc/sys/kernel/random/boot_id").stdout.strip()
    assert json.loads(working.box.run("cat", "/run/stoker/hardware.json").stdout)["boot_id"] == boot_id
    told = json.loads(working.box.run("stoker-license", "status", "--json").stdout)["hardware"]
    assert (told["mode"], "machine-id" in told["seen"]) == ("none", True)
    salt = working.box.run("stat", "-c", "%a %U", "/var/lib/stoker/hub/fingerprint.salt").stdout.strip()
    assert salt == "600 stoker-hub"


@pytest.mark.parametrize("unit", ["stoker-agent.service", "stoker-hub.service", "stoker-metrics.service"])
def test_the_units_are_confined(installed: Machine, unit: str) -> None:
    said = installed.box.run("systemd-analyze", "security", "--no-pager", unit).stdout.splitlines()[-1]
    exposure = re.search(r": ([0-9.]+) ", said)
    assert exposure is not None and float(exposure[1]) <= 2.0, said


def test_the_agent_has_no_network(installed: Machine) -> None:
    pid = installed.box.run("systemctl", "show", "-P", "MainPID", "stoker-agent.service").stdout.strip()
    devices = installed.box.run("cat", f"/proc/{pid}/net/dev").stdout.splitlines()[2:]
    assert [line.split(":")[0].strip() for line in devices] == ["lo"]


def test_who_is_not_in_the_group_may_not_connect(installed: Machine) -> None:
    refused = installed.box.run("runuser", "-u", "nobody", "stoker", "nodes", check=False)
    assert refused.returncode != 0
    assert "you may not connect to /run/stoker/" in refused.stderr


def test_a_job_runs_as_the_user_who_submitted_it(working: Machine) -> None:
    (working.box.root / "home/alice/train.sh").write_text(SCRIPT)
    job = json.loads(working.as_alice("stoker", "submit", "--json", "train.sh").stdout)
    working.as_alice("stoker", "wait", str(job["id"]))
    wrote = (working.box.root / f"home/alice/out-{job['id']}").read_text().splitlines()
    assert wrote[:3] == ["alice", "alice", "/home/alice"]
    assert len(wrote[3].split(",")) == 2
    assert working.box.run("stat", "-c", "%U", f"/home/alice/out-{job['id']}").stdout.strip() == "alice"


def test_prometheus_gets_at_all_nodes_where_an_admin_wants_it(working: Machine) -> None:
    """The unit is there and not enabled; started, it answers on the loopback as the hub's account, in its sandbox."""
    box = working.box
    assert box.run("systemctl", "is-enabled", METRICS_UNIT, check=False).stdout.strip() == "disabled"
    shipped = box.run("runuser", "-u", "nobody", "--", "ls", "/opt/stoker/current/monitoring/").stdout.split()
    assert shipped == ["prometheus.yml", "stoker-dashboard.json", "stoker-rules.yml"]
    box.run("systemctl", "start", METRICS_UNIT)
    try:
        asked = f"import urllib.request as u; print(u.urlopen('{METRICS}/targets', timeout=60).read().decode())"
        told = wait_until(lambda: box.run(PYTHON, "-c", asked, check=False).stdout, "it answers")
        paths = {each["labels"]["instance"]: each["labels"]["__metrics_path__"] for each in json.loads(told)}
        name = box.run("uname", "-n").stdout.strip().partition(".")[0]
        assert paths == {name: f"/nodes/{name}/metrics", "hub": "/metrics"}
        asked = f"import urllib.request as u; print(u.urlopen('{METRICS}{paths[name]}', timeout=60).read().decode())"
        assert "stoker_gpu_power_watts{" in box.run(PYTHON, "-c", asked).stdout
        owner = box.run(
            "ps", "-o", "user=", "-p", box.run("systemctl", "show", "-P", "MainPID", METRICS_UNIT).stdout.strip()
        )
        assert owner.stdout.strip().startswith("stoker")
    finally:
        box.run("systemctl", "stop", METRICS_UNIT)


def test_the_textfile_reaches_node_exporters_folder_out_of_the_sandbox(working: Machine) -> None:
    box, folder = working.box, "var/lib/prometheus/node-exporter"
    (box.root / folder).mkdir(parents=True)
    file = box.root / folder / "stoker.prom"
    box.run("sed", "-i", 's|^# textfile = .*|textfile = "/' + folder + '/stoker.prom"|', "/etc/stoker/stoker.toml")
    try:
        box.run("systemctl", "restart", "stoker-agent.service")
        wait_until(file.exists, "it is written")
        box.run("runuser", "-u", "nobody", "--", "grep", "-q", "^stoker_gpus 8$", f"/{folder}/stoker.prom")
    finally:
        box.run("sed", "-i", "s|^textfile = |# textfile = |", "/etc/stoker/stoker.toml")
        box.run("systemctl", "restart", "stoker-agent.service")
    assert not file.exists()


def test_a_job_outlives_a_restart_of_both_services(working: Machine) -> None:
    script = "#!/bin/bash\n#SBATCH --output=long\nread < go; echo survived\n"
    (working.box.root / "home/alice/long.sh").write_text(script)
    working.as_alice("mkfifo", "go")
    job = json.loads(working.as_alice("stoker", "submit", "--json", "long.sh").stdout)
    started = working.box.root / f"var/lib/stoker/jobs/{job['id']}/1/started"
    wait_until(started.exists, "the job runs")
    who = json.loads(started.read_text())
    unit = who["cgroup"].split("/")[-2]
    assert working.box.run("systemctl", "is-active", unit).stdout == "active\n"
    working.box.run("systemctl", "restart", "stoker-agent.service", "stoker-hub.service")
    assert str(who["job_pid"]) in working.box.run("cat", f"{who['cgroup']}/cgroup.procs").stdout.split()
    assert working.box.run("systemctl", "is-active", unit).stdout == "active\n"
    working.as_alice("echo", ">", "go")
    working.as_alice("stoker", "wait", str(job["id"]))
    assert (working.box.root / "home/alice/long").read_text() == "survived\n"


def test_the_hubs_account_acts_for_users_and_nobody_else_does(working: Machine) -> None:
    body = {
        "script": "#!/bin/sh\ntrue\n",
        "script_name": "job.sh",
        "work_dir": "/",
        "env": {},
        "flags": ["-o", "/dev/null"],
    }
    status, answer = working.call("stoker-hub", "alice", "POST", "/v1/jobs", body)
    assert (status, answer["job"]["user"]) == (201, "alice")
    status, answer = working.call("bob", "alice", "POST", "/v1/jobs", body)
    assert (status, answer["code"]) == (403, "forbidden")
    assert "bob may not act for alice" in answer["message"]
    status, answer = working.call("stoker-hub", "nobody-here", "POST", "/v1/jobs", body)
    assert (status, answer["code"]) == (403, "unknown_user")


def test_a_hub_that_comes_by_ssh_runs_jobs_as_their_submitters(linked: Machine) -> None:
    def is_up() -> bool:
        status = json.loads(linked.as_alice("stoker", "nodes", "--json").stdout)
        return bool(status[0]["link"] == "up")

    wait_until(is_up, "the hub reaches its node")
    (linked.box.root / "home/alice/far.sh").write_text("#!/bin/bash\n#SBATCH --output=far\nid -un\n")
    job = json.loads(linked.as_alice("stoker", "submit", "--json", "far.sh").stdout)
    linked.as_alice("stoker", "wait", str(job["id"]))
    assert (linked.box.root / "home/alice/far").read_text() == "alice\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stoker-hub@127.0.0.1"], "stoker: connected"),
        (["stoker-hub@127.0.0.1", "id"], "stoker: connected"),
        (["-tt", "stoker-hub@127.0.0.1", "id"], "PTY allocation request failed"),
        (["-W", "127.0.0.1:22", "stoker-hub@127.0.0.1"], "administratively prohibited"),
        (["alice@127.0.0.1", "id"], "Permission denied"),
    ],
)
def test_the_hubs_key_reaches_the_agents_socket_and_nothing_else(linked: Machine, words: list[str], said: str) -> None:
    done = linked.ssh(*words)
    assert said in done.stderr
    assert done.stdout == "", "the agent was asked nothing, and nobody else may answer"


def test_keys_in_files_of_the_account_do_not_count(linked: Machine) -> None:
    let_in, own = linked.box.root / LET_IN[1:], linked.box.root / ".ssh"
    before = let_in.read_text()
    let_in.write_text("# nobody\n")
    own.mkdir(mode=0o755)
    try:
        (own / "authorized_keys").write_text(before)
        assert "Permission denied" in linked.ssh("stoker-hub@127.0.0.1").stderr
    finally:
        let_in.write_text(before)
        shutil.rmtree(own)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ("1i Colour blue", "Bad configuration option: Colour"),
        ("/^Include/d", "has no line: Include /etc/ssh/sshd_conf"),
    ],
)
def test_rules_that_sshd_does_not_take_are_taken_back(working: Machine, edit: str, reason: str) -> None:
    root = working.box.root
    rules, config = root / SSHD_RULES[1:], root / "etc/ssh/sshd_config"
    before = config.read_text()
    rules.unlink()
    working.box.run("sed", "-i", edit, "/etc/ssh/sshd_config")
    try:
        done = working.install(check=False)
        assert done.returncode == 1
        assert reason in done.stderr
        assert not rules.exists()
    finally:
        config.write_text(before)
    assert f"write {SSHD_RULES}" in working.install().stdout
    assert rules.read_text() == (SOURCE / "agent/units/sshd.conf").read_text()


def test_an_account_of_another_make_is_mended(working: Machine) -> None:
    make = "s#^\\(stoker-hub:.*\\):/:/bin/sh$#\\1:/var/lib/stoker/hub:/usr/sbin/nologin#"
    working.box.run("sed", "-i", make, "/etc/passwd")
    assert working.box.run("getent", "passwd", "stoker-hub").stdout.rstrip().endswith(":/usr/sbin/nologin")
    # As another hub's way in would, this keeps the account in use: usermod refuses until it has ended.
    working.box.run("systemd-run", "--uid=stoker-hub", "sleep", "infinity")
    key = (working.box.root / HUB_KEY[1:]).read_text()
    assert "give the account stoker-hub the home /" in working.install().stdout
    assert working.box.run("getent", "passwd", "stoker-hub").stdout.rstrip().endswith(":/:/bin/sh")
    assert (working.box.root / HUB_KEY[1:]).read_text() == key, "the key is made once"
    assert working.as_alice("stoker", "nodes").returncode == 0


def test_an_edited_configuration_is_kept_with_the_new_one_beside_it(working: Machine) -> None:
    file = working.box.root / "etc/stoker/stoker.toml"
    edited = file.read_text()
    assert edited != (SOURCE / "agent/units/stoker.toml").read_text()
    working.install()
    assert file.read_text() == edited
    assert file.with_name("stoker.toml.new").read_text() == (SOURCE / "agent/units/stoker.toml").read_text()


def test_a_second_run_changes_nothing(working: Machine) -> None:
    working.install()
    before, started = working.tree(), working.invocations()
    again = working.install(umask="027")
    assert "nothing to do" in again.stdout
    assert working.tree() == before
    assert working.invocations() == started


def test_slurms_names_are_there_until_a_slurm_is(working: Machine) -> None:
    number = working.as_alice("sbatch", "--parsable", "-o", "/dev/null", "--wrap", "'srun hostname'").stdout.strip()
    assert number.isdigit()

    def ended() -> bool:
        told = working.as_alice("sacct", "-n", "-X", "-P", "-o", "State", "-j", number).stdout
        return told == "COMPLETED\n"

    wait_until(ended, "sacct tells that the job has completed", 60)
    assert "main" in working.as_alice("sinfo", "-h").stdout
    conf = working.box.root / "etc/slurm/slurm.conf"
    conf.parent.mkdir()
    conf.write_text("ClusterName=other\n")
    told = working.install().stdout
    assert "remove /usr/local/bin/sbatch, there is a Slurm now" in told
    assert "Slurm's names stay Slurm's: /etc/slurm/slurm.conf is there" in told
    assert working.as_alice("sbatch", check=False).returncode == 127
    shutil.rmtree(conf.parent)
    assert "link /usr/local/bin/sbatch" in working.install().stdout


def test_a_changed_source_is_installed_and_the_services_restarted(working: Machine) -> None:
    started = working.invocations()
    (working.checkout / "agent" / "added.txt").write_text("a change")
    assert "build the release" in working.install().stdout
    assert [new != old for new, old in zip(working.invocations(), started, strict=True)] == [False, False, True, True]
    assert sorted(each.name for each in (working.box.root / "opt/stoker").iterdir()) == [
        "0.1.0",
        "current",
        "install.log",
    ]
    assert working.as_alice("stoker", "nodes").returncode == 0


def test_removing_it_keeps_the_state_and_what_was_edited(working: Machine) -> None:
    done = working.install("--uninstall")
    assert "Kept: /var/lib/stoker" in done.stdout
    kept_folders = ("/var/lib/stoker", "/home")
    left = [path for path in working.tree() if "stoker" in path and not path.startswith(kept_folders)]
    assert sorted(left) == [
        "/etc/stoker",
        "/etc/stoker/authorized_keys.d",
        "/etc/stoker/authorized_keys.d/stoker-hub",
        "/etc/stoker/stoker.toml",
        "/etc/stoker/stoker.toml.new",
    ]
    assert "Permission denied" in working.ssh("stoker-hub@127.0.0.1").stderr, "sshd was told"
    assert (working.box.root / "var/lib/stoker/agent.db").exists()
    assert working.as_alice("sbatch", check=False).returncode == 127
    assert "nothing to do" in working.install("--uninstall").stdout
