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
    ["9", "sm_90", "9.0b", "9.0+ptx", "90", "9.0.1", "native", "Hopper", "8.0,9.0", "-9.0", "9.0a+PTX+PTX", "٩.0x"],
)
def test_what_is_no_arch_is_named(text: str) -> None:
    with pytest.raises(UnknownArch) as caught:
        arch.parse(f"8.0;{text}")
    assert repr(text) in str(caught.value)
    assert "--arch" in caught.value.hint


ARCHS = st.builds(Arch, st.integers(1, 99), st.integers(0, 9), st.sampled_from(["", "a", "f"]), st.booleans())


@given(st.lists(ARCHS))
def test_canonical_form_is_read_back(entries: list[Arch]) -> None:
    text = arch.canonical(entries)
    assert arch.parse(text) == tuple(sorted(set(entries)))
    assert arch.canonical(arch.parse(text)) == text
    assert arch.parse(text.replace(";", " ")) == arch.parse(text)


@pytest.mark.parametrize(
    ("code", "device", "runs"),
    [
        ("8.0", "8.0", True),
        ("8.0", "8.6", True),
        ("8.6", "8.0", False),
        ("8.0", "9.0", False),
        ("9.0", "8.0", False),
        ("9.0a", "9.0", True),
        ("9.0", "9.0", True),
        ("10.0a", "10.3", False),
        ("10.0", "10.3", True),
        ("10.0f", "10.3", True),
        ("12.0", "10.0", False),
    ],
)
def test_which_code_runs_on_which_device(code: str, device: str, runs: bool) -> None:
    (made,), (there,) = arch.parse(code), arch.parse(device)
    assert made.serves(there) is runs


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
