"""The agent as root: a job runs as the user who submitted it, and nobody acts for anybody else. Fault matrix row 58."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.api.refs import JobRef
from agent.api.types import JobState
from tests.fakes.daemons import Box, activate_evaluation, wait_final, wait_until
from tests.fakes.rawcall import call, call_as

ADA, EVE = "nobody", "daemon"
"""Two ordinary accounts that every Debian has."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Box]:
    if os.geteuid() != 0:
        pytest.skip("needs root: an agent in system mode becomes other users")
    # Not below pytest's own folder: that is root's alone, and the job's user must reach its script.
    root = Path(tempfile.mkdtemp(prefix="stoker-system-", dir="/tmp"))
    root.chmod(0o755)
    made = Box(root, mode="system", allow_root_jobs=False)
    made.run_dir.chmod(0o711)
    try:
        made.agent.start()
        made.hub.start()
        activate_evaluation(made)
        made.agent.socket.chmod(0o666)  # stands for the group that the socket unit gives it
        yield made
    finally:
        made.close()
        shutil.rmtree(root)


def uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def as_user(name: str, lab: Box, method: str, address: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    sent = {key.replace("_", "-"): value for key, value in headers.items()}
    return call_as(uid(name), lab.agent.socket, method, address, data, sent)


def submission(script: str, work_dir: str = "/") -> dict[str, Any]:
    return {
        "script": script,
        "script_name": "job.sh",
        "work_dir": work_dir,
        "env": {"PATH": os.environ["PATH"], "LD_PRELOAD": "/nowhere.so"},
        "flags": ["--output=/dev/null"],
    }


def submit_as(name: str, lab: Box, script: str, key: str) -> int:
    status, answer = as_user(name, lab, "POST", "/v1/jobs", submission(script), Idempotency_Key=key)
    assert status == 201, answer
    return int(answer["job"]["id"])


def test_a_job_runs_as_its_submitter_with_only_its_groups(lab: Box) -> None:
    script = (
        "#!/bin/sh\nid -u\nid -G\numask\ntouch $JOB_DIR/mine && stat -c %U $JOB_DIR/mine\n"
        "cat $0 >/dev/null && echo read\n"
    )
    job_id = submit_as(ADA, lab, script, "as-ada")
    with lab.agent.client() as client:
        ended = wait_final(client, job_id)
        log = client.log(JobRef(id=job_id), 0, None).data.decode()
    account = pwd.getpwnam(ADA)
    groups = " ".join(str(gid) for gid in os.getgrouplist(ADA, account.pw_gid))
    assert (ended.state, ended.user) == (JobState.COMPLETED, ADA), log
    lines = [line for line in log.splitlines() if "LD_PRELOAD" not in line and "ld.so" not in line]
    assert lines == [str(account.pw_uid), groups, "0022", ADA, "read"]


def test_root_may_not_own_a_job(lab: Box) -> None:
    body = json.dumps(submission("#!/bin/sh\ntrue\n")).encode()
    status, answer = call(lab.agent.socket, "POST", "/v1/jobs", body, {"Idempotency-Key": "root"})
    assert (status, answer["code"]) == (403, "root_job")


def test_one_users_job_is_seen_but_not_touched_or_read_by_another(lab: Box) -> None:
    gate = lab.root / "go"
    os.mkfifo(gate)
    gate.chmod(0o666)
    job_id = submit_as(ADA, lab, f"#!/bin/sh\necho secret\nread x < {gate}\n", "private")
    with lab.agent.client() as client:
        wait_until(lambda: client.job(JobRef(id=job_id)).state is JobState.RUNNING, "it runs")
        assert as_user(EVE, lab, "GET", f"/v1/jobs/{job_id}")[0] == 200
        for method, address in (("POST", "cancel"), ("GET", "log"), ("GET", "log?follow=1")):
            status, answer = as_user(EVE, lab, method, f"/v1/jobs/{job_id}/{address}")
            assert (status, answer["code"]) == (403, "forbidden"), address
        assert client.job(JobRef(id=job_id)).state is JobState.RUNNING
        assert as_user(ADA, lab, "POST", f"/v1/jobs/{job_id}/cancel")[0] == 200
        assert wait_final(client, job_id).state is JobState.CANCELLED


def test_a_user_holds_releases_lowers_and_requeues_her_own_job_and_nobody_elses(lab: Box) -> None:
    gate = lab.root / "again"
    os.mkfifo(gate)
    gate.chmod(0o666)
    body = submission(f"#!/bin/sh\nid -un > $JOB_DIR/attempt-$JOB_ATTEMPT\nread x < {gate}\n")
    body["flags"].append("--hold")
    status, answer = as_user(ADA, lab, "POST", "/v1/jobs", body, Idempotency_Key="verbs")
    assert status == 201, answer
    job_id = int(answer["job"]["id"])

    def ask(name: str, verb: str, value: Any = None) -> tuple[int, Any]:
        return as_user(name, lab, "POST", f"/v1/jobs/{job_id}/{verb}", value)

    later, sooner = {"changes": {"Nice": "50"}}, {"changes": {"Nice": "-50"}}
    for verb, value in (("hold", None), ("release", None), ("requeue", {}), ("update", later), ("top", None)):
        status, told = ask(EVE, verb, value)
        assert (status, told["code"]) == (403, "forbidden"), f"{verb} by another"
    with lab.agent.client() as client:
        ref = JobRef(id=job_id)
        assert client.job(ref).held and client.job(ref).nice == 0, "and nothing came of it"
        assert ask(ADA, "update", later)[1]["nice"] == 50
        status, told = ask(ADA, "update", sooner)
        assert (status, told["code"]) == (403, "forbidden"), "only an admin puts a job before others"
        assert ask(ADA, "release")[0] == 200
        wait_until(lambda: client.job(ref).state is JobState.RUNNING, "it runs")
        assert ask(ADA, "requeue", {"hold": True})[0] == 200
        wait_until(lambda: client.job(ref).state is JobState.PENDING, "it waits again, held")
        back = client.job(ref)
        assert (back.held, back.attempt, back.reason) == (True, 1, "JobHeldUser")
        assert (back.again or "").startswith(f"Requeued: requeued by {ADA}")
        assert ask(ADA, "release")[0] == 200
        wait_until(lambda: client.job(ref).state is JobState.RUNNING, "it runs again")
        assert ask(ADA, "cancel", {})[0] == 200
        assert wait_final(client, job_id).attempt == 2
        history = [f"{each.event} {each.detail}" for each in client.report(ref).events]
    assert f"Released by {ADA}" in history and f"Updated by {ADA}" in history
    found = [each for each in lab.state_dir.rglob("attempt-*") if each.parent.parent.name == str(job_id)]
    assert {each.name: each.read_text().strip() for each in found} == {"attempt-1": ADA, "attempt-2": ADA}


def test_what_an_admin_holds_its_user_cannot_release(lab: Box) -> None:
    body = submission("#!/bin/sh\ntrue\n")
    body["flags"].append("--begin=now+1hour")
    job_id = as_user(ADA, lab, "POST", "/v1/jobs", body, Idempotency_Key="held")[1]["job"]["id"]
    assert call(lab.agent.socket, "POST", f"/v1/jobs/{job_id}/hold")[0] == 200
    status, answer = as_user(ADA, lab, "POST", f"/v1/jobs/{job_id}/release")
    assert (status, answer["code"]) == (403, "forbidden")
    assert "admin" in answer["message"]
    assert call(lab.agent.socket, "POST", f"/v1/jobs/{job_id}/release")[0] == 200
    assert as_user(ADA, lab, "POST", f"/v1/jobs/{job_id}/cancel")[0] == 200


@pytest.mark.parametrize("named", ["root", ADA])
def test_a_user_may_not_act_for_another(lab: Box, named: str) -> None:
    status, answer = as_user(EVE, lab, "GET", "/v1/node", Stoker_User=named)
    assert (status, answer["code"]) == (403, "forbidden")


def test_only_root_and_the_hub_touch_the_lease(lab: Box) -> None:
    for method, body in (("GET", None), ("PUT", {"token": "x"})):
        status, answer = as_user(EVE, lab, method, "/v1/lease", body)
        assert (status, answer["code"]) == (403, "forbidden")


def test_the_same_key_of_two_users_is_two_jobs(lab: Box) -> None:
    first = submit_as(ADA, lab, "#!/bin/sh\ntrue\n", "same")
    second = submit_as(EVE, lab, "#!/bin/sh\ntrue\n", "same")
    assert first != second


def test_others_can_read_nothing_of_the_state(lab: Box) -> None:
    submit_as(ADA, lab, "#!/bin/sh\ntrue\n", "one-more")
    for folder, folders, files in os.walk(lab.state_dir):
        if Path(folder) == lab.state_dir / "tools":  # what a job finds on its PATH: `srun` and the like, nobody's data
            assert all(not (Path(folder) / name).lstat().st_mode & 0o022 for name in files)
            continue
        folders[:] = [name for name in folders if (Path(folder) / name).lstat().st_mode & 0o001]  # the way in
        assert Path(folder).stat().st_mode & 0o066 == 0, f"{folder} may be listed by others"
        for name in files:
            assert (Path(folder) / name).lstat().st_mode & 0o077 == 0, f"{folder}/{name} is open to others"
