"""What all tests share: isolation from the user's folders, one thread, the real recordings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's cache, cards or mirror, and none uses the network."""
    monkeypatch.setenv("REPALIGN_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("REPALIGN_OFFLINE", "1")
    monkeypatch.delenv("REPALIGN_CARDS", raising=False)
    monkeypatch.delenv("REPALIGN_MIRROR", raising=False)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with real recordings."""
    folder = os.environ.get("REPALIGN_TEST_DATA")
    if not folder:
        pytest.skip("REPALIGN_TEST_DATA is not set: it names the folder with real recordings")
    return Path(folder)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A SLURM of this machine, one for all tests; its jobs find the modules of the tests."""
    import slurm_machine

    reason = slurm_machine.why_not()
    if reason is not None:
        pytest.skip(reason)
    with slurm_machine.slurm(tmp_path_factory.mktemp("slurm")) as configuration:
        yield configuration


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; gives (exit code, stdout, stderr)."""
    from repalign.cli import main

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["repalign", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return int(stop.value.code or 0), printed.out, printed.err

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that ask for the real recordings carry the marker `data`."""
    for item in items:
        if "data_folder" in getattr(item, "fixturenames", ()):
            item.add_marker("data")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests read real recordings; .ci/run repeats this line at its end."""

    def count(*outcomes: str) -> int:
        reports = [one for outcome in outcomes for one in terminalreporter.stats.get(outcome, [])]
        return sum("data" in getattr(report, "keywords", ()) for report in reports)

    ran, skipped = count("passed", "failed", "xfailed"), count("skipped", "error")
    terminalreporter.write_line(f"real recordings: {ran} tests ran, {skipped} did not")
