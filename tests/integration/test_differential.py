"""Nothing stale is ever linked: random edits, and after each a clean build without xfdev to compare with.

``XFDEV_SEQUENCES`` says how many sequences are tried (default 25), ``XFDEV_SEED`` starts elsewhere than always.
A failure prints its steps, shortened; ``play(lab, steps)`` runs such a list again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import differ
from edits import EDITS

Steps = Sequence[tuple[str, int, str]]

_COUNT = int(os.environ.get("XFDEV_SEQUENCES", "25"))
_SEED = os.environ.get("XFDEV_SEED")

steps_strategy = st.lists(
    st.tuples(
        st.sampled_from(sorted(EDITS)),
        st.integers(min_value=0, max_value=25),
        st.sampled_from(["build", "build", "plan", "link"]),
    ),
    min_size=4,
    max_size=8,
)


def play(lab: differ.Lab, steps: Steps) -> None:
    world = lab.world()
    lab.counts.sequences += 1
    for name, number, finish in steps:
        EDITS[name](world, number)
        world.check(finish)


def test_nothing_stale_is_linked(lab: differ.Lab) -> None:
    @settings(
        max_examples=_COUNT,
        deadline=None,
        database=None,
        derandomize=_SEED is None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
    )
    @given(steps_strategy)
    def sequence(steps: Steps) -> None:
        play(lab, steps)

    (seed(int(_SEED))(sequence) if _SEED else sequence)()


def test_the_comparison_notices_a_stale_library(lab: differ.Lab) -> None:
    """The test above can fail: a library that is not that of the sources is told from one that is."""
    world = lab.world()
    world.check("build")
    truth = lab.truths.of(world.root, {})
    stale = differ.Truth("", {**truth.results, "_first.one": -1}, truth.libraries, truth.objects)
    with pytest.raises(AssertionError, match="a clean build"):
        world._check_linked(world.run("link").ok(), stale, "reuse", "steps")
