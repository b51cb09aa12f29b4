"""Arch lists: torch's grammar, in one form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xfdev import arch
from xfdev.arch import Arch
from xfdev.errors import UnknownArch


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" ; ", ""),
        ("9.0", "9.0"),
        ("9.0a", "9.0a"),
        ("10.0f", "10.0f"),
        ("9.0;8.0", "8.0;9.0"),
        ("8.0 9.0a  8.6+PTX", "8.0;8.6+PTX;9.0a"),
        ("8.0;8.0", "8.0"),
        ("12.0+PTX;12.0", "12.0;12.0+PTX"),
        ("8.0\n9.0\n", "8.0;9.0"),
    ],
)
def test_canonical_form(text: str, expected: str) -> None:
    assert arch.canonical(arch.parse(text)) == expected


@pytest.mark.parametrize(
    "text",
    ["9", "sm_90", "9.0b", "9.0+ptx", "90", "9.0.1", "hopper", "8.0,9.0", "-9.0", "9.0a+PTX+PTX", "٩.0x", "Hopper+PTX"],
)
def test_what_is_no_arch_is_named(text: str) -> None:
    with pytest.raises(UnknownArch) as caught:
        arch.parse(f"8.0;{text}")
    assert repr(text) in str(caught.value)
    assert "--arch" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("9", "9.0"),
        ("90", "9.0"),
        ("sm_90", "9.0"),
        ("sm_90a", "9.0a"),
        ("compute_120", "12.0"),
        ("90a", "9.0a"),
        ("9.0b", "9.0"),
        ("8.6+ptx", "8.6+PTX"),
        ("9.0.0", "9.0"),
        ("8.1", None),
        ("Hoper", "Hopper"),
        ("hopper", "Hopper"),
        ("AMPERE", "Ampere"),
        ("Ampere+tegra", "Ampere+Tegra"),
        ("natve", "native"),
        ("ALL", "all"),
        ("all_major", "all-major"),
    ],
)
def test_the_nearest_is_named(text: str, near: str | None) -> None:
    if near is None:
        assert arch.canonical(arch.parse(text)) == text  # well-formed: the compiler says whether it knows it
        return
    with pytest.raises(UnknownArch) as caught:
        arch.parse(text)
    assert f"nearest: {near}" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "devices", "compiler", "expected"),
    [
        ("Hopper", None, None, "9.0+PTX"),
        ("Ampere+Tegra", None, None, "8.7"),
        ("Ampere", None, None, "8.0;8.6+PTX"),
        ("Turing Ampere;9.0a", None, None, "7.5+PTX;8.0;8.6+PTX;9.0a"),
        ("auto", "9.0", None, "9.0"),
        ("auto", "9.0 8.0 9.0", None, "8.0;9.0"),
        ("native", "9.0", None, "9.0+PTX"),
        ("native", "8.6;8.0", None, "8.0;8.6+PTX"),
        ("auto;8.0+PTX", "9.0", None, "8.0+PTX;9.0"),
        ("all", None, "7.5 8.0 8.6 9.0 10.0 12.0 12.1", "7.5;8.0;8.6;9.0;10.0;12.0+PTX;12.1"),
        ("all-major", None, "7.5 8.0 8.6 9.0 10.0 12.0 12.1", "7.5;8.0;9.0;10.0;12.0+PTX"),
        ("all-major", None, "5.0 5.2 6.0 7.5 9.0 9.0a", "5.0;6.0;9.0+PTX"),
    ],
)
def test_words(text: str, devices: str | None, compiler: str | None, expected: str) -> None:
    found = arch.parse(
        text,
        devices=None if devices is None else arch.parse(devices),
        compiler=None if compiler is None else arch.parse(compiler),
    )
    assert arch.canonical(found) == expected


@pytest.mark.parametrize("word", ["auto", "native", "all", "all-major"])
@pytest.mark.parametrize("given", [None, ()])
def test_words_that_stand_for_nothing_here(word: str, given: tuple[Arch, ...] | None) -> None:
    with pytest.raises(UnknownArch) as caught:
        arch.parse(f"8.0 {word}", devices=given, compiler=given)
    assert repr(word) in str(caught.value)
    assert caught.value.why
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "only"), [("auto", True), (" auto ", True), ("auto;auto", True), ("auto;8.0", False), ("", False)]
)
def test_only_auto(text: str, only: bool) -> None:
    assert arch.only_auto(text) is only


def test_as_nvcc_spells_them() -> None:
    assert arch.canonical(arch.from_sm(["sm_90a", "sm_120", "compute_75", "lto_90", ""])) == "7.5;9.0a;12.0"


ARCHS = st.builds(Arch, st.integers(1, 99), st.integers(0, 9), st.sampled_from(["", "a", "f"]), st.booleans())


@given(st.lists(ARCHS))
def test_canonical_form_is_read_back(entries: list[Arch]) -> None:
    text = arch.canonical(entries)
    assert arch.parse(text) == tuple(sorted(set(entries)))
    assert arch.canonical(arch.parse(text)) == text
    assert arch.parse(text.replace(";", " ")) == arch.parse(text)


@given(st.lists(ARCHS, max_size=6), st.lists(st.sampled_from([" ", ";", "; ", " ;;\t"]), min_size=7, max_size=7))
def test_how_entries_are_parted_does_not_matter(entries: list[Arch], gaps: list[str]) -> None:
    text = gaps[0] + "".join(str(entry) + gap for entry, gap in zip(entries, gaps[1:], strict=False))
    assert arch.canonical(arch.parse(text)) == arch.canonical(entries)


@given(st.text(alphabet="0123456789.af+PTXsm_;, allnativeHopr-", max_size=12))
def test_any_text_is_read_or_explained(text: str) -> None:
    try:
        found = arch.parse(text)
    except UnknownArch as error:
        explained = error.why and error.hint
    else:
        explained = "well-formed"
        assert arch.parse(arch.canonical(found)) == found
    assert explained


@given(st.lists(ARCHS, min_size=1, max_size=5))
def test_the_gpus_here_have_no_ptx_but_the_newest_with_native(devices: list[Arch]) -> None:
    auto, native = arch.parse("auto", devices=devices), arch.parse("native", devices=devices)
    assert not any(entry.ptx for entry in auto)
    assert [entry.capability for entry in auto] == [entry.capability for entry in native]
    assert [entry.ptx for entry in native] == [False] * (len(native) - 1) + [True]


def test_spellings() -> None:
    (entry,) = arch.parse("9.0a+PTX")
    assert (str(entry), entry.capability, entry.sm) == ("9.0a+PTX", "9.0a", "sm_90a")


def test_known_to_both() -> None:
    arch.check_known(arch.parse("8.0;9.0a"), nvcc={"sm_80", "sm_90", "sm_90a"}, torch={"8.0", "9.0a"})
    arch.check_known(arch.parse("9.0a"), nvcc={"sm_90"}, torch=set())  # nvcc lists no feature variants in some releases
    arch.check_known(arch.parse("99.9"), nvcc=set(), torch=set())


@pytest.mark.parametrize(
    ("nvcc", "torch", "who"),
    [({"sm_80"}, {"8.0", "9.0"}, "nvcc"), ({"sm_80", "sm_90"}, {"8.0", "8.6"}, "torch"), (set(), {"8.0"}, "torch")],
)
def test_unknown_to_one(nvcc: set[str], torch: set[str], who: str) -> None:
    with pytest.raises(UnknownArch) as caught:
        arch.check_known(arch.parse("8.0;9.0"), nvcc=nvcc, torch=torch)
    assert str(caught.value) == f"{who} of this toolchain does not know arch 9.0"
    assert "8.0" in caught.value.why or "sm_80" in caught.value.why
    assert "nearest" in caught.value.hint
