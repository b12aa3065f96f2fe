"""The site's rules: what is filled in, what is refused, and in which words."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.types import SubmitRequest
from agent.config import AccountTable, Config, JobsTable, LimitsTable, PartitionTable, QosTable, load
from agent.jobs import rules
from agent.jobs.errors import SpecError
from agent.jobs.parse import parse
from agent.jobs.spec import JobSpec

HOUR = 3600
SITE: Config = msgspec.structs.replace(
    load(None, {"HOME": "/nowhere"}),
    name="gpu01",
    partitions=(
        PartitionTable(name="main", default=True, default_time_s=2 * HOUR, max_time_s=24 * HOUR),
        PartitionTable(name="debug", max_time_s=HOUR, gpus=(0, 1)),
        PartitionTable(name="staff", allow_groups=("staff", "faculty")),
    ),
    qos=(
        QosTable(name="normal"),
        QosTable(name="high", max_wall_s=4 * HOUR, max_gpus_per_user=4),
        QosTable(name="chair", allow_groups=("faculty",)),
    ),
    accounts=(
        AccountTable(name="vision", users={"ada": 1, "bob": 2}),
        AccountTable(name="speech", users={"ada": 1}),
    ),
    limits=LimitsTable(max_array_size=100, max_gpus_per_user=6),
    jobs=JobsTable(features=("Fast",), licenses={"matlab": 2}, default_time_s=3 * HOUR),
)
BARE: Config = msgspec.structs.replace(load(None, {"HOME": "/nowhere"}), name="box")


def spec(*flags: str, **fields: Any) -> JobSpec:
    request = SubmitRequest(script="#!/bin/sh\n", script_name="s.sh", flags=flags, work_dir="/", **fields)
    return parse(request, now=1_795_305_600, tz=UTC)


def apply(*flags: str, config: Config = SITE, user: str = "ada", **known: Any) -> JobSpec:
    return rules.apply(spec(*flags), config, user=user, **{"groups": ("users",), **known})


def refusal(*flags: str, config: Config = SITE, **known: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        apply(*flags, config=config, **known)
    assert str(caught.value).isprintable()
    return caught.value


# --- filled in --------------------------------------------------------------------------------------------------------


def test_defaults_of_the_site() -> None:
    applied = apply()
    assert (applied.partition, applied.qos, applied.account) == ("main", "normal", "vision")
    assert applied.time_limit_s == 2 * HOUR


def test_with_nothing_configured_all_is_free() -> None:
    applied = apply("--account=anything", config=BARE, user="nobody")
    assert (applied.partition, applied.qos, applied.account) == ("main", "normal", "anything")
    assert applied.time_limit_s is None
    assert apply(config=BARE).account is None


@pytest.mark.parametrize(
    ("flags", "limit"),
    [
        ((), 2 * HOUR),
        (("-t", "30"), 1800),
        (("-t", "1-0"), 24 * HOUR),
        (("-p", "debug"), HOUR),  # its maximum is below the node's default
        (("-p", "debug", "-t", "30"), 1800),
        (("-q", "high"), 2 * HOUR),
        (("-q", "high", "-t", "4:0:0"), 4 * HOUR),
    ],
)
def test_time_limits(flags: tuple[str, ...], limit: int) -> None:
    assert apply(*flags).time_limit_s == limit


def test_the_nodes_default_time() -> None:
    assert apply("-p", "staff", groups=("staff",)).time_limit_s == 3 * HOUR
    assert apply("-p", "staff", "-t", "0", groups=("staff",)).time_limit_s is None


@pytest.mark.parametrize(
    ("flags", "partition"),
    [
        (("-p", "debug"), "debug"),
        (("-p", "debug,main"), "debug,main"),
        (("-p", "debug,main", "-t", "120"), "main"),
        (("-p", "staff,main"), "main"),
        (("-p", "debug,main", "-G", "3"), "debug,main"),  # only one of them is ever wide enough
    ],
)
def test_the_partitions_that_take_it(flags: tuple[str, ...], partition: str) -> None:
    assert apply(*flags).partition == partition


def test_accounts() -> None:
    assert apply("-A", "speech").account == "speech"
    assert apply(user="bob").account == "vision"
    open_to_all = msgspec.structs.replace(SITE, accounts=(*SITE.accounts, AccountTable(name="guests")))
    assert apply(user="eve", config=open_to_all).account == "guests"
    assert apply("-A", "guests", config=open_to_all).account == "guests"
    assert apply(config=open_to_all).account == "vision"


def test_features_are_spelled_as_the_node_spells_them() -> None:
    names = ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB")
    assert apply("-C", "Fast&H100", gpu_names=names).features == ("Fast", "h100")
    assert apply("-C", "sxm4", gpu_names=names).features == ("sxm4",)
    assert apply("-C", "v100|A100|h100", gpu_names=names).features == ("v100|a100|h100",), "the scheduler takes one"
    assert apply("-C", "(slow|Fast)&[h100|a100]", gpu_names=names).features == ("slow|Fast", "h100|a100")
    many = "&".join(f"(nvidia|h100|{n})" for n in range(5))
    with pytest.raises(SpecError, match="asks for one of 32 combinations of features; at most 16 are weighed"):
        apply("-C", many, gpu_names=names)
    with pytest.raises(SpecError, match=r"invalid feature specification: v100\|b200; gpu01 has Fast, nvidia, h100"):
        apply("-C", "v100|b200", gpu_names=names)
    assert rules.gpu_features(names[1]) == ("nvidia", "a100", "sxm4", "40gb")


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "field", "said"),
    [
        (
            ("-p", "nowhere"),
            "--partition",
            "invalid partition specified: nowhere; gpu01 has main, debug, staff",
        ),
        (
            ("-p", "debgu"),
            "--partition",
            "invalid partition specified: debgu; gpu01 has main, debug, staff; did you mean debug?",
        ),
        (("-p", "main,nowhere"), "--partition", "invalid partition specified: nowhere"),
        (("-p", "staff"), "--partition", "partition staff is for members of staff or faculty only"),
        (
            ("-p", "debug", "-t", "2:0:0"),
            "--partition",
            "the job asks for a time limit of 2:00:00; the most in partition debug is 1:00:00: ask for less",
        ),
        (("-t", "2-0"), "--partition", "a time limit of 2-00:00:00; the most in partition main is 1-00:00:00"),
        (("-t", "0"), "--partition", "the job asks for no time limit; the most in partition main"),
        (("-p", "debug,staff", "-t", "120"), "--partition", "is 1:00:00: ask for less with --time; partition staff"),
        (("-q", "hihg"), "--qos", "invalid qos specified: hihg; gpu01 has normal, high, chair; did you mean high?"),
        (("-q", "chair"), "--qos", "QOS chair is for members of group faculty only"),
        (("-q", "high", "-t", "5:0:0"), "--time", "a time limit of 5:00:00; the most with QOS high is 4:00:00"),
        (("-A", "visoin"), "--account", "invalid account specified: visoin; gpu01 has vision, speech; did you mean"),
        (("-G", "7"), "--gpus", "the job asks for 7 GPUs; a user may hold 6"),
        (("-G", "3", "-p", "debug"), "--gpus", "the job asks for 3 GPUs; partition debug has 2"),
        (("-G", "5", "-q", "high"), "--gpus", "the job asks for 5 GPUs; a user of QOS high may hold 4"),
        (("--gres=shard:5",), "--gres", "the job asks for 5 shards of one GPU; a GPU has 4"),
        (("--nice=-1",), "--nice", "--nice=-1 raises the job's priority, which only an admin may"),
        (("--priority=5",), "--priority", "only an admin may"),
        (("--priority=TOP",), "--priority", "only an admin may"),
        (("-C", "slow"), "--constraint", "invalid feature specification: slow; gpu01 has Fast, h100"),
        (("-C", "fast"), "--constraint", "invalid feature specification: fast"),
        (("-L", "matlab:3"), "--licenses", "invalid license specification: 3 of matlab; there are 2"),
        (("-L", "nolic"), "--licenses", "invalid license specification: nolic; gpu01 has matlab"),
        (("-a", "0-100"), "--array", "task 100 is not below limits.max_array_size = 100"),
        (("-w", "n9"), "--nodelist", "invalid node name specified: n9; this node is gpu01"),
        (("-w", "gpu[01-02]"), "--nodelist", "gpu02; this node is gpu01; a job of several nodes needs the cluster"),
        (("-x", "gpu01"), "--exclude", "leaves no node to run on"),
        (("-x", "gpu[00-03]"), "--exclude", "leaves no node to run on"),
    ],
)
def test_refusals(flags: tuple[str, ...], field: str, said: str) -> None:
    error = refusal(*flags, gpu_names=("H100",))
    assert said in str(error)
    assert error.field == field


def test_who_may() -> None:
    assert apply("-p", "staff", groups=("users", "faculty")).partition == "staff"
    assert apply("-q", "chair", groups=("faculty",)).qos == "chair"
    assert apply("--nice=-5", "--priority=9", admin=True).nice == -5
    assert apply("--nice=5", "--hold").nice == 5
    assert apply("--priority=0").held == "user"  # anybody may hold
    assert "eve is in none of this node's accounts" in str(refusal(user="eve"))
    assert "bob is not in account speech" in str(refusal("-A", "speech", user="bob"))


def test_this_node_by_its_name() -> None:
    assert apply("-w", "gpu01").nodelist == ("gpu01",)
    assert apply("-w", "gpu01.lab.example", "-x", "gpu02").exclude == ("gpu02",)


def test_a_sweep_that_is_too_large() -> None:
    asked = spec(sweep={"a": tuple(map(str, range(50))), "b": ("1", "2", "3")})
    with pytest.raises(SpecError, match="the sweep has 150 combinations") as caught:
        rules.apply(asked, SITE, user="ada", groups=())
    assert caught.value.field == "$.sweep"


# --- what holds for all -----------------------------------------------------------------------------------------------

flags = st.lists(
    st.sampled_from(
        [
            *("-t30", "-t0", "-t2-0", "-pdebug", "-pmain", "-pdebug,main", "-pstaff", "-qhigh", "-qchair", "-Avision"),
            *("-G2", "-G9", "--nice=-1", "--nice=7", "-a0-5", "-a0-500", "-CFast", "-Lmatlab", "-wgpu01", "-xother"),
        ]
    ),
    max_size=5,
)


@given(
    flags, st.sampled_from(["ada", "bob", "eve"]), st.sets(st.sampled_from(["staff", "faculty", "x"])), st.booleans()
)
def test_applying_twice_changes_nothing(words: list[str], user: str, groups: set[str], admin: bool) -> None:
    try:
        once = rules.apply(spec(*words), SITE, user=user, groups=groups, admin=admin)
    except SpecError as error:
        assert error.field
        return
    assert rules.apply(once, SITE, user=user, groups=groups, admin=admin) == once
    assert set((once.partition or "").split(",")) <= {"main", "debug", "staff"}
    assert once.time_limit_s is None or once.time_limit_s > 0
