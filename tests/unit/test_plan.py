"""The verdict: facts in, verdict out. Every verdict and every reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xfdev import arch, plan
from xfdev.bundle import Manifest, Needs, Unit
from xfdev.compat import Machine
from xfdev.inputs import Changes
from xfdev.plan import Candidate, Mismatch
from xfdev.toolchain import Toolchain, Torch

FACTS = {
    "platform": "linux-x86_64",
    "glibc": "2.36",
    "python": "3.11",
    "torch": "2.14.1+cu130",
    "torch commit": "abc",
    "cuda": "13.0",
    "nvcc": "13.0.88 (123456789abc)",
    "host compiler": "12.2.0 (0123456789ab)",
    "arch": "9.0",
}
NEEDS = Needs(glibc="2.17", torch="==2.14.1", cuda="13", python="3.11", machine="x86_64", sass=("9.0",))


def toolchain(**facts: str | None) -> Toolchain:
    merged = {**FACTS, **{name.replace("_", " "): value for name, value in facts.items()}}
    known = {name: value for name, value in merged.items() if value is not None}
    torch = Torch(known["torch"], known.get("cuda"), None) if "torch" in known else None
    return Toolchain(known, {}, None, None, None, torch)


def unit(name: str, seconds: float | None = 10.0, peak: int | None = 100) -> Unit:
    return Unit(name, name + ".o", ("c++", name), inputs=(name,), seconds=seconds, peak=peak)


def manifest(**fields: Any) -> Manifest:
    defaults: dict[str, Any] = {
        "project": "p", "version": "1", "kind": "build", "facts": FACTS, "needs": NEEDS,
        "units": (unit("a.cu", 10.0), unit("b.cu", 20.0), unit("c.cu", 30.0)), "link_seconds": 2.0,
    }  # fmt: skip
    return Manifest(**{**defaults, **fields})


def found(made: Manifest, chain: Toolchain, variables: dict[str, str] | None = None, devices: str = "") -> list[str]:
    runs = plan.outcomes(made, arch.parse(devices), Machine())
    return [str(item) for item in plan.mismatches(made, chain, variables or {}, runs)]


def links(made: Manifest, chain: Toolchain, **rest: Any) -> bool:
    return all(item.links for item in plan.mismatches(made, chain, rest.get("variables", {}), ()))


# --- mismatches


def test_same_facts_do_not_differ() -> None:
    assert found(manifest(), toolchain(), devices="9.0") == []


@pytest.mark.parametrize(
    ("needs", "facts", "says"),
    [
        ({"machine": "aarch64"}, {}, "machine is x86_64, bundle is for aarch64"),
        ({"glibc": "2.38"}, {}, "glibc is 2.36, bundle needs >= 2.38"),
        ({"glibc": "2.9"}, {"glibc": "2.10"}, None),
        ({"glibc": "2.38"}, {"glibc": ""}, None),  # not glibc at all, or nobody knows
        ({"python": "3.12"}, {}, "Python is 3.11, bundle needs 3.12"),
        ({"python": "abi3"}, {"python": "3.13"}, None),
        ({"python": "any"}, {"python": "3.13"}, None),
        ({"torch": "==2.14.0"}, {}, "torch is 2.14.1+cu130, bundle needs 2.14.0"),
        ({"torch": "==2.14.1"}, {"torch": "2.14.1+cu128"}, None),
        ({"torch": "==2.14.1+cu130"}, {"torch": "2.14.1+cu128"}, "torch is 2.14.1+cu128, bundle needs 2.14.1+cu130"),
        ({"torch": "==2.14.1"}, {"torch": None}, "torch is not there, bundle needs 2.14.1"),
        ({"torch": ">=2.15"}, {}, "torch is 2.14.1+cu130, bundle needs >=2.15"),
        ({"torch": ">=2.9"}, {}, None),
        ({"torch": ">=2.14.1"}, {}, None),
        ({"torch": ">=2.9"}, {"torch": None}, "torch is not there, bundle needs >=2.9"),
        ({"torch": ""}, {"torch": None}, None),
        ({"cuda": "12"}, {}, "CUDA is 13, bundle needs 12"),
        ({"cuda": "13"}, {"cuda": None, "arch": None}, "CUDA is not there, bundle needs 13"),
        ({"cuda": None}, {"cuda": None, "arch": None}, None),
    ],
)
def test_what_the_libraries_need(needs: dict[str, Any], facts: dict[str, Any], says: str | None) -> None:
    # A release: nothing is known of its compile, so that only the needs count.
    made = manifest(needs=replace(NEEDS, **needs), kind="release", facts={}, units=())
    assert found(made, toolchain(**facts)) == ([says] if says else [])
    assert links(made, toolchain(**facts)) is (says is None)


@pytest.mark.parametrize(
    ("sass", "ptx", "device", "says"),
    [
        (("9.0",), (), "9.0", None),
        (("9.0",), (), "", None),
        (("8.0",), (), "8.6", None),
        (("8.0",), (), "9.0", "arch is 9.0, bundle has code for 8.0 only"),
        (("8.0",), ("8.0",), "9.0", None),  # PTX of an earlier one is compiled by the driver
        (("8.0",), ("9.0",), "8.6", None),
        ((), ("9.0",), "8.6", "arch is 8.6, bundle has code for 9.0 PTX only"),
        (("9.0a",), (), "9.0", None),
        (("9.0a",), ("9.0a",), "10.0", "arch is 10.0, bundle has code for 9.0a, 9.0a PTX only"),
        ((), (), "9.0", None),  # no device code at all: the libraries do not care
        (("8.0",), (), "8.0;12.0", "arch is 12.0, bundle has code for 8.0 only"),
    ],
)
def test_device_code(sass: tuple[str, ...], ptx: tuple[str, ...], device: str, says: str | None) -> None:
    made = manifest(needs=replace(NEEDS, sass=sass, ptx=ptx), kind="release", facts={}, units=())
    assert found(made, toolchain(), devices=device) == ([says] if says else [])


def test_build_without_cuda_does_not_serve_a_toolchain_with_it() -> None:
    plain = {name: value for name, value in FACTS.items() if name not in ("cuda", "arch", "nvcc")}
    made = manifest(needs=replace(NEEDS, cuda=None, sass=()), facts=plain)
    assert "arch is 9.0, bundle has no CUDA code" in found(made, toolchain())
    assert not links(made, toolchain())


@pytest.mark.parametrize(
    ("then", "now", "says"),
    [
        ({}, {}, None),
        ({"CXXFLAGS": "-O2"}, {"CXXFLAGS": "-O2"}, None),
        ({"CXXFLAGS": "-O2"}, {"CXXFLAGS": "-O3"}, "variable CXXFLAGS is -O3, bundle has -O2"),
        ({"CXXFLAGS": "-O2"}, {}, "variable CXXFLAGS is unset, bundle has -O2"),
        ({}, {"CXXFLAGS": "-O3"}, "variable CXXFLAGS is -O3, bundle has it unset"),
    ],
)
def test_variables(then: dict[str, str], now: dict[str, str], says: str | None) -> None:
    made = manifest(variables=then)
    assert found(made, toolchain(), variables=now) == ([says] if says else [])
    assert links(made, toolchain(), variables=now) is (says is None)


@pytest.mark.parametrize(
    ("facts", "name", "may_link"),
    [
        ({"nvcc": "13.0.99 (ffff)"}, "nvcc", False),
        ({"host_compiler": "13.1 (ffff)"}, "host compiler", False),
        ({"nvcc": None}, None, True),  # an environment that cannot compile cannot differ in how
        ({"host_compiler": None}, None, True),
        ({"torch": "2.14.1+cu126"}, "torch", True),
        ({"torch_commit": "def"}, "torch commit", True),
        ({"arch": "8.0"}, "arch", True),
    ],
)
def test_facts_of_the_compile(facts: dict[str, Any], name: str | None, may_link: bool) -> None:
    differing = plan.mismatches(manifest(), toolchain(**facts), {}, ())
    assert [item.name for item in differing] == ([name] if name else [])
    assert all(item.links is may_link for item in differing)


def test_facts_of_the_compile_of_a_release_do_not_count() -> None:
    assert found(manifest(kind="release", facts={"nvcc": "other"}, units=()), toolchain()) == []


# --- decide

BLOCK = Mismatch("CUDA", "12", "needs 13", False)
MILD = Mismatch("torch commit", "x", "was compiled with y", True)
NOTHING = Changes()
ONE = Changes(units={"a.cu": ("a.cu changed",)})


def candidate(label: str = "bundle x", changes: Changes = NOTHING, *differing: Mismatch, **fields: Any) -> Candidate:
    return Candidate(label, manifest(**fields), changes, differing, bundle=label)


def test_nothing_at_hand() -> None:
    decided = plan.decide([], compiles=True, cpus=4)
    assert (decided.verdict, decided.candidate, decided.total, decided.seconds) == ("full", None, None, None)
    assert decided.reasons == ("nothing was compiled for it yet",)
    assert decided.reconfigure


def test_what_could_not_be_looked_at_is_said_unless_something_can_be_linked() -> None:
    away = (plan.Refusal("release 1", ("the index does not answer",)),)
    decided = plan.decide([], compiles=True, cpus=4, unavailable=away)
    assert (decided.verdict, decided.reasons, decided.refused) == (
        "full", ("release 1: the index does not answer",), away,
    )  # fmt: skip
    part = plan.decide([candidate("x", ONE)], compiles=True, cpus=4, unavailable=away)
    assert (part.verdict, part.refused) == ("partial", away)
    assert plan.decide([candidate()], compiles=True, cpus=4, unavailable=away).refused == ()


def test_nothing_at_hand_but_what_the_script_told() -> None:
    decided = plan.decide([], compiles=True, cpus=4, recipe=manifest())
    assert (decided.verdict, decided.total) == ("full", 3)
    assert decided.seconds == 30.0  # the longest unit; 60 s on 4 CPUs would be 15


def test_reuse() -> None:
    decided = plan.decide([candidate()], compiles=False, cpus=4)
    assert (decided.verdict, decided.total, decided.seconds) == ("reuse", 3, 0.0)
    assert decided.candidate is not None
    assert decided.affected == {}


def test_reuse_in_spite_of_what_does_not_matter_to_a_link() -> None:
    assert plan.decide([candidate("b", NOTHING, MILD)], compiles=True, cpus=1).verdict == "reuse"


def test_metadata_alone_is_no_reason_to_compile() -> None:
    assert (
        plan.decide([candidate("b", Changes(metadata=("README.md changed",)))], compiles=False, cpus=1).verdict
        == "reuse"
    )


def test_first_that_serves_is_taken() -> None:
    decided = plan.decide(
        [candidate("bad", NOTHING, BLOCK), candidate("good"), candidate("also")], compiles=True, cpus=1
    )
    assert decided.candidate is not None
    assert decided.candidate.label == "good"
    assert [entry.label for entry in decided.refused] == ["bad"]
    assert decided.refused[0].reasons == ("CUDA is 12, bundle needs 13",)


def test_reuse_of_a_later_one_beats_partial_of_an_earlier() -> None:
    decided = plan.decide([candidate("near", ONE), candidate("far")], compiles=True, cpus=1)
    assert decided.verdict == "reuse"
    assert decided.candidate is not None
    assert decided.candidate.label == "far"


def test_partial() -> None:
    changes = Changes(units={"a.cu": ("x.h changed",), "c.cu": ("x.h changed", "c.cu changed")})
    decided = plan.decide([candidate("b", changes)], compiles=True, cpus=1)
    assert (decided.verdict, decided.total) == ("partial", 3)
    assert decided.affected == changes.units
    assert decided.reasons == ("x.h changed", "c.cu changed")
    assert decided.seconds == 10.0 + 30.0 + 2.0
    assert decided.peak == 100
    assert not decided.reconfigure


def test_partial_is_the_one_with_the_least_to_compile() -> None:
    long, short = Changes(units={"c.cu": ("c.cu changed",)}), ONE
    decided = plan.decide([candidate("long", long), candidate("short", short)], compiles=True, cpus=1)
    assert decided.candidate is not None
    assert decided.candidate.label == "short"


def test_new_source_asks_the_build_script_again() -> None:
    decided = plan.decide([candidate("b", Changes(sources=("d.cu is new",)))], compiles=True, cpus=1)
    assert (decided.verdict, decided.reconfigure) == ("partial", True)
    assert decided.reasons == ("d.cu is new",)


def test_lost_generated_file_asks_the_build_script_again() -> None:
    decided = plan.decide([candidate("b", replace(ONE, remake=True))], compiles=True, cpus=1)
    assert (decided.verdict, decided.reconfigure) == ("partial", True)


@pytest.mark.parametrize(
    ("changes", "differing", "compiles", "kind", "reason"),
    [
        (replace(ONE, scripts=("setup.py changed",)), (), True, "build", "setup.py changed"),
        (Changes(scripts=("setup.py changed",)), (), True, "build", "setup.py changed"),
        (ONE, (MILD,), True, "build", "a.cu changed"),
        (ONE, (), False, "build", "a.cu changed"),
        (Changes(scripts=("csrc/x.cu changed",)), (), True, "release", "csrc/x.cu changed"),
        (ONE, (BLOCK,), True, "build", "CUDA is 12, bundle needs 13"),
        (NOTHING, (BLOCK,), True, "build", "CUDA is 12, bundle needs 13"),
    ],
)
def test_full(changes: Changes, differing: tuple[Mismatch, ...], compiles: bool, kind: str, reason: str) -> None:
    decided = plan.decide([candidate("b", changes, *differing, kind=kind)], compiles=compiles, cpus=1, cuda=True)
    assert decided.verdict == "full"
    assert decided.candidate is None
    assert decided.affected == {}
    assert decided.reasons == (f"b: {reason}",)
    assert decided.refused[0].reasons[0] == reason
    assert decided.reconfigure
    assert decided.total == (3 if kind == "build" else None)


def test_size_of_a_full_compile_is_told_by_one_of_the_same_kind() -> None:
    """With CUDA there is far more to compile than without."""
    small = candidate("small", NOTHING, BLOCK, facts={"python": "3.11"}, units=(unit("a.cpp"),))
    large = candidate("large", NOTHING, BLOCK)
    assert plan.decide([small, large], compiles=True, cpus=1, cuda=True).total == 3
    assert plan.decide([large, small], compiles=True, cpus=1, cuda=False).total == 1
    assert plan.decide([large], compiles=True, cpus=1, cuda=False).total is None
    assert plan.decide([large], compiles=True, cpus=1, cuda=False, recipe=small.manifest).total == 1


def test_units_with_other_flags_are_never_mixed() -> None:
    """Objects of another torch with new ones of this torch in one library: the worst of all."""
    decided = plan.decide([candidate("b", ONE, MILD)], compiles=True, cpus=1)
    assert decided.verdict == "full"
    assert str(MILD) in decided.refused[0].reasons


@given(
    st.lists(
        st.tuples(
            st.sampled_from([NOTHING, ONE, Changes(scripts=("s",)), Changes(sources=("n",))]),
            st.sampled_from([(), (MILD,), (BLOCK,), (MILD, BLOCK)]),
            st.sampled_from(["build", "release"]),
        ),
        max_size=5,
    ),
    st.booleans(),
)
def test_no_plan_links_or_extends_what_is_blocked(
    entries: list[tuple[Changes, tuple[Mismatch, ...], str]], compiles: bool
) -> None:
    candidates = [candidate(str(i), changes, *found, kind=kind) for i, (changes, found, kind) in enumerate(entries)]
    decided = plan.decide(candidates, compiles=compiles, cpus=2)
    chosen = decided.candidate
    if decided.verdict == "full":
        assert chosen is None
        assert len(decided.refused) == len(candidates)
        return
    assert chosen is not None
    assert all(item.links for item in chosen.mismatches)
    if decided.verdict == "reuse":
        assert not chosen.changes.native
    else:
        assert compiles
        assert chosen.mismatches == ()
        assert chosen.manifest.kind == "build"
        assert not chosen.changes.scripts


# --- predict


def test_prediction() -> None:
    units = [unit("a", 10.0, 5), unit("b", 20.0, 7), unit("c", 30.0, 3)]
    assert plan.predict(units, 1) == (60.0, 7)
    assert plan.predict(units, 2) == (30.0, 12)
    assert plan.predict(units, 100) == (30.0, 15)
    assert plan.predict(units, 0) == (60.0, 7)
    assert plan.predict([], 4) == (0.0, 0)


def test_prediction_of_units_that_nobody_compiled() -> None:
    assert plan.predict([unit("a", None, None)], 1) == (plan.Guess().seconds, plan.Guess().peak)
    assert plan.predict([unit("a", None, None)] * 3, 2, plan.Guess(200.0, 7)) == (300.0, 14)
    seconds, _ = plan.predict([unit("a", None), unit("b", 4.0), unit("c", 4.0)], 1)
    assert seconds == 12.0
