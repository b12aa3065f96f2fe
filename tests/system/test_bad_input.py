"""What a user or a program can get wrong at the API: each a clear answer, nothing stored, and the agent goes on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.api.types import MAX_BODY_BYTES
from tests.fakes import rawcall
from tests.fakes.daemons import Box, box


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with box(tmp_path_factory.mktemp("bad"), hub=False) as made:
        yield made


def call(
    lab: Box, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    return rawcall.call(lab.agent.socket, method, path, body, headers)


def submit(lab: Box, *, key: str | None = "k", **changes: Any) -> tuple[int, Any]:
    body = {
        "script": "#!/bin/sh\ntrue\n",
        "script_name": "train.sh",
        "work_dir": str(lab.work_dir),
        "env": {},
        **changes,
    }
    return call(lab, "POST", "/v1/jobs", json.dumps(body).encode(), {"Idempotency-Key": key} if key else {})


BIG_GPUS = "#!/bin/sh\n#SBATCH --gpus=9\ntrue\n"


@pytest.mark.parametrize(
    ("changes", "status", "says", "field"),
    [
        ({"script": "\x7fELF\x02\x00\x00"}, 400, "train.sh", "train.sh"),
        ({"script": ""}, 400, "train.sh", "train.sh"),
        ({"script": "true\n"}, 400, "#!", "train.sh"),
        ({"script": "#!/bin/sh\r\ntrue\r\n"}, 400, "DOS line breaks", "train.sh"),
        ({"script": "#!/bin/sh\n#SBATCH --gpus=-1\n"}, 400, "--gpus=-1", "train.sh:2"),
        ({"script": "#!/bin/sh\n\n#SBATCH --gres=gpu:-2\n"}, 400, "--gres", "train.sh:3"),
        ({"script": "#!/bin/sh\n#SBATCH --time=soon\n"}, 400, "--time=soon", "train.sh:2"),
        ({"script": "#!/bin/sh\n#SBATCH --gpuss=1\n"}, 400, "gpus", "train.sh:2"),
        ({"script": "#!/bin/sh\n#SBATCH --overcommit\n"}, 400, "--overcommit", "train.sh:2"),
        ({"script": "#!/bin/sh\n#SBATCH --job-name=a\x1b[31mb\n"}, 400, "--job-name", "train.sh:2"),
        ({"flags": ["--job-name=a\nb"]}, 400, "--job-name", "--job-name"),
        ({"flags": ["--job-name=a\x00b"]}, 400, "--job-name", "--job-name"),
        ({"script_name": "a\nb"}, 400, "name", "$.script_name"),
        ({"script_name": "\x1b]0;owned\x07"}, 400, "name", "$.script_name"),
        ({"work_dir": "relative"}, 400, "absolute", "$.work_dir"),
        ({"args": ["a\x00b"]}, 400, "NUL", "$.args[0]"),
        ({"env": {"A=B": "c"}}, 400, "variable", "$.env"),
        ({"env": {"A": "b\x00c"}}, 400, "NUL", "$.env"),
        ({"script": BIG_GPUS}, 400, "asks for 9 GPUs; n1 has 8", "$.script"),
        ({"node": "n9"}, 404, "n9", "$.node"),
        ({"script": 3}, 400, "Expected `str`, got `int`", "$.script"),
        ({"flags": "--gpus=1"}, 400, "Expected `array`, got `str`", "$.flags"),
        ({"umask": "022"}, 400, "Expected `int`, got `str`", "$.umask"),
    ],
)
def test_a_bad_submission_is_refused_by_name_and_nothing_is_stored(
    lab: Box, changes: dict[str, Any], status: int, says: str, field: str
) -> None:
    answered, body = submit(lab, **changes)
    assert answered == status, body
    assert says in body["message"]
    assert body["field"].startswith(field)
    assert "\x1b" not in body["message"]
    assert call(lab, "GET", "/v1/jobs") == (200, [])
    assert not list(lab.state_dir.glob("jobs/*"))


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "bad_json"),
        (b"\xff\xfe", 400, "bad_json"),
        (b"{", 400, "bad_json"),
        (b'{"a":' + b"[" * 100_000, 400, "bad_json"),
        (b"[]", 400, "bad_field"),
        (b"{}", 400, "bad_field"),
        (b'{"script": NaN}', 400, "bad_json"),
        (b"x" * (MAX_BODY_BYTES + 1), 413, "too_large"),
    ],
)
def test_a_body_that_is_no_submission_is_refused(lab: Box, body: bytes, status: int, code: str) -> None:
    answered, answer = call(lab, "POST", "/v1/jobs", body, {"Idempotency-Key": "k"})
    assert (answered, answer["code"]) == (status, code)


@pytest.mark.parametrize("key", [None, "", "x" * 129, "a\tb"])
def test_a_submit_needs_a_sound_key(lab: Box, key: str | None) -> None:
    answered, answer = submit(lab, key=key)
    assert (answered, answer["code"], answer["field"]) == (400, "bad_key", "Idempotency-Key")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nope", 404, "not_found"),
        ("DELETE", "/v1/jobs", 405, "bad_method"),
        ("GET", "/v1/jobs/999", 404, "no_such_job"),
        ("POST", "/v1/jobs/999/cancel", 404, "no_such_job"),
        ("GET", "/v1/jobs/999/log", 404, "no_such_job"),
        ("GET", "/v1/jobs/999999999999999999999999", 404, "no_such_job"),
        ("GET", "/v1/jobs?limit=-1", 400, "bad_query"),
        ("GET", "/v1/jobs?state=RUNING", 400, "bad_query"),
        ("GET", "/v1/jobs/../../etc/passwd", 404, "not_found"),
    ],
)
def test_a_wrong_address_is_told_so(lab: Box, method: str, path: str, status: int, code: str) -> None:
    answered, answer = call(lab, method, path)
    assert (answered, answer["code"]) == (status, code)


def test_the_same_key_with_another_body_is_a_conflict_and_makes_no_second_job(lab: Box) -> None:
    first, _ = submit(lab, key="conflict")
    again, _ = submit(lab, key="conflict")
    other, answer = submit(lab, key="conflict", script="#!/bin/sh\nfalse\n")
    assert (first, again, other, answer["code"]) == (201, 200, 409, "key_conflict")
    _, jobs = call(lab, "GET", "/v1/jobs")
    assert len(jobs) == 1


def test_a_caller_may_not_act_for_others(lab: Box) -> None:
    answered, answer = call(lab, "GET", "/v1/node", headers={"Stoker-User": "no-such-user-here"})
    assert (answered, answer["code"]) == (403, "unknown_user")


@pytest.mark.parametrize("number", range(3))
def test_half_a_request_and_silence_leave_the_agent_answering(lab: Box, number: int) -> None:
    rude = [socket.socket(socket.AF_UNIX) for _ in range(50)]
    try:
        for each in rude:
            each.connect(str(lab.agent.socket))
            each.sendall([b"", b"POST /v1/jobs HTTP/1.1\r\nContent-", b"\x16\x03\x01garbage\r\n\r\n"][number])
        assert call(lab, "GET", "/v1/hello")[0] == 200
    finally:
        for each in rude:
            each.close()


@pytest.mark.parametrize(
    ("program", "verb"),
    [
        *((program, verb) for program in ("agent", "hub") for verb in ("run", "dial-stdio", "config check")),
        ("agent", "selftest"),
        ("hub", "hardware"),
        ("license", "status"),
        ("license", "doctor"),
        ("license", "export-request"),
        ("license", "usage export"),
        ("license", "audit verify"),
    ],
)
@pytest.mark.parametrize("where", ["before", "behind", "variable"])
def test_a_configuration_that_is_not_there_ends_each_program_with_its_path(
    tmp_path: Path, program: str, verb: str, where: str
) -> None:
    path = str(tmp_path / "none.toml")
    option = {"before": ["--config", path, *verb.split()], "behind": [*verb.split(), "--config", path]}
    entry = f"import sys; from agent.__main__ import {program}_main as main; sys.exit(main())"
    words = [sys.executable, "-c", entry, *option.get(where, verb.split())]
    env = os.environ | ({"STOKER_CONFIG": path} if where == "variable" else {})
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, env=env)
    assert ended.returncode == 78
    (line,) = (ended.stdout + ended.stderr).splitlines()
    assert f"cannot read the configuration {path}: No such file or directory" in line
    assert "name another file with --config or $STOKER_CONFIG" in line


def test_a_config_typo_stops_the_start_with_file_line_and_meaning(tmp_path: Path) -> None:
    path = tmp_path / "stoker.toml"
    path.write_text('[node]\nname = "n1"\nstate_dri = "/tmp/x"\n')
    entry = "import sys; from agent.__main__ import agent_main as main; sys.exit(main())"
    for verb in (["run"], ["config", "check"]):
        words = [sys.executable, "-c", entry, *verb, "--config", str(path)]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=30, env=os.environ)
        assert ended.returncode == 78
        assert f"{path}:3: unknown key 'node.state_dri'; did you mean 'state_dir'?" in ended.stderr
