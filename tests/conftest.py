"""What holds for the whole suite: it runs in the same surroundings everywhere (`surroundings`), in CI a test may be
skipped only for want of a GPU, and what is dear is started once.

`.ci/run` sets STOKER_FORBID_SKIPS. A test that was skipped for another reason then fails the run and is named, so that
a missing sshd or systemd cannot turn into a suite that tests nothing.

The tests of a file that shares a fixture run in one worker, one after the other. xdist's own marks for that
(`xdist_group`, as of 3.8) do nothing under pytest 9.2: they write a node's id where pytest does not look any more.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it ships no types

from tests.fakes.surroundings import leave, settle

settings.register_profile("no deadline", deadline=None)  # no test is timed: the machine is shared
settings.load_profile("no deadline")

_OF_THE_FILE = 'scope="module"'
_TAKEN_OVER = re.compile(r"^from (tests\.fakes\.\w+) import (\w+) as \2$", re.MULTILINE)


class SkipWatch:
    """Collects what was skipped, wherever it ran: with xdist the reports of all workers arrive here."""

    def __init__(self) -> None:
        self.forbidden: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail") and "gpu" not in report.keywords:
            self.forbidden.append(f"{report.nodeid}: {_reason(report.longrepr)}")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.forbidden.append(f"{report.nodeid}: {_reason(report.longrepr)}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self.forbidden:
            terminalreporter.write_line(f"skipped, which CI does not allow: {line}", red=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.forbidden and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


class SharedFixtures(LoadScopeScheduling):  # type: ignore[misc]  # untyped, so Any
    """Gives a file with a fixture of the whole file to one worker, and every other test by itself."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, _ = nodeid.partition("::")
        return file if _shares(self.config.rootpath, file) else nodeid


@cache
def _shares(root: Path, file: str) -> bool:
    """Whether a file has a fixture of the whole file, its own or one taken over: `from … import made as made`."""
    text = (root / file).read_text()
    lenders = [root / f"{found[1].replace('.', '/')}.py" for found in _TAKEN_OVER.finditer(text)]
    return any(_OF_THE_FILE in each for each in (text, *(lender.read_text() for lender in lenders)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> SharedFixtures:
    return SharedFixtures(config, log)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return  # its controller has settled what it inherits
    home = settle()
    config.add_cleanup(lambda: leave(home))
    if os.environ.get("STOKER_FORBID_SKIPS"):
        config.pluginmanager.register(SkipWatch(), "stoker-skip-watch")


def _reason(longrepr: object) -> str:
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
