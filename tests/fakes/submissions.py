"""A submission as tests hand it in: words of a script, flags and variables, at a moment that stands still."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import pytest

from agent.api.types import SubmitRequest
from agent.jobs import parse as parsing
from agent.jobs.errors import SpecError
from agent.jobs.spec import JobSpec

NOW = 1_795_305_600
"""2026-11-22 00:00 UTC."""


def parse(request: SubmitRequest, default_time_s: int | None = None) -> JobSpec:
    return parsing.parse(request, now=NOW, default_time_s=default_time_s, tz=UTC)


def request(*directives: str, **fields: Any) -> SubmitRequest:
    script = "\n".join(["#!/bin/bash", *(f"#SBATCH {each}" for each in directives), "true", ""])
    return SubmitRequest(**{"script": script, "script_name": "/home/ada/train.sh", "work_dir": "/home/ada", **fields})


def refusal(*directives: str, **fields: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse(request(*directives, **fields))
    return caught.value
