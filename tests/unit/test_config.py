"""The configuration: what holds without a file, and that a mistake in one is named by file, line and remedy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import config
from agent.config import ConfigError, Mode


def load(tmp_path: Path, text: str) -> config.Config:
    path = tmp_path / "stoker.toml"
    path.write_text(text, encoding="utf-8")
    return config.load(path, environ={"HOME": str(tmp_path), "XDG_RUNTIME_DIR": "/run/user/1000"})


def test_without_a_file_the_defaults_are_a_user_mode_agent_in_the_home(tmp_path: Path) -> None:
    made = config.load(None, environ={"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")})
    assert made.mode is Mode.USER
    assert made.state_dir == tmp_path / ".local/state/stoker"
    assert made.agent_socket == tmp_path / "run/stoker/agent.sock"
    assert [node.socket for node in made.hub_nodes] == [made.agent_socket]


def test_every_key_reaches_the_config(tmp_path: Path) -> None:
    made = load(
        tmp_path,
        f'[node]\nname = "n7"\nmode = "system"\nstate_dir = "{tmp_path}/s"\nrun_dir = "{tmp_path}/r"\n'
        'act_for = ["stoker-hub"]\nallow_root_jobs = true\n'
        '[gpu]\nsource = "simulated"\nsimulated_count = 3\n[jobs]\ngrace_s = 5\nlauncher = "fork"\n'
        '[hub]\ncluster = "lab"\n[[hub.nodes]]\nname = "n8"\nssh = "stoker@n8"\nhost_key = "ssh-ed25519 AAAA"\n',
    )
    assert (made.name, made.mode, made.act_for, made.allow_root_jobs) == ("n7", Mode.SYSTEM, ("stoker-hub",), True)
    assert (made.state_dir, made.run_dir) == (tmp_path / "s", tmp_path / "r")
    assert (made.gpu.source, made.gpu.simulated_count, made.jobs.grace_s, made.jobs.launcher) == (
        "simulated",
        3,
        5,
        "fork",
    )
    assert (made.cluster, made.hub_nodes[0].ssh) == ("lab", "stoker@n8")


def test_a_tilde_in_a_path_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(tmp_path, '[node]\nstate_dir = "~/stoker"\n').state_dir == tmp_path / "stoker"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('[node]\nnam = "x"\n', 2, "did you mean 'name'?"),
        ('[nod]\nname = "x"\n', 1, "did you mean 'node'?"),
        ("# c\n\n[gpu]\nsimulated_cuont = 4\n", 4, "did you mean 'simulated_count'?"),
        ('[[hub.nodes]]\nname = "a"\nsoket = "/x"\n', 3, "did you mean 'socket'?"),
        ('[jobs]\ngrace_s = "ten"\n', 2, "expected `int`, got `str`"),
        ("[scheduler]\nbackfil = true\n", 2, "did you mean 'backfill'?"),
        ('[[partitions]]\nname = "a"\nmax_tim = 3\n', 3, "did you mean 'max_time_s'?"),
        ("[[qos]]\nname = 3\n", 2, "expected `str`, got `int`"),
        ("[hooks]\nnotify_comand = '/x'\n", 2, "did you mean 'notify_command'?"),
        ('[node]\nmode = "usr"\n', 2, "use system or user"),
        ("[node]\nname = 3\n", 2, "expected `str`, got `int`"),
        ("[node]\nstate_dir = 3\n", 2, "expected a path"),
        ("[health.for_s]\necc = 3\nheld_idle = '5m'\n", 3, "health.for_s.held_idle: expected `float`, got `str`"),
        ("[health.policy]\necc = 'hold'\nxid = true\n", 3, "health.policy.xid: expected `str`, got `bool`"),
        ("[health]\nfor_s = { ecc = 1, xid = [] }\n", 1, "health.for_s.xid: expected `float`, got `array`"),
        ("[jobs.licenses]\na = 1\nmatlab = 1.5\n", 3, "jobs.licenses.matlab: expected `int`, got `float`"),
        ("[health.clear_s]\necc = 3\ngpu_hun = 5\n", 3, "is no kind of incident; did you mean gpu_hung?; use xid, "),
        ("[health.clear_s]\necc = 3\nxid = -5\n", 3, "health.clear_s.xid = -5; use 0 to 86400 seconds"),
        ("[health.policy]\necc = 'hold'\nxid = 'reset'\n", 3, "health.policy.xid = 'reset'; use drain, hold or tell"),
        ("[gpu]\nperiod_s = 1\n[jobs]\n\ngrace_s = -1\n", 5, "jobs.grace_s = -1; use 0 to 86400"),
        ('[gpu]\nsource = "cuda"\n', 2, "use auto, nvml, simulated or none"),
        (
            "zzz = 1\n",
            1,
            "known here: accounts, gpu, health, history, hooks, hub, jobs, limits, metrics, node, partitions, qos",
        ),
    ],
)
def test_a_mistake_is_named_with_file_line_and_remedy(tmp_path: Path, text: str, line: int, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/stoker.toml:{line}: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[node\n", "not valid TOML"),
        ('[health.clear_s]\n"\\u001b[31m" = 5\n', "health.clear_s.'\\x1b[31m' is no kind of incident; use xid, "),
        ('[node]\nname = "a b"\n', "is not a name"),
        ('[node]\nname = "../x"\n', "is not a name"),
        ('[gpu]\nsource = "cuda"\n', "use auto, nvml, simulated or none"),
        ("[gpu]\nsimulated_count = -1\n", "use 0 to 64"),
        ("[gpu]\nperiod_s = 0.0\n", "use 0.05 to 60"),
        ("[gpu]\nfast_s = 0.01\n", "use 0.05 to 10"),
        ("[jobs]\nconfine_gpus = 'maybe'\n", "jobs.confine_gpus = 'maybe'; use auto, on or off"),
        ("[node]\ncpus = 0\n", "node.cpus = 0; use 1 to 65536"),
        ("[jobs.licenses]\nmatlab = -2\n", "jobs.licenses.matlab = -2 is negative"),
        ("[jobs]\nfeatures = ['a b']\n", "jobs.features = 'a b' is not a name"),
        ("[scheduler]\npreempt = 'always'\n", "use off, qos or partition"),
        ("[scheduler]\nhalf_life_s = 0\n", "use 60 to"),
        ("[[partitions]]\nname = 'a'\n[[partitions]]\nname = 'a'\n", "'a' stands there twice"),
        ("[[partitions]]\nname = '../a'\n", "is not a name"),
        (
            "[[partitions]]\nname = 'a'\ndefault = true\n[[partitions]]\nname = 'b'\ndefault = true\n",
            "a and b are both the default",
        ),
        ("[[partitions]]\nname = 'a'\ndefault_time_s = 9\nmax_time_s = 5\n", "is over its max_time_s = 5"),
        ("[[partitions]]\nname = 'a'\ngpus = [-1]\n", "use the indexes that nvidia-smi shows"),
        ("[[qos]]\nname = 'a'\npreempts = ['b']\n", "names 'b', which is no QOS here"),
        ("[[qos]]\nname = 'a'\npreempts = ['a']\n", "cannot preempt itself"),
        ("[[qos]]\nname = 'a'\nmax_gpus_per_user = -1\n", "max_gpus_per_user = -1 is negative"),
        ("[[accounts]]\nname = 'a'\nshares = 0\n", "use 1 or more"),
        ("[[accounts]]\nname = 'a'\nusers = { ada = 0 }\n", "users.ada = 0; use 1 or more"),
        ("[hooks]\nprolog = 'bin/x'\n", "is not an absolute path"),
        ("[hooks]\nnotify_url = 'ftp://x'\n", "unix:///run/relay.sock"),
        ("[hooks]\nnotify_url = 'unix://host/x'\n", "unix:///run/relay.sock"),
        ("[metrics]\ntextfile = 'x.prom'\n", "write an absolute path ending in .prom, as node_exporter wants"),
        ("[metrics]\nhub_textfile = '/x/y.txt'\n", "metrics.hub_textfile = '/x/y.txt'; write an absolute path"),
        ("[metrics]\ntextfile = '/x.prom'\nhub_textfile = '/x.prom'\n", "are both '/x.prom'; name two files"),
        ("[metrics]\ninterval_s = 0\n", "metrics.interval_s = 0.0; use 1 to 3600"),
        ("[reaper]\nidle_s = 5\n", "reaper.idle_s = 5; use 60 to"),
        ("[history]\nkeep_days = 0\n", "history.keep_days = 0; use 1 to"),
        ("[jobs]\ngrace_s = -1\n", "jobs.grace_s = -1; use 0 to 86400"),
        ("[jobs]\ndefault_time_s = 0\n", "jobs.default_time_s = 0; use 1 to"),
        ('[jobs]\nlauncher = "docker"\n', "use auto, systemd or fork"),
        ('[[hub.nodes]]\nname = "a"\n', "either socket = … or ssh = …"),
        ('[[hub.nodes]]\nname = "a"\nssh = "u@h"\n', "ssh-keyscan -t ed25519 h"),
        (
            '[[hub.nodes]]\nname = "a"\nsocket = "/a"\n[[hub.nodes]]\nname = "a"\nsocket = "/b"\n',
            "hub.nodes.name = 'a' stands there twice",
        ),
        (f'[node]\nrun_dir = "/{"x" * 120}"\n', "longer than the 107 bytes"),
    ],
)
def test_a_value_that_cannot_hold_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"stoker\.toml") as caught:
        load(tmp_path, text)
    assert says in str(caught.value)


def test_a_named_file_that_is_missing_or_binary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        config.load(tmp_path / "none.toml", environ={})
    (tmp_path / "binary.toml").write_bytes(b"[node]\n\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.toml:2: the byte 0xff is not UTF-8.*--config"):
        config.load(tmp_path / "binary.toml", environ={})


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = 1\n[hub\nb = 2\n", 2), ("[hub]\nnodes = [\n", 2), ("[hub]\n\nname = 'a\n", 3), ("=", 1), ("[[[", 1)],
)
def test_what_is_no_toml_is_said_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(ConfigError, match=rf"stoker\.toml:{line}: not valid TOML: .*; mend that line$"):
        load(tmp_path, text)


@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    try:
        config.parse(text, "x.toml")
    except ConfigError as error:
        assert str(error).startswith("x.toml")


def test_without_partitions_there_is_one_and_of_several_the_first_is_the_default(tmp_path: Path) -> None:
    assert [(each.name, each.default) for each in load(tmp_path, "").partitions] == [("main", True)]
    two = "[[partitions]]\nname = 'a'\n[[partitions]]\nname = 'b'\n"
    assert [(each.name, each.default) for each in load(tmp_path, two).partitions] == [("a", True), ("b", False)]
    said = two + "default = true\n"
    assert [(each.name, each.default) for each in load(tmp_path, said).partitions] == [("a", False), ("b", True)]


def test_a_reload_takes_what_may_change_and_names_what_needs_a_restart(tmp_path: Path) -> None:
    """Row 47."""
    running = load(tmp_path, "[node]\nname = 'n1'\n[limits]\nmax_gpus_per_user = 2\n")
    changed = load(tmp_path, "[node]\nname = 'n2'\n[limits]\nmax_gpus_per_user = 4\n[gpu]\nsource = 'none'\n")
    merged, kept = config.merged(running, changed)
    assert (merged.name, merged.gpu.source, merged.limits.max_gpus_per_user) == ("n1", "auto", 4)
    assert kept == ["gpu", "hub_nodes", "name"]
    assert config.merged(running, running) == (running, [])


def test_cpus_are_the_machines_and_a_simulated_server_has_enough_for_its_gpus(tmp_path: Path) -> None:
    own = len(os.sched_getaffinity(0))
    assert load(tmp_path, "").cpus == own
    assert load(tmp_path, "[gpu]\nsource = 'simulated'\nsimulated_count = 32\n").cpus == max(own, 128)
    assert load(tmp_path, "[node]\ncpus = 3\n[gpu]\nsource = 'simulated'\n").cpus == 3
