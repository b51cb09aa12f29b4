"""Manifests: canonical, read back as written, and nothing else taken for one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xfdev.bundle import Manifest, Needs, Output, Places, Scripts, Step, Unit, from_bytes
from xfdev.errors import BadBundle

FULL = Manifest(
    project="p",
    version="1.0",
    kind="build",
    facts={"torch": "2.14.1", "arch": "9.0"},
    variables={"CXXFLAGS": "-I%{checkout}/x"},
    watched=("CXXFLAGS", "DEBUG"),
    needs=Needs("2.17", torch="==2.14.1", cuda="13", python="abi3", machine="x86_64", sass=("9.0",), ptx=("9.0",)),
    scripts=Scripts(
        files={"setup.py": "1" * 40},
        globs=({"pattern": "csrc/*.cu", "recursive": False, "matches": ["csrc/a.cu"]},),
        listings={"csrc": ("a.cu",)},
        generated=("csrc/g.h",),
    ),
    files={"csrc/a.cu": "2" * 40},
    submodules={"third_party/x": "3" * 40},
    patterns=("csrc/**",),
    names=("torch/all.h",),
    roots=("csrc",),
    listing=("csrc/a.cu",),
    units=(
        Unit(
            "csrc/a.cu", "temp/csrc/a.o", ("nvcc", "-c"), search=("csrc",), inputs=("csrc/a.cu",), external={"/x": "4"},
            probes=("y.h",), exact=("z.h",), opaque=True, beside=("csrc/b.h",), seconds=1.5, peak=7, digest="5" * 64,
        ),
        Unit("csrc/b.cu", "temp/csrc/b.o", ("nvcc",)),
    ),
    steps=(Step(("c++", "-shared"), "lib/p/_C.so"),),
    outputs={"p/_C.so": Output("p/_C.so", "6" * 64, 10, 0o755)},
    metadata={"name": "p-1.0.dist-info", "METADATA": "Name: p", "licenses/LICENSE": "free"},
    metadata_files={"README.md": "7" * 40},
    source_root="src",
    objects={"ab/cdef": "8" * 64},
    origin={"created": "1"},
    link_seconds=0.5,
)  # fmt: skip


def test_read_back_as_written() -> None:
    again = from_bytes(FULL.to_bytes(), "here")
    assert again == FULL
    assert again.id == FULL.id
    assert again.to_bytes() == FULL.to_bytes()


def test_empty_manifest_is_read_back() -> None:
    least = Manifest("p", "", "release")
    assert from_bytes(least.to_bytes(), "here") == least


def test_name_depends_on_everything() -> None:
    others = [
        replace(FULL, version="1.1"),
        replace(FULL, facts={**FULL.facts, "arch": "8.0"}),
        FULL.with_units(FULL.units[:1]),
        replace(FULL, outputs={}),
        replace(FULL, source_root=""),
    ]
    assert len({FULL.id, *(other.id for other in others)}) == len(others) + 1


def test_order_of_keys_does_not_matter_to_the_name() -> None:
    turned = replace(FULL, facts=dict(reversed(list(FULL.facts.items()))))
    assert turned.id == FULL.id


def values(change: Any) -> bytes:
    value = json.loads(FULL.to_bytes())
    change(value)
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        FULL.to_bytes()[:-1],
        FULL.to_bytes()[: len(FULL.to_bytes()) // 2],
        values(lambda v: v.pop("units")),
        values(lambda v: v.update(units=None)),
        values(lambda v: v.update(units=[{}])),
        values(lambda v: v.update(units=[{**v["units"][0], "evil": 1}])),
        values(lambda v: v.update(evil=1)),
        values(lambda v: v.update(outputs=[])),
        values(lambda v: v.update(outputs={"a": {}})),
        values(lambda v: v.update(needs={"evil": 1})),
        values(lambda v: v.update(scripts=None)),
        values(lambda v: v.update(steps=[{}])),
        values(lambda v: v.update(outputs={"a": {"place": 3, "sha256": "", "size": 0, "mode": 0}})),
        values(lambda v: v.update(metadata=[])),
    ],
)
def test_damage_is_told(data: bytes) -> None:
    with pytest.raises(BadBundle) as caught:
        from_bytes(data, "/store/x")
    assert "/store/x" in str(caught.value)
    assert caught.value.why
    assert caught.value.hint


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_other_schema_is_told(schema: object) -> None:
    with pytest.raises(BadBundle, match=r"has schema .*this xfdev reads 1"):
        from_bytes(values(lambda v: v.update(schema=schema)), "x")


@settings(max_examples=200)
@given(st.integers(0, len(FULL.to_bytes()) - 1), st.integers(1, 255))
def test_one_flipped_byte_is_damage_or_another_name(position: int, flip: int) -> None:
    data = bytearray(FULL.to_bytes())
    data[position] ^= flip
    try:
        again = from_bytes(bytes(data), "x")
    except BadBundle:
        return
    assert again.id != FULL.id


OUTPUT = FULL.outputs["p/_C.so"]


@pytest.mark.parametrize(
    "fields",
    [
        {"outputs": {"../x": OUTPUT}},
        {"outputs": {"/x": OUTPUT}},
        {"outputs": {"a/../../x": OUTPUT}},
        {"outputs": {"": OUTPUT}},
        {"outputs": {"a\0b": OUTPUT}},
        {"outputs": {"a": replace(OUTPUT, place="../x.so")}},
        {"outputs": {"a": replace(OUTPUT, place="/usr/lib/x.so")}},
        {"outputs": {"a": replace(OUTPUT, place="")}},
        {"objects": {"../../x": "0"}},
        {"metadata": {"name": "../x.dist-info"}},
        {"metadata": {"name": "p-1.dist-info", "../../x.pth": "import x"}},
        {"source_root": "../other"},
        {"source_root": "/"},
        {"units": (replace(FULL.units[0], object="../../x.o"),)},
        {"units": (replace(FULL.units[0], object="/tmp/x.o"),)},
        {"steps": (Step(("ld",), "../../x.so"),)},
    ],
)
def test_no_file_of_a_bundle_leaves_its_folder(fields: dict[str, Any]) -> None:
    with pytest.raises(BadBundle, match="leaves its folder"):
        from_bytes(replace(FULL, **fields).to_bytes(), "x")


def test_names_with_dots_are_no_danger() -> None:
    harmless = replace(FULL, outputs={"a..b/..c.so": replace(OUTPUT, place="p/..x.so")})
    assert from_bytes(harmless.to_bytes(), "x") == harmless


PLACES = Places(
    checkout="/home/u/p",
    site_packages="/home/u/p/.venv/lib/python3.11/site-packages",
    prefix="/home/u/p/.venv",
    cuda_home="/home/u/p/.venv/lib/python3.11/site-packages/nvidia/cu13",
    python_include="/usr/include/python3.11",
    python_base="/usr",
)


@pytest.mark.parametrize(
    ("word", "abstract"),
    [
        ("-I/home/u/p/csrc", "-I%{checkout}/csrc"),
        ("/home/u/p/.venv/bin/python", "%{prefix}/bin/python"),
        ("-I/home/u/p/.venv/lib/python3.11/site-packages/torch/include", "-I%{site}/torch/include"),
        ("-L/home/u/p/.venv/lib/python3.11/site-packages/nvidia/cu13/lib", "-L%{cuda}/lib"),
        ("-I/usr/include/python3.11", "-I%{python-include}"),
        ("-O2", "-O2"),
    ],
)
def test_places_longest_first_and_back(word: str, abstract: str) -> None:
    assert PLACES.abstract(word) == abstract
    assert PLACES.concrete(abstract) == word


def test_recipe_of_one_checkout_runs_in_another() -> None:
    other = replace(PLACES, checkout="/srv/q", prefix="/envs/e", site_packages="/envs/e/lib/python3.11/site-packages")
    assert other.concrete(PLACES.abstract("-I/home/u/p/include")) == "-I/srv/q/include"
    assert other.concrete(PLACES.abstract("/home/u/p/.venv/bin/ccache")) == "/envs/e/bin/ccache"
