"""What a shared library asks of the machine it is loaded on, read from its ELF file.

Only 64-bit little-endian files for x86-64 and aarch64. The file is mapped, never read whole: the section
headers say where the few small tables are. Layouts: elf(5), and Linux Standard Base 5.0, "Symbol Versioning".
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from xfdev.errors import BadBundle

Version = tuple[int, ...]

_MACHINES = {62: "x86_64", 183: "aarch64"}  # EM_X86_64, EM_AARCH64
SHARED = 3  # ET_DYN
_SHT_DYNAMIC, _SHT_NOBITS, _SHT_DYNSYM, _SHT_GNU_VERNEED = 6, 8, 11, 0x6FFFFFFE
_SHN_UNDEF = 0
_DT_NULL, _DT_NEEDED, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 0, 1, 14, 15, 29
_STB_LOCAL = 0

# One token of a mangled name (Itanium C++ ABI, 5.1): a literal, a substitution, a template parameter or an array
# bound, whose digits are no length; or the length of an identifier, after N of an outermost scope; or a letter.
_MANGLED = re.compile(r"L[a-z]n?\d+E|S[0-9A-Z]*_|T\d*_|A\d+_|(N[rVKRO]*)?(\d{1,9})|.", re.DOTALL)
_TORCH_SCOPES = frozenset(("at", "c10", "c10d", "caffe2", "torch"))
# Header-only by contract (torch/csrc/stable, torch/headeronly), so never in libtorch.
_STABLE_SCOPES = ("6stable", "10headeronly")
_THP = re.compile(r"(_Z\d+)?THP")  # torch's Python binding: THPVariableClass, THPVariable_Wrap(...)


@dataclass(frozen=True)
class Section:
    """One section header; *offset* and *size* lie within the file."""

    name_at: int
    kind: int
    offset: int
    size: int
    link: int


class Image:
    """A mapped ELF file; whatever lies outside it raises BadBundle. Made by ``opened``."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data = path, data
        if data[:4] != b"\x7fELF":
            self.bad("it does not begin with the ELF magic")
        if data[4:7] != b"\x02\x01\x01":  # ELFCLASS64, ELFDATA2LSB, EV_CURRENT
            self.bad("it is not a 64-bit little-endian file")
        self.type, number = self.unpack("<HH", 16)
        if number not in _MACHINES:
            self.bad(f"it is for ELF machine {number}, neither x86-64 nor aarch64")
        self.machine = _MACHINES[number]

    def bad(self, why: str) -> NoReturn:
        hint = "it is damaged or foreign: fetch or build it again"
        raise BadBundle(f"{self.path} is not a usable library", why=why, hint=hint)

    def unpack(self, layout: str, at: int, end: int | None = None) -> tuple[Any, ...]:
        """The numbers at offset *at*, which have to lie before *end* (default: the end of the file)."""
        if at + struct.calcsize(layout) > (len(self.data) if end is None else end):
            self.bad(f"it is cut off or damaged: offset {at} lies outside")
        return struct.unpack_from(layout, self.data, at)

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        (table,) = self.unpack("<Q", 40)
        entry_size, count, _ = self.unpack("<HHH", 58)
        if table == 0 or entry_size < 64:
            self.bad("it has no section headers")
        if count == 0:  # 0xff00 sections and more: the number stands in the first header
            (count,) = self.unpack("<Q", table + 32)
        if table + count * entry_size > len(self.data):
            self.bad("it is cut off: its section headers lie behind its end")
        return tuple(self._section(table + index * entry_size) for index in range(count))

    def _section(self, at: int) -> Section:
        name_at, kind, _, _, offset, size, link = self.unpack("<IIQQQQI", at)
        if kind == _SHT_NOBITS:
            size = 0  # takes no room in the file
        elif size and offset + size > len(self.data):
            self.bad(f"it is cut off: a section of {size} bytes begins at {offset} of {len(self.data)}")
        return Section(name_at, kind, offset, size, link)

    def of_kind(self, kind: int) -> Section | None:
        return next((section for section in self.sections if section.kind == kind and section.size), None)

    def linked(self, index: int) -> Section:
        if index >= len(self.sections):
            self.bad(f"it names section {index} and has {len(self.sections)}")
        return self.sections[index]

    def string(self, table: Section, index: int) -> str:
        start, end = table.offset + index, table.offset + table.size
        stop = self.data.find(b"\0", start, end) if start < end else -1
        if stop < 0:
            self.bad(f"it is damaged: name {index} lies outside its string table")
        return self.data[start:stop].decode("utf-8", "surrogateescape")

    def symbols(self, *, undefined: bool) -> Iterator[str]:
        """Names of the dynamic symbols that the file wants (*undefined*), or else that it offers."""
        if (table := self.of_kind(_SHT_DYNSYM)) is None:
            return
        names = self.linked(table.link)
        raw = self.data[table.offset : table.offset + table.size // 24 * 24]
        for name_at, info, _, section, _, _ in struct.iter_unpack("<IBBHQQ", raw):
            if name_at and (section == _SHN_UNDEF) is undefined and info >> 4 != _STB_LOCAL:
                yield self.string(names, name_at)


@dataclass(frozen=True)
class Library:
    """A shared library's demands. Versions are the highest one asked for, None where none is."""

    machine: str
    needed: tuple[str, ...]
    soname: str | None
    rpath: tuple[str, ...]
    glibc: Version | None
    glibcxx: Version | None
    cxxabi: Version | None
    undefined: frozenset[str]

    @property
    def cuda_major(self) -> int | None:
        """12 for a library that needs libcudart.so.12; None without, or with a static one."""
        # auditwheel renames the libraries it puts into a wheel: libcudart-9335f6a2.so.12
        found = (re.fullmatch(r"libcudart(?:-[0-9a-f]+)?\.so\.(\d+)(?:\.\d+)*", name) for name in self.needed)
        return next((int(match[1]) for match in found if match), None)

    @property
    def python_symbols(self) -> frozenset[str]:
        return frozenset(name for name in self.undefined if name.startswith(("Py", "_Py")))

    @property
    def torch_symbols_outside_stable_abi(self) -> frozenset[str]:
        return frozenset(name for name in self.undefined if is_unstable_torch(name))


def is_unstable_torch(symbol: str) -> bool:
    """Whether *symbol* is of torch's C++ API, or mentions one of its types.

    The stable ABI consists of C functions (aoti_torch_*, torch_*: torch/csrc/inductor/aoti_torch/c/shim.h and
    torch/csrc/stable/c/shim.h), so every mangled name with a scope of torch's is outside it.
    """
    if _THP.match(symbol):
        return True
    if not symbol.startswith("_Z"):
        return False
    at = 2
    while match := _MANGLED.match(symbol, at):
        at = match.end()
        if match[2]:
            end = at + int(match[2])
            scope, at = symbol[at:end], end
            if match[1] and scope in _TORCH_SCOPES:
                return not (scope == "torch" and symbol.startswith(_STABLE_SCOPES, at))
    return False


@contextmanager
def opened(path: Path) -> Iterator[Image]:
    """The ELF file at *path*, mapped for as long as the block lasts. Raises BadBundle where there is none."""
    try:
        with path.open("rb") as stream:
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is empty"  # which mmap has a ValueError for
        hint = "check that it is there and readable, or fetch it again"
        raise BadBundle(f"{path} cannot be read", why=why or str(error), hint=hint) from error
    with data:
        yield Image(path, data)


def read(path: Path) -> Library:
    """The demands of the shared library at *path*; raises BadBundle if it is not one, or is damaged."""
    with opened(path) as image:
        if image.type != SHARED:
            image.bad(f"it is an ELF file of type {image.type}, not a shared library (3)")
        dynamic, versions = _dynamic(image), tuple(_versions(image))
        folders = ":".join((*dynamic.get(_DT_RPATH, ()), *dynamic.get(_DT_RUNPATH, ())))
        return Library(
            machine=image.machine,
            needed=dynamic.get(_DT_NEEDED, ()),
            soname=next(iter(dynamic.get(_DT_SONAME, ())), None),
            rpath=tuple(folder for folder in folders.split(":") if folder),
            glibc=_highest(versions, "GLIBC"),
            glibcxx=_highest(versions, "GLIBCXX"),
            cxxabi=_highest(versions, "CXXABI"),
            undefined=frozenset(image.symbols(undefined=True)),
        )


def exports(path: Path) -> frozenset[str]:
    """Names of the dynamic symbols that the library at *path* defines; raises BadBundle as ``read`` does."""
    with opened(path) as image:
        return frozenset(image.symbols(undefined=False))


def _dynamic(image: Image) -> dict[int, tuple[str, ...]]:
    """The strings of the dynamic section by tag, in file order."""
    if (section := image.of_kind(_SHT_DYNAMIC)) is None:
        image.bad("it has no dynamic section: static, or debug information only")
    names = image.linked(section.link)
    found: dict[int, tuple[str, ...]] = {}
    for at in range(section.offset, section.offset + section.size - 15, 16):
        tag, value = image.unpack("<QQ", at)
        if tag == _DT_NULL:
            break
        if tag in (_DT_NEEDED, _DT_SONAME, _DT_RPATH, _DT_RUNPATH):
            found[tag] = (*found.get(tag, ()), image.string(names, value))
    return found


def _versions(image: Image) -> Iterator[str]:
    """Names of the symbol versions that the file needs of other libraries."""
    if (section := image.of_kind(_SHT_GNU_VERNEED)) is None:
        return
    names = image.linked(section.link)
    library, end = section.offset, section.offset + section.size
    left = section.size // 16  # so many records fit; more of them means that they overlap
    while True:
        _, count, _, first, following = image.unpack("<HHIII", library, end)
        record = library + first
        for _ in range(count):
            if (left := left - 1) < 0:
                image.bad("it is damaged: its table of versions has more records than room")
            _, _, _, name_at, after = image.unpack("<IHHII", record, end)
            yield image.string(names, name_at)
            record += after
        if not following:
            return
        library += following


def _highest(names: tuple[str, ...], prefix: str) -> Version | None:
    found = (re.fullmatch(rf"{prefix}_(\d{{1,6}}(?:\.\d{{1,6}})*)", name) for name in names)
    versions = [tuple(int(part) for part in match[1].split(".")) for match in found if match]
    if prefix == "GLIBC" and "GLIBC_ABI_DT_RELR" in names:
        versions.append((2, 36))  # glibc 2.36's NEWS: the loader of that version is the first to offer this name
    return max(versions, default=None)
