"""Which tests may run at the same time, in the two processes of ``make test`` (pytest-xdist).

The unit is a file, but for two groups. Tests of containers count processes, fill registries, remove leftovers: they are
for one process. Tests that share the environment with CUDA share a process, since it is made once in each.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

#: Files whose tests use the fixture ``cuda_prefix``; tests/unit/test_architecture.py compares this with the files.
CUDA_FILES = ("test_gpu_decisions.py", "test_gpu_facts.py", "test_inspect.py", "test_team_cache.py")


def group(nodeid: str) -> str:
    """What runs in one process with the test *nodeid*.

    >>> group("tests/container/test_engine.py::test_it"), group("tests/unit/test_arch.py::test_it[a::b]")
    ('engine', 'tests/unit/test_arch.py')
    """
    file = nodeid.partition("::")[0]
    if file.startswith("tests/container/"):
        return "engine"
    return "cuda" if file.rpartition("/")[2] in CUDA_FILES else file


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]  # its package says nothing of types
    """Groups in the order of collection: the containers, which take longest, come first."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)
