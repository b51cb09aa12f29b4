"""xfdev.fatbin on containers put together byte by byte, and on damaged ones."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xfdev import fatbin
from xfdev.errors import BadBundle

PTX, CUBIN, LTO = 1, 2, 8
LZ4, ZSTD, SPECIFIC, FAMILY = 0x2000, 0x8000, 0x100000, 0x200000
UNIT, LINKED = 1, 2  # versions of the wrapper


def elf(sections: Sequence[tuple[str, bytes]], kind: int = 3, machine: int = 62) -> bytes:
    """An ELF file of these sections and the table of their names."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name, _ in (*sections, (".shstrtab", b"")))
    body, headers = b"", bytes(64)
    for name, content in (*sections, (".shstrtab", names)):
        at = names.index(b"\0" + name.encode() + b"\0") + 1
        headers += struct.pack("<IIQQQQIIQQ", at, 1, 0, 0, 64 + len(body), len(content), 0, 0, 8, 0)
        body += content
    count = len(sections) + 2
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, count, count - 1)
    return header + body + headers


KERNEL = elf([(".text._Z1kPfi", b"code")], 2, 190)
HOST_ONLY = elf([(".nv.info", b"")], 2, 190)


def entry(kind: int, arch: int, flags: int = 0, payload: bytes = KERNEL, header: int = 64) -> bytes:
    packed = len(payload) if flags & (LZ4 | ZSTD) else 0
    payload += bytes(-len(payload) % 8)
    fields = struct.pack("<HHIQIIHHIIIQQQ", kind, 0x101, header, len(payload), packed, 0, 0, 9, arch, 0, 0, flags, 0, 0)
    return fields + bytes(header - 64) + payload


def container(*entries: bytes) -> bytes:
    content = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(content)) + content


def wrappers(*versions: int) -> bytes:
    return b"".join(struct.pack("<IIQQ", 0x466243B1, version, 0, 0) for version in versions)


def archs(*names: str) -> frozenset[str]:
    return frozenset(names)


def read(folder: Path, *sections: tuple[str, bytes], kind: int = 3) -> fatbin.FatBinary:
    path = folder / "lib.so"
    path.write_bytes(elf(sections, kind))
    return fatbin.read(path)


def test_no_cuda(tmp_path: Path) -> None:
    assert read(tmp_path, (".text", b"\x90")) == fatbin.FatBinary(frozenset(), frozenset())
    assert read(tmp_path).common_sass == frozenset()


@pytest.mark.parametrize(
    ("arch", "flags", "name"),
    [
        (75, 0x11, "7.5"),
        (90, 0x11, "9.0"),
        (90, 0x11 | SPECIFIC, "9.0a"),
        (120, 0x1000011 | SPECIFIC, "12.0a"),
        (100, 0x1000011 | FAMILY, "10.0f"),
        (103, 0x1000011, "10.3"),
        (90, SPECIFIC | ZSTD, "9.0a"),
        (90, SPECIFIC | LZ4, "9.0a"),
    ],
)
def test_names_of_archs(tmp_path: Path, arch: int, flags: int, name: str) -> None:
    found = read(tmp_path, (".nv_fatbin", container(entry(CUBIN, arch, flags, header=112))))
    assert (found.sass, found.ptx) == (archs(name), archs())
    found = read(tmp_path, (".nv_fatbin", container(entry(PTX, arch, flags, b".target", header=80))))
    assert (found.sass, found.ptx) == (archs(), archs(name))


def test_units_that_differ(tmp_path: Path) -> None:
    both = container(entry(CUBIN, 80), entry(PTX, 80), entry(CUBIN, 90, SPECIFIC))
    one = container(entry(CUBIN, 80))
    found = read(
        tmp_path, (".nv_fatbin", both + bytes(24) + one + bytes(8)), (".nvFatBinSegment", wrappers(UNIT, UNIT))
    )
    assert found.sass == {"8.0", "9.0a"}
    assert found.common_sass == {"8.0"}
    assert found.ptx == {"8.0"}
    assert found.common_ptx == frozenset()
    assert [unit.sass for unit in found.units] == [{"8.0", "9.0a"}, {"8.0"}]


def test_units_without_code_ask_for_no_arch(tmp_path: Path) -> None:
    host = container(entry(CUBIN, 75, payload=HOST_ONLY))
    found = read(tmp_path, (".nv_fatbin", container(entry(CUBIN, 80)) + host + container()))
    assert found.sass == {"7.5", "8.0"}
    assert found.common_sass == {"8.0"}
    assert [unit.code for unit in found.units] == [True, False, False]
    # Compressed, it cannot be told from one with code.
    host = container(entry(CUBIN, 75, ZSTD, payload=b"(\xb5/\xfd"))
    assert read(tmp_path, (".nv_fatbin", container(entry(CUBIN, 80)) + host)).common_sass == frozenset()


def test_a_unit_of_ptx_alone(tmp_path: Path) -> None:
    found = read(tmp_path, (".nv_fatbin", container(entry(CUBIN, 80), entry(PTX, 80)) + container(entry(PTX, 80))))
    assert found.common_sass == frozenset()
    assert found.common_ptx == {"8.0"}


def test_the_device_linker_s_empty_unit_is_left_out(tmp_path: Path) -> None:
    content = container(entry(CUBIN, 75, payload=HOST_ONLY)) + container(entry(CUBIN, 90, SPECIFIC))
    found = read(tmp_path, (".nv_fatbin", content), (".nvFatBinSegment", wrappers(LINKED, UNIT)))
    assert found.sass == found.common_sass == {"9.0a"}


def test_relocatable_device_code(tmp_path: Path) -> None:
    linked = (".nv_fatbin", container(entry(CUBIN, 80)))
    parts = ("__nv_relfatbin", container(entry(CUBIN, 80), entry(PTX, 80)) + container(entry(CUBIN, 90)))
    found = read(tmp_path, linked, parts, (".nvFatBinSegment", wrappers(LINKED, UNIT, UNIT)))
    assert (found.sass, found.ptx, len(found.units)) == (archs("8.0"), archs("8.0"), 1)
    found = read(tmp_path, parts, kind=1)  # an object file, not linked yet
    assert (found.sass, found.ptx, found.common_sass) == (archs("8.0", "9.0"), archs("8.0"), archs())


def test_link_time_code_is_neither(tmp_path: Path) -> None:
    found = read(tmp_path, ("__nv_relfatbin", container(entry(LTO, 80))), kind=1)
    assert (found.sass, found.ptx, found.units[0].code) == (archs(), archs(), True)


GOOD = container(entry(CUBIN, 80), entry(PTX, 80, LZ4))


@pytest.mark.parametrize(
    "content",
    [
        b"\x01" * 64,
        bytes(8192),
        GOOD[:-8],
        GOOD + GOOD[:8],
        GOOD + b"garbage!",
        GOOD + bytes(8192) + GOOD,
        struct.pack("<IHHQ", 0xBA55ED50, 1, 8, 0),
        container(entry(CUBIN, 80)[:40]),
        container(entry(CUBIN, 0)),
        container(struct.pack("<HHIQ", CUBIN, 0x101, 32, 64) + bytes(96)),
        container(entry(CUBIN, 80, payload=b"\x7fELF")),
    ],
)
def test_damaged_containers(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BadBundle) as caught:
        read(tmp_path, (".nv_fatbin", content))
    assert caught.value.why
    assert caught.value.hint


def test_a_damaged_wrapper(tmp_path: Path) -> None:
    with pytest.raises(BadBundle):
        read(tmp_path, (".nv_fatbin", GOOD), (".nvFatBinSegment", bytes(24)))


TYPICAL = elf([(".nv_fatbin", GOOD + GOOD), (".nvFatBinSegment", wrappers(UNIT, UNIT))])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "lib.so"


@given(st.integers(0, len(TYPICAL) - 1))
def test_every_truncation_is_noticed(scratch: Path, length: int) -> None:
    scratch.write_bytes(TYPICAL[:length])
    with pytest.raises(BadBundle):
        fatbin.read(scratch)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(TYPICAL) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_damage_is_a_bad_bundle_or_goes_unnoticed(scratch: Path, changes: list[tuple[int, int]]) -> None:
    content = bytearray(TYPICAL)
    for at, value in changes:
        content[at] = value
    scratch.write_bytes(content)
    with contextlib.suppress(BadBundle):
        fatbin.read(scratch)
