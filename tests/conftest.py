"""What holds for the whole suite: in CI a test may be skipped only for want of a GPU.

`.ci/run` sets STOKER_FORBID_SKIPS. A test that was skipped for another reason then fails the run and is named, so that
a missing sshd or systemd cannot turn into a suite that tests nothing.
"""

from __future__ import annotations

import os

import pytest


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


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("STOKER_FORBID_SKIPS") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SkipWatch(), "stoker-skip-watch")


def _reason(longrepr: object) -> str:
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
