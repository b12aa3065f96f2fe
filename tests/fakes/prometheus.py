"""Prometheus's own programs: `promtool` as a judge of pages and rules, a server that scrapes, node_exporter that reads.

They are Debian's, from `prometheus` and `prometheus-node-exporter`: the machine's, or those that `install.sh test`
unpacked into `.venv/prometheus` without installing anything (tests/means.sh).
"""

from __future__ import annotations

import json
import shutil
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
from tests.fakes.ports import free_port

_UNPACKED = Path(__file__).parents[2] / ".venv" / "prometheus" / "usr" / "bin"
DATA = Path(__file__).parents[2] / "agent" / "monitoring"


def program(name: str) -> str:
    """Where one of them is; the test is skipped where it is not."""
    found = shutil.which(name) or shutil.which(name, path=str(_UNPACKED))
    if found is None:
        pytest.skip(f"no {name}; ./install.sh test as root fetches it, or install Debian's packages")
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
        return bool(_page(f"{self._url}/-/ready"))

    def _ask(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self._url}{path}?{urllib.parse.urlencode(query)}", timeout=60) as answer:
            told = json.load(answer)
        assert told["status"] == "success", told
        return told["data"]


def read_by_node_exporter(folder: Path) -> str:
    """What node_exporter makes of the textfiles in a folder."""
    port = free_port()
    words = [
        program("prometheus-node-exporter"),
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={folder}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return wait_until(lambda: _page(f"http://127.0.0.1:{port}/metrics"), "node_exporter answers")
    finally:
        process.terminate()
        process.wait(timeout=30)


def _page(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, ConnectionError):
        return ""


@contextmanager
def server(folder: Path, config: str) -> Iterator[Server]:
    """A Prometheus of its own, on a free port of the loopback."""
    port = free_port()
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
