"""The container engine, for tests of containers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import engine as engines
import support


@pytest.fixture(scope="session")
def engine() -> Iterator[engines.Engine]:
    """A Docker engine, a registry, base images and the dev container CLI, as ``.ci/engine start`` makes them."""
    try:
        found = engines.find(engines.STARTED_WITH)
    except engines.Missing as reason:
        support.missing(str(reason))
        raise
    yield found
    found.clean()
