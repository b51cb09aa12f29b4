"""xfdev.elf on libraries put together byte by byte, and on damaged ones."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xfdev import elf
from xfdev.errors import BadBundle

NEEDED, SONAME, RPATH, RUNPATH = 1, 14, 15, 29
X86_64, AARCH64 = 62, 183


def library(
    dynamic: Sequence[tuple[int, str]] = (),
    undefined: Sequence[str] = (),
    defined: Sequence[str] = (),
    versions: Sequence[tuple[str, Sequence[str]]] = (),
    machine: int = X86_64,
) -> bytes:
    """A shared library: an ELF header, four tables, and their section headers at the end."""
    strings = bytearray(b"\0")

    def name(text: str) -> int:
        strings.extend(text.encode() + b"\0")
        return len(strings) - len(text.encode()) - 1

    tags = b"".join(struct.pack("<QQ", tag, name(text)) for tag, text in dynamic) + bytes(16)
    symbols = bytes(24)
    for index, names in ((0, undefined), (7, defined)):
        symbols += b"".join(struct.pack("<IBBHQQ", name(text), 0x10, 0, index, 0, 0) for text in names)
    needs = b""
    for number, (file, wanted) in enumerate(versions, 1):
        last = number == len(versions)
        needs += struct.pack("<HHIII", 1, len(wanted), name(file), 16, 0 if last else 16 + 16 * len(wanted))
        needs += b"".join(struct.pack("<IHHII", 0, 0, 2, name(version), 16) for version in wanted)
    # Kinds: SHT_STRTAB, SHT_DYNAMIC, SHT_DYNSYM, SHT_GNU_verneed; all linked to the strings, section 1.
    tables = [(3, bytes(strings)), (6, tags), (11, symbols), (0x6FFFFFFE, needs)]
    body, headers = b"", bytes(64)
    for kind, content in tables:
        headers += struct.pack("<IIQQQQIIQQ", 0, kind, 0, 0, 64 + len(body), len(content), 1, 0, 8, 0)
        body += content
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(tables) + 1, 0)
    return header + body + headers


TYPICAL = library(
    dynamic=[(NEEDED, "libcudart.so.12"), (NEEDED, "libc.so.6"), (SONAME, "_C.so"), (RUNPATH, "$ORIGIN:/opt/lib")],
    undefined=["PyErr_Print", "_ZN3c106detail4failEv", "aoti_torch_get_dim"],
    defined=["PyInit__C"],
    versions=[
        ("libstdc++.so.6", ["GLIBCXX_3.4.9", "GLIBCXX_3.4.21", "CXXABI_1.3", "CXXABI_FLOAT128"]),
        ("libc.so.6", ["GLIBC_2.9", "GLIBC_2.28", "GLIBC_PRIVATE"]),
    ],
)


def read(folder: Path, content: bytes) -> elf.Library:
    path = folder / "lib.so"
    path.write_bytes(content)
    return elf.read(path)


def test_everything_a_library_asks_for(tmp_path: Path) -> None:
    found = read(tmp_path, TYPICAL)
    assert found == elf.Library(
        machine="x86_64",
        needed=("libcudart.so.12", "libc.so.6"),
        soname="_C.so",
        rpath=("$ORIGIN", "/opt/lib"),
        glibc=(2, 28),
        glibcxx=(3, 4, 21),
        cxxabi=(1, 3),
        undefined=frozenset(("PyErr_Print", "_ZN3c106detail4failEv", "aoti_torch_get_dim")),
    )
    assert found.cuda_major == 12
    assert found.python_symbols == {"PyErr_Print"}
    assert found.torch_symbols_outside_stable_abi == {"_ZN3c106detail4failEv"}
    assert elf.exports(tmp_path / "lib.so") == {"PyInit__C"}


def test_a_library_that_asks_for_nothing(tmp_path: Path) -> None:
    found = read(tmp_path, library(machine=AARCH64))
    assert found == elf.Library("aarch64", (), None, (), None, None, None, frozenset())
    assert found.cuda_major is None


def test_relative_relocations_need_glibc_2_36(tmp_path: Path) -> None:
    content = library(versions=[("libc.so.6", ["GLIBC_2.17", "GLIBC_ABI_DT_RELR"])])
    assert read(tmp_path, content).glibc == (2, 36)


@pytest.mark.parametrize(
    ("needed", "major"),
    [
        ("libcudart.so.13", 13),
        ("libcudart.so.11.0", 11),
        ("libcudart-9335f6a2.so.12", 12),  # as auditwheel renames it
        ("libcudart.so", None),
        ("libcudart_static.so.12", None),
        ("libcublas.so.12", None),
    ],
)
def test_cuda_major(tmp_path: Path, needed: str, major: int | None) -> None:
    assert read(tmp_path, library(dynamic=[(NEEDED, needed)])).cuda_major == major


@pytest.mark.parametrize(
    "symbol",
    [
        "_ZN2at4_ops10empty_like4callERKNS_6TensorE",
        "_ZNK3c1010TensorImpl4sizeEl",
        "_ZTIN3c105ErrorE",
        "_ZTVN5torch8autograd12AutogradMetaE",
        "_ZN3c10lsERSoNS_10DeviceTypeE",
        "_ZN6caffe28TypeMeta4MakeIfEES0_v",
        "_ZN4c10d12ProcessGroupC1Eii",
        "_ZNSt6vectorIN2at6TensorESaIS1_EED1Ev",  # of std, laid out by torch
        "_Z3fooILm16EEvRKN2at6TensorE",  # 16 is a value, not a length
        "_Z16THPVariable_WrapRKN2at10TensorBaseE",
        "THPVariableClass",
    ],
)
def test_symbols_outside_the_stable_abi(symbol: str) -> None:
    assert elf.is_unstable_torch(symbol)


@pytest.mark.parametrize(
    "symbol",
    [
        "aoti_torch_empty_strided",
        "torch_call_dispatcher",
        "torch_library_impl",
        "cudaLaunchKernel",
        "_ZNSt6vectorIiSaIiEE2atEm",  # std::vector<int>::at
        "_ZN3CNN2atEm",  # CNN::at: the N is the end of a name, not the beginning of a scope
        "_ZN7xformer2at4CallEv",  # xformer::at::Call
        "_Z5torchv",
        "_Z3fooRKN5torch6stable6TensorE",
        "_Z3fooN5torch10headeronly10ScalarTypeE",
        "_Z",
        "",
    ],
)
def test_symbols_within_it_or_of_others(symbol: str) -> None:
    assert not elf.is_unstable_torch(symbol)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(100), "magic"),
        (b"\x7fELF\x01\x01\x01" + bytes(100), "64-bit"),
        (b"\x7fELF\x02\x02\x01" + bytes(100), "little-endian"),
        (b"\x7fELF\x02\x01\x01", "cut off"),
        (library(machine=8), "machine 8"),
        (TYPICAL[:16] + b"\x01" + TYPICAL[17:], "type 1"),  # an object file
        (TYPICAL[:40] + bytes(8) + TYPICAL[48:], "no section headers"),
        (TYPICAL[:-1], "cut off"),
    ],
)
def test_what_is_no_library(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(BadBundle) as caught:
        read(tmp_path, content)
    assert why in caught.value.why
    assert str(tmp_path) in str(caught.value)
    assert caught.value.hint


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.so", tmp_path):
        with pytest.raises(BadBundle):
            elf.read(path)


def test_versions_that_overlap(tmp_path: Path) -> None:
    at = TYPICAL.index(struct.pack("<HH", 1, 4))  # the first library's record: version 1, four names
    with pytest.raises(BadBundle):
        read(tmp_path, TYPICAL[: at + 2] + b"\xff\xff" + TYPICAL[at + 4 :])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "lib.so"


@given(st.integers(0, len(TYPICAL) - 1))
def test_every_truncation_is_noticed(scratch: Path, length: int) -> None:
    scratch.write_bytes(TYPICAL[:length])
    with pytest.raises(BadBundle):
        elf.read(scratch)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(TYPICAL) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_damage_is_a_bad_bundle_or_goes_unnoticed(scratch: Path, changes: list[tuple[int, int]]) -> None:
    content = bytearray(TYPICAL)
    for at, value in changes:
        content[at] = value
    scratch.write_bytes(content)
    with contextlib.suppress(BadBundle):
        elf.read(scratch)
        elf.exports(scratch)
