"""The official wheel as a candidate, where no index gives it: said with its reason, and not asked for at every step."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from xfdev.commands import candidates
from xfdev.commands.candidates import Candidates
from xfdev.profile import Profile
from xfdev.stores.local import LocalStore


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What of a session is looked at before the index is asked."""
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return SimpleNamespace(
        release_version="1.0",
        profile=Profile("p", distribution="of-nobody", native=("*.cu",)),
        store=LocalStore(tmp_path / "store"),
        environment=SimpleNamespace(interpreter=Path(sys.executable)),
    )


def said(asked: SimpleNamespace) -> tuple[str, str]:
    found = Candidates(asked)  # type: ignore[arg-type]
    assert found._release() is None
    ((label, (reason,)),) = ((entry.label, entry.reasons) for entry in found.unavailable)
    return label, reason


def test_an_index_that_does_not_have_it(asked: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert said(asked) == ("release 1.0", "no package index has of-nobody==1.0")


def test_an_index_that_does_not_answer_is_asked_once_until_everything_is_asked_for(
    asked: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # nobody listens on it
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.getsockname()[1]}/simple")
        first = said(asked)
    assert "does not answer, so of-nobody==1.0 was not downloaded" in first[1]
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # would be told apart, were it asked
    assert said(asked) == first
    (missed,) = candidates.missed_releases(asked.store).iterdir()
    missed.unlink()  # as `xfdev up` and `xfdev attach` do
    assert said(asked) == ("release 1.0", "no package index has of-nobody==1.0")
