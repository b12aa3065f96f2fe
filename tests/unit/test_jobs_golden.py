"""The parser and the site's rules against recorded answers of real sbatch (Slurm 22.05), case by case, field by field.

`sbatch-golden.jsonl` is the sample that came with the design; `sbatch-asked.jsonl` was recorded from the same version
by `python -m tests.bench.sbatch`, one question a line, with the variables set (`env`) and the Unix time (`now`, zone
UTC) at which it was asked. ID stands for a held job, JOBID for the new one, DIR for the folder.

Every case must have sbatch's own answer, down to each field that scontrol showed, unless it is named below with the
answer that it has here instead.
"""

from __future__ import annotations

import json
import posixpath
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.api.types import JobState, SubmitRequest
from agent.config import Config, JobsTable, LimitsTable, PartitionTable, QosTable, load
from agent.jobs import dependency, environ, gres, rules
from agent.jobs.errors import SpecError
from agent.jobs.parse import check_fits, parse
from agent.jobs.spec import Export, JobSpec, WarnSignal
from tests.fakes.slurm_words import format_memory, format_time_limit

DATA = Path(__file__).parents[1] / "data"
SAMPLE = {each["case"]: each for each in map(json.loads, (DATA / "sbatch-golden.jsonl").read_text().splitlines())}
ASKED = {each["case"]: each for each in map(json.loads, (DATA / "sbatch-asked.jsonl").read_text().splitlines())}
NOW = 1_795_305_600
"""The sample's cases do not say when they were asked; this is 2026-11-22 00:00 UTC."""
OLDER = 70_000
"""The job that ID stands for: held, so it has not begun."""
NEW = 4711

SITE_WORDS = {"MinMemoryCPU": "100M", "Requeue": "1"}
"""What the recorded site sets for every job: DefMemPerCPU; and JobRequeue=1, which grants unasked what must have been
wished for here: a second run of the job."""
SEATS = re.compile(r"seat:\d+")
"""The licence that the recorded site's plugin adds for each GPU. Ours counts GPUs themselves."""
FORMS = {"array-1-5": "6209", "array-1-10:3": "6210"}
"""The new job's id where the sample shows it."""

NEEDS_CLUSTER = {
    "several-on-a-line",
    "cpu -N2 -n4",
    "nodes 2",
    "ntasks-per-node -n 4 over",
    "mix nodelist range",
    "mix n and ntasks-per-node",
    "mix nodelist two",
}
"""Accepted by sbatch and refused here with «needs the cluster engine»."""

STRICTER = {
    "array '1-5%x'": "after % stands the most tasks",
    "priority x": "is not a priority",
    "exclusive=user": "is not supported",
    "exclusive=mcs": "is not supported",
    "env SBATCH_EXCLUSIVE=user": "is not supported",
    "script pbs": "#PBS lines are not read",
    "script bsub": "#BSUB lines are not read",
    "file bare shebang": "names no interpreter",
    "begin '2027-02-29'": "day is out of range for month",
    "mix mem-per-cpu '+1G'": "is not a memory size",
    "mix array '0-9%-1'": "after % stands the most tasks",
    "mix array '0-9%%2'": "after % stands the most tasks",
    "mix array '0-3%4294967295'": "after % stands the most tasks",
    "mix dependency 'afterok:ID_'": "is no job",
    "mix dependency 'afterburstbuffer:ID'": "has no burst buffer",
    "mix dependency 'afterok:ID+10'": "goes with after alone",
    "mix dependency 'afterok:-1'": "is no job",
    "mix name long": "is longer than 256 bytes",
    "mix export empty": "is no variable",
    "mix constraint count": "asks for a number of nodes",
    "mix nodes zero": "is not a count",
    "mix nice float": "is not a niceness",
    "mix mail unknown": "of which no mail is sent",
    **dict.fromkeys(
        (
            "mix time-min '2-'",
            "mix time-min '10:60'",
            "mix time-min '1-24'",
            "mix core-spec",
            "mix thread-spec",
            "mix sockets",
            "mix extra-node-info",
            "mix hint",
            "mix distribution",
            "mix mincpus",
            "mix bb",
            "mix power",
            "mix reboot",
            "mix get-user-env",
            "mix uid",
            "mix gid",
            "mix profile",
            "mix cpu-freq",
            "mix network",
            "mix mcs",
            "mix container",
            "mix propagate",
            "mix cluster-constraint",
            "mix prefer",
        ),
        "is not supported by this node's engine",
    ),
}
"""Accepted by sbatch, which drops the word, guesses or rolls it over; refused here."""

LOOSER = {
    "mem '1T'": "whether the node has it is for check_fits",
    "mem '3T'": "the same",
    "mem '10t'": "the same",
    "mix mem-per-cpu '1T'": "the same",
    "mix cpus 17": "the same",
    "mix gpus word": "a GPU of type two, which check_fits looks for",
    "mix wait all nodes bad": "a node that runs a job is up: the word is not looked at",
    "mix constraint empty": "asks for nothing",
}
"""Refused by sbatch, accepted here."""

OTHERWISE: dict[str, dict[str, str]] = {
    "cpu -N 1-2": {"NumNodes": "1"},  # one node is enough
    "nodes 1-2": {"NumNodes": "1"},
    "cpu -n 100": {"NumNodes": "1"},  # which the node has not the CPUs for: see below
    # brackets ask for the same feature on all nodes, of which there is one
    "mix constraint bracket": {"Features": "h100|nvlink"},
    "licenses matlab": {"Licenses": "matlab:1"},
    # scontrol shows a pattern with a width as it stands, and trips over %%; the job's file has it filled in, as here
    "out-%5j.out": {"StdOut": "/DIR/04711.out", "StdErr": "/DIR/04711.out"},
    "output %20j": {"StdOut": "/DIR/0000004711", "StdErr": "/DIR/0000004711"},
    "output %%j.txt": {"StdOut": "/DIR/%j.txt", "StdErr": "/DIR/%j.txt"},
    # no-ops of one node, each with its reason in agent/api/options.py
    "flag contiguous": {"Contiguous": "1"},
    "flag oversubscribe": {"OverSubscribe": "OK"},
    "mix exclusive and oversubscribe": {"OverSubscribe": "NO"},
    "mix oversubscribe and exclusive": {"OverSubscribe": "NO"},
    # one node, which has not the CPUs for it: see below
    "mix ntasks 2 cpus 9": {"NumNodes": "1"},
    "mix ntasks 17": {"NumNodes": "1"},
    "mix partition two": {"Partition": "gpu,debug"},  # in the order in which they were named
    # both delays count; sbatch keeps a job once
    "mix dependency 'after:ID+10:ID+20'": {"Dependency": "after:70000+10(unfulfilled),after:70000+20(unfulfilled)"},
}
"""Accepted by both, with another value in these fields."""

SITE = {
    "sample": (PartitionTable(name="gpu", default=True, default_time_s=600),),
    "asked": (
        PartitionTable(name="gpu", default=True, default_time_s=600),
        PartitionTable(name="debug", default_time_s=300, max_time_s=3600),
    ),
}


def site(kind: str, case: dict[str, Any]) -> Config:
    """The recorded cluster's configuration, as far as one node can have it."""
    only_node = "n2" if "-x n1" in case["script"] else "n1"  # excluding the only node is refused, see test_jobs_rules
    return msgspec.structs.replace(
        load(None, {"HOME": "/nowhere"}),
        name=only_node,
        partitions=SITE[kind],
        qos=(QosTable(name="normal"), QosTable(name="high")),
        limits=LimitsTable(max_array_size=10_001),
        jobs=JobsTable(licenses={"matlab": 4, "seat": 32}, features=("h100", "nvlink") if kind == "asked" else ()),
    )


def submit(kind: str, case: dict[str, Any]) -> JobSpec:
    variable = re.fullmatch(r"env-(SBATCH_\w+)=(.*)", case["case"])
    env = case.get("env", {variable[1]: variable[2]} if variable else {})
    cli = case["cli"].split() if isinstance(case["cli"], str) else case["cli"]
    script = re.sub(r"\bID\b|(?<=:)ID", str(OLDER), case["script"])
    request = SubmitRequest(script=script, script_name="s.sh", flags=tuple(cli), env=env, work_dir="/DIR")
    spec = parse(request, now=case.get("now", NOW), tz=UTC)
    if spec.reservation is not None:  # the engine's to know; this site has none
        raise SpecError("Requested reservation is invalid", "--reservation")
    return rules.apply(spec, site(kind, case), user="root", groups=("root",), admin=True)


def answer(spec: JobSpec, kind: str, case: dict[str, Any]) -> dict[str, str]:
    """The spec in scontrol's words."""
    names = {"A": str(NEW), "a": "4294967294", "j": str(NEW), "u": "root", "x": spec.name, "%": "%"}
    size = format_memory(spec.memory_bytes) if spec.memory_bytes is not None else "0"
    per_cpu = "" if spec.memory_per_cpu_bytes is None else format_memory(spec.memory_per_cpu_bytes)
    facts = dependency.Facts(
        now=case.get("now", NOW),
        tasks={OLDER: {None: dependency.TaskFacts(state=JobState.PENDING)}},
        older_namesake=OLDER if kind == "sample" else None,
    )
    begin = spec.begin_at or case.get("now", NOW)
    return {
        "JobName": spec.name,
        "TimeLimit": format_time_limit(spec.time_limit_s),
        "NumNodes": "1",
        "NumTasks": str(spec.tasks),
        "NumCPUs": str(spec.cpus),
        "CPUs/Task": str(spec.cpus_per_task),
        "MinMemoryNode": size,
        "MinMemoryCPU": per_cpu,
        "StdOut": environ.output_path(spec, names),
        "StdErr": environ.error_path(spec, names),
        "StdIn": posixpath.join(spec.work_dir, environ.expand(spec.input or "/dev/null", names)),
        "WorkDir": spec.work_dir,
        "Requeue": str(int(spec.requeue)),
        "Nice": str(spec.nice),
        "Partition": spec.partition or "",
        "Account": spec.account or "",
        "Comment": spec.comment or "",
        "MailType": ",".join(spec.mail_types),
        "MailUser": spec.mail_user or "root",
        "Licenses": ",".join(f"{name}:{count}" for name, count in spec.licenses),
        "Features": "&".join(spec.features),
        "ArrayTaskId": spec.array.text if spec.array else "",
        "ArrayTaskThrottle": str(spec.array.limit) if spec.array and spec.array.limit else "",
        "Dependency": (dependency.text(spec.dependency, facts) if spec.dependency else None) or "",
        "EligibleTime": datetime.fromtimestamp(begin, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "Deadline": datetime.fromtimestamp(spec.deadline_at or 0, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "ReqNodeList": ",".join(spec.nodelist),
        "ExcNodeList": ",".join(spec.exclude),
        "OverSubscribe": "NO" if spec.exclusive else "OK",
        "KillOInInvalidDependent": "Yes" if spec.kill_on_invalid_dep else "No",
        "NtasksPerN:B:S:C": f"{spec.ntasks_per_node or 0}:0:*:*",
    }


def recorded(kind: str, name: str, case: dict[str, Any]) -> dict[str, str]:
    """The fields of the recorded job that stand for its own wishes, with the placeholders filled in."""
    fields = {
        key: value.replace("DIR", "/DIR").replace("JOBID", str(NEW)).replace("ARRAYID", str(NEW))
        for key, value in case["job"].items()
        if SITE_WORDS.get(key) != value and not SEATS.fullmatch(value) and not key.startswith("Tres")
    }
    fields = {key: re.sub(r"\bID\b", str(OLDER), value) for key, value in fields.items()}
    fields = {key: value.replace(FORMS.get(name, "JOBID"), str(NEW)) for key, value in fields.items()}
    if fields["NumNodes"] == "1-1":
        fields["NumNodes"] = "1"  # shown so where --nodes was said
    if name == "begin-now+1hour":
        fields["EligibleTime"] = datetime.fromtimestamp(NOW + 3600, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    if name == "begin-midnight":
        fields["EligibleTime"] = "2026-11-23T00:00:00"
    return fields | OTHERWISE.get(name, {})


CASES = [("sample", name) for name in SAMPLE] + [("asked", name) for name in ASKED]
ALL = {"sample": SAMPLE, "asked": ASKED}
ACCEPTED = [
    (kind, name) for kind, name in CASES if ALL[kind][name]["ok"] and name not in STRICTER and name not in NEEDS_CLUSTER
]
REFUSED = [(kind, name) for kind, name in CASES if not ALL[kind][name]["ok"] and name not in LOOSER]


def test_the_recordings_are_whole() -> None:
    assert (len(SAMPLE), len(ASKED)) == (60, 674)
    names = {name for _, name in CASES}
    assert len(names) == len(CASES)
    assert names >= {*NEEDS_CLUSTER, *STRICTER, *LOOSER, *OTHERWISE, *FORMS}


@pytest.mark.parametrize(("kind", "name"), ACCEPTED, ids=[name for _, name in ACCEPTED])
def test_accepted_with_sbatchs_answer(kind: str, name: str) -> None:
    case = ALL[kind][name]
    expected = recorded(kind, name, case)
    said = answer(submit(kind, case), kind, case) | ({"Contiguous": "1"} if name == "flag contiguous" else {})
    if kind == "asked" and "now" in case["script"]:  # asked up to a second before it was answered
        expected.pop("EligibleTime", None)
        expected.pop("Deadline", None)
    assert {key: said[key] for key in expected} == expected


@pytest.mark.parametrize(
    "name",
    [name for name, case in ASKED.items() if case["ok"] and re.search(r"--(begin|deadline)=.*now", case["script"])],
)
def test_times_counted_from_now(name: str) -> None:
    case = ASKED[name]
    said = answer(submit("asked", case), "asked", case)
    for key in ("EligibleTime", "Deadline"):
        if key in case["job"]:
            ours, theirs = (datetime.fromisoformat(each) for each in (said[key], case["job"][key]))
            assert abs((theirs - ours).total_seconds()) <= 2


@pytest.mark.parametrize(("kind", "name"), REFUSED, ids=[name for _, name in REFUSED])
def test_refused_as_sbatch_does(kind: str, name: str) -> None:
    with pytest.raises(SpecError) as caught:
        submit(kind, ALL[kind][name])
    assert caught.value.field
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", sorted(NEEDS_CLUSTER))
def test_what_one_node_cannot_do_is_said_so(name: str) -> None:
    with pytest.raises(SpecError, match="needs the cluster engine"):
        submit(*find(name))


@pytest.mark.parametrize("name", sorted(STRICTER))
def test_what_sbatch_would_guess_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match=STRICTER[name]):
        submit(*find(name))


@pytest.mark.parametrize("name", sorted(LOOSER))
def test_what_only_the_recorded_site_refused_is_accepted(name: str) -> None:
    assert not find(name)[1]["ok"]
    assert submit(*find(name)).name == "s.sh"


def find(name: str) -> tuple[str, dict[str, Any]]:
    kind = "sample" if name in SAMPLE else "asked"
    return kind, ALL[kind][name]


@pytest.mark.parametrize(("name", "said"), [(name, case) for name, case in SAMPLE.items() if name.startswith("gpu ")])
def test_gpus(name: str, said: dict[str, Any]) -> None:
    spec = submit("sample", said)
    asked = said["job"].get("TresPerNode") or said["job"].get("TresPerJob")
    wanted = gres.gres(asked).gpus if asked else None
    assert (spec.gpus, spec.gpu_type) == ((wanted.count, wanted.type) if wanted else (0, None))


def test_more_cpus_than_the_node_has_are_refused_when_it_is_known() -> None:
    spec = submit("sample", SAMPLE["cpu -n 100"])
    assert check_fits(spec, [], "n1", cpu_count=16) == "asks for 100 CPUs; n1 has 16"


def test_the_same_sentences_as_sbatch_where_it_has_one() -> None:
    for name, words in {
        "opt -p nowhere": "invalid partition specified: nowhere",
        "crlf": "DOS line breaks",
        "opt --reservation=none": "Requested reservation is invalid",
    }.items():
        assert words in SAMPLE[name]["error"]
        with pytest.raises(SpecError, match=words):
            submit("sample", SAMPLE[name])


@pytest.mark.parametrize(
    ("name", "number", "before_s"),
    [("signal-USR1", 10, 60), ("signal-USR1@60", 10, 60), ("signal-10@120", 10, 120), ("signal-R:USR1", 10, 60)],
)
def test_signals_which_scontrol_does_not_show(name: str, number: int, before_s: int) -> None:
    assert submit("sample", SAMPLE[name]).signal == WarnSignal(number=number, before_s=before_s)


def test_export_none_takes_nothing_of_the_submitter() -> None:
    assert submit("sample", SAMPLE["opt --export=NONE"]).export == Export(everything=False)
