"""Prometheus's own programs: `promtool` as a judge of pages and rules, and a server that scrapes for real.

They are Debian's, from the package `prometheus`: the machine's, or those that `install.sh test` unpacked into
`.venv/prometheus` without installing anything (tests/means.sh).
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.daemons import wait_until

_UNPACKED = Path(__file__).parents[2] / ".venv" / "prometheus" / "usr" / "bin"
DATA = Path(__file__).parents[2] / "agent" / "monitoring"


def program(name: str) -> str:
    """Where `promtool` or `prometheus` is; the test is skipped where it is not."""
    found = shutil.which(name) or shutil.which(name, path=str(_UNPACKED))
    if found is None:
        pytest.skip(f"no {name}; ./install.sh test as root fetches it, or install Debian's package prometheus")
    return found


def promtool(*words: str, given: str | None = None) -> str:
    """Run promtool; what it printed. It has to be content."""
    done = subprocess.run([program("promtool"), *words], input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Server:
    """A Prometheus that runs."""

    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series that an expression gives now; a scalar as one series without labels."""
        data = self._ask("/api/v1/query", query=expr)
        if data["resultType"] in ("scalar", "string"):
            return [{"metric": {}, "value": data["result"]}]
        return list(data["result"])

    def targets(self) -> list[dict[str, Any]]:
        return list(self._ask("/api/v1/targets")["activeTargets"])

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self._ask("/api/v1/rules")["groups"] for rule in group["rules"]]

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=10) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    def _ask(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self._url}{path}?{urllib.parse.urlencode(query)}", timeout=20) as answer:
            told = json.load(answer)
        assert told["status"] == "success", told
        return told["data"]


@contextmanager
def server(folder: Path, config: str) -> Iterator[Server]:
    """A Prometheus of its own, on a free port of the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = folder / "prometheus.yml"
    path.write_text(config, encoding="utf-8")
    words = [
        program("prometheus"),
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        made = Server(f"http://127.0.0.1:{port}")
        wait_until(
            lambda: process.poll() is not None or made.is_ready(),
            "Prometheus is ready: " + (folder / "prometheus.log").read_text(errors="replace"),
        )
        assert process.poll() is None, (folder / "prometheus.log").read_text(errors="replace")
        yield made
    finally:
        process.terminate()
        process.wait(timeout=30)
