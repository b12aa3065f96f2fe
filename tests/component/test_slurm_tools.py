"""The command lines of tools that call Slurm, and what programs read of its answers.

Each line is as the tool sends it, named after the tool; what the tool reads of the answer is what is asserted.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from tests.fakes.slurm_queue import job
from tests.fakes.slurm_screen import Screen, ended_jobs, host
from tests.fakes.slurm_screen import screen as screen


def test_snakemake(screen: Screen) -> None:
    screen.queue.jobs[:] = [*ended_jobs(), job(40, name="run-1")]
    line = "-X --parsable2 --clusters all --noheader --format=JobIdRaw,State --starttime 2026-11-20T05:00 --endtime now"
    told = dict(each.split("|") for each in screen.lines("sacct", *line.split(), "--name", "train"))
    assert told == {"1": "FAILED"}
    assert screen.lines("scancel", "1", "40", "--clusters=all") == []
    assert [path for _, path, _ in screen.queue.seen] == ["/v1/jobs/1/cancel", "/v1/jobs/40/cancel"]
    assert screen.lines("sinfo", "-o", "%P") == ["PARTITION", "main*", "short"]
    assert [each.strip() for each in screen.lines("sacct", "-nu", "alice", "-o", "Account%256")][:2] == ["", ""]
    assert screen.lines("sshare", "-U", "--format", "Account", "--noheader") == []
    assert screen.lines("squeue", "-M", "lab", "-j", "40", "-o", "%i") == ["CLUSTER: lab", "JOBID", "40"]


def test_parsl(screen: Screen) -> None:
    told = [line.split() for line in screen.lines("squeue", "--noheader", "--format=%i %t", "--job", "1,4")]
    assert sorted(told) == [["1", "R"], ["4", "PD"]]
    screen.queue.jobs[:] = ended_jobs()
    told = [line.split() for line in screen.lines("sacct", "-X", "--noheader", "--format=jobid,state", "--job", "1,12")]
    assert told == [["1", "FAILED"], ["12", "COMPLETED"]]


def test_nextflow(screen: Screen) -> None:
    words = ["--noheader", "-o", "%i %t", "-t", "all", "-p", "main", "-u", "alice"]
    told = dict(line.split() for line in screen.lines("squeue", *words))
    assert (told["1"], told["4"], told["3_[5-9%2]"]) == ("R", "PD", "PD")


def test_reportseff(screen: Screen) -> None:
    screen.queue.jobs[:] = ended_jobs()
    columns = (
        "JobID,State,Elapsed,JobIDRaw,AllocCPUS,TotalCPU,REQMEM,MaxRSS,NNodes,NTasks,Timelimit,AdminComment,NodeList"
    )
    valid = " ".join(screen.lines("sacct", "--helpformat")).lower().split()
    assert {name.lower() for name in columns.split(",")} <= set(valid)
    words = ["-P", "-n", "--delimiter=^|^", f"--format={columns}", "--user=alice", "--starttime=111526"]
    rows = [dict(zip(columns.split(","), line.split("^|^"), strict=True)) for line in screen.lines("sacct", *words)]
    assert (rows[0]["JobID"], rows[0]["State"], rows[0]["REQMEM"]) == ("1", "FAILED", "100M")
    limits = [line for line in screen.lines("scontrol", "show", "partition") if "MaxTime=" in line]
    assert "MaxTime=UNLIMITED" in limits[0].split()


def test_dask_jobqueue_and_submitit(screen: Screen, tmp_path: Any) -> None:
    script = tmp_path / "w.sh"
    script.write_text(
        "#!/bin/sh\n#SBATCH -J dask-worker\n#SBATCH -e l/w-%J.err\n#SBATCH -n 1\n#SBATCH --mem=2G\ntrue\n"
    )
    assert re.fullmatch(r"Submitted batch job (?P<job_id>\d+)", screen.lines("sbatch", str(script))[0])
    assert screen.queue.submitted[-1].script_name == str(script)
    assert screen.lines("sbatch", "--parsable", str(script))[0].isdecimal()
    assert screen.lines("scancel", "1") == []
    screen.queue.jobs[:] = ended_jobs()
    told = screen.lines("sacct", "-o", "JobID,State,NodeList", "--parsable2", "-j", "12")
    assert told[1:3] == ["12|COMPLETED|n1", "12.batch|COMPLETED|n1"]


def test_exporters_for_prometheus_and_telegraf(screen: Screen) -> None:
    assert screen.lines("sinfo", "-h", "-p", "main", "-o", "%C") == ["5/3/0/8"]
    assert "1|alice|RUNNING|2" in screen.lines("squeue", "-a", "-r", "-h", "-o", "%A|%u|%T|%C")
    words = ["-h", "-e", "-p", "main", "-o", "%R %m %c %f %G %T %D %C"]
    assert screen.lines("sinfo", *words)[0].split()[:3] == ["main", "20000", "8"]
    names = ("NodeHost,StateLong,SocketCoreThread,CPUsState,CPUsLoad,Memory,AllocMem,FreeMem,Disk,Weight,"
             "Features:100,Gres:100,GresUsed:100,Reason:50")  # fmt: skip
    assert screen.lines("sinfo", "-Nh", "-p", "main", "-O", names)[0].split()[:3] == ["n1", "mixed", "8:1:1"]
    assert screen.lines("squeue", "-rh", "-O", "state,username,Partition,Account,Qos,NumTasks,tres-alloc:70,Reason:70")
    assert screen.lines("sshare", "-ahlP") == []
    words = ["-a", "-X", "--format=AllocTRES", "--state=RUNNING", "--noheader", "--parsable2"]
    assert "gres/gpu=2" in screen.lines("sacct", *words)[0]


def test_whatever_names_the_cluster_names_the_same_one(screen: Screen) -> None:
    for line in ("squeue --json", "sacct --json -a", "scontrol show job 4 --json", "sinfo --json"):
        told = msgspec.json.decode(screen.run(*line.split())[1])
        named = {each["cluster"] for each in told.get("jobs", told.get("sinfo"))}
        assert (told["meta"]["slurm"]["cluster"], named) == ("lab", {"lab"}), line
    assert set(screen.lines("squeue", "-h", "-O", "cluster")) == {f"{'lab':<20}"}
    assert set(screen.lines("sacct", "-anXo", "cluster")) == {f"{'lab':>10} "}
    assert "Cluster: lab" in screen.lines("seff", "4")
    assert "CLUSTER: lab" in screen.lines("sinfo", "-M", "all")
    assert any(line.split() == ["ClusterName", "=", "lab"] for line in screen.lines("scontrol", "show", "config"))


def test_json_of_nodes_and_steps(screen: Screen) -> None:
    screen.queue.nodes[:] = [host(features=("h100",))]
    told = msgspec.json.decode(screen.run("sinfo", "--json")[1])["sinfo"][0]
    assert told["node"]["state"] == ["MIXED"]
    assert told["cpus"] == {"allocated": 5, "idle": 3, "other": 0, "total": 8, "minimum": 8, "maximum": 8}
    assert (told["features"]["total"], told["partition"]["name"]) == ("h100", "main")
    screen.queue.jobs[:] = ended_jobs()
    jobs = msgspec.json.decode(screen.run("sacct", "--json", "-j", "12")[1])["jobs"]
    assert [each["step"]["id"]["step_id"] for each in jobs[0]["steps"]] == ["batch", "0", "1", "2", "3", "4", "5"]
    assert jobs[0]["steps"][2]["exit_code"]["return_code"]["number"] == 1
    assert jobs[0]["steps"][3]["state"] == ["CANCELLED"]
