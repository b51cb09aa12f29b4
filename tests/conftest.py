"""Fixtures that every test can use; helpers that are no fixtures are in ``support``."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import differ
import support

#: Read before the fixtures take the developer's variables away.
CUDA_VENV = os.environ.get("XFDEV_TEST_CUDA_VENV")


@pytest.fixture(autouse=True)
def _protected(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or writes the developer's caches and settings, or depends on their variables."""
    for name in support.foreign_variables(os.environ):
        monkeypatch.delenv(name)
    for name, value in support.own_variables(tmp_path_factory.mktemp("own")).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def missing() -> object:
    """``missing(reason)``: skip, or fail with ``XFDEV_REQUIRE``."""
    return support.missing


@pytest.fixture(scope="session")
def _session_environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The protection of ``_protected`` while a fixture of the whole session is made."""
    with pytest.MonkeyPatch.context() as patch:
        for name in support.foreign_variables(os.environ):
            patch.delenv(name)
        for name, value in support.own_variables(tmp_path_factory.mktemp("session")).items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def counter_template(_session_environ: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of ``counter`` that nobody changes; copy it with ``support.copy_tree``."""
    if shutil.which("git") is None:
        support.missing("git is not installed")
    return support.make_counter(tmp_path_factory.mktemp("counter"))


@pytest.fixture(scope="session")
def plain_prefix(_session_environ: None, counter_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of the toolchain ``plain`` (no torch), for ``--venv``."""
    if shutil.which("c++") is None:
        support.missing("there is no C++ compiler")
    folder = tmp_path_factory.mktemp("plain")
    checkout = support.copy_tree(counter_template, folder / "counter")
    prefix = folder / "plain" / ".venv"
    prefix.parent.mkdir()
    support.Xfdev()("up", checkout, "--toolchain", "plain", "--venv", prefix).ok()
    return prefix


@pytest.fixture(scope="session")
def cuda_prefix(_session_environ: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment with torch for CUDA 13 and its nvcc: the one that XFDEV_TEST_CUDA_VENV names, or one made here."""
    if CUDA_VENV is not None:
        yield Path(CUDA_VENV)
        return
    folder = tmp_path_factory.mktemp("cuda_prefix")
    if shutil.disk_usage(folder).free < 12_000_000_000:
        support.missing("less than 12 GB free for an environment with torch and CUDA")
    if shutil.which("c++") is None:
        support.missing("there is no C++ compiler")
    checkout = shutil.copytree(support.PROJECTS / "kernels", folder / "kernels")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "all")):
        support.git(checkout, *words)
    prefix = folder / ".venv"
    said = support.Xfdev()("up", checkout, "--toolchain", "cu130", "--arch", "8.0", "--venv", prefix)
    if said.code in (13, 14):
        support.missing(f"torch cannot be fetched: {said.out[-500:]}")
    said.ok()
    yield prefix
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def counter(counter_template: Path, tmp_path: Path) -> Path:
    """A fresh checkout of ``counter`` with its submodule, all committed, nothing built."""
    return support.copy_tree(counter_template, tmp_path / "counter")


@pytest.fixture
def xfdev(plain_prefix: Path) -> support.Xfdev:
    """xfdev with the shared environment: ``xfdev("plan", counter).ok()["verdict"]``."""
    return support.Xfdev(options=("--venv", str(plain_prefix)))


@pytest.fixture(scope="session")
def lab(
    plain_prefix: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[differ.Lab]:
    """Worlds to edit, and clean builds to compare with; its counts are reported at the end (``XFDEV_REPORT``)."""
    if shutil.which("objcopy") is None:
        support.missing("objcopy (binutils) is not installed")
    made = differ.Lab(plain_prefix, tmp_path_factory.mktemp("lab"))
    yield made
    made.counts.clean_builds = len(made.truths.known)
    request.config.stash[support.SUMMARY].append(made.counts.line())
    if report := os.environ.get("XFDEV_REPORT"):
        Path(report).write_text(json.dumps(asdict(made.counts), indent=1) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    # A test run started in the background, or under nohup, ignores these signals, and so would what it starts.
    for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, default)
    config.stash[support.SUMMARY] = []
    # How long one example takes says more of the machine than of the code.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (output := getattr(session.config, "workeroutput", None)) is not None:  # a process of pytest-xdist
        output["summary"] = session.config.stash[support.SUMMARY]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[support.SUMMARY].extend(getattr(node, "workeroutput", {}).get("summary", ()))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    from scheduler import Scheduler

    return Scheduler(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash[support.SUMMARY]:
        terminalreporter.write_line(line)
