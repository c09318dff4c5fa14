"""Makes unexpected skips fail the run: `--allowed-skips` names a file of patterns, and a skip that matches none is an error."""

import fnmatch
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--allowed-skips", help="a file of patterns; a skip that matches none fails the run")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--allowed-skips")
    if path and not hasattr(config, "workerinput"):  # the main process of pytest-xdist sees every report
        lines = Path(path).read_text().splitlines()
        config.pluginmanager.register(SkipGuard([line for line in lines if line and not line.startswith("#")]))


class SkipGuard:
    """Lists the skips that no pattern allows, and fails the run if there are any."""

    def __init__(self, patterns: list[str]) -> None:
        self.patterns = patterns
        self.refused: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._look(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._look(report)

    def _look(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        line = f"{report.nodeid}: {reason.removeprefix('Skipped: ')}"
        if not any(fnmatch.fnmatchcase(line, pattern) for pattern in self.patterns):
            self.refused.append(line)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.refused and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter) -> None:
        if self.refused:
            terminalreporter.section("skips that are not in the list of allowed ones", red=True)
            terminalreporter.write_line("\n".join(self.refused))
