"""Which GPU archs a library or an object file holds code for, read from its fat binaries without a CUDA tool.

NVIDIA publishes the names of the sections and the wrapper (include/fatbinary_section.h), not the containers.
Their layout was worked out from what nvcc 12.4, 12.8 and 13.0 wrote, and the answers compared with those of
cuobjdump 13.1. Section .nv_fatbin is a row of containers, one for each .cu unit:

    container  u32 magic, u16 version, u16 header size (16), u64 size of what follows
    entry      u16 kind (1 PTX, 2 cubin, 8 LTO IR), u16, u32 header size (64 or more), u64 payload size,
               u32 compressed size (0: not compressed), u32, u16 minor and u16 major code version (of PTX: its ISA),
               u32 arch (90), u32 name offset, u32 name size, u64 flags, u64, u64 uncompressed size, ...
               and after the header the payload
    flags      0x2000 LZ4, 0x8000 zstd, 0x100000 arch-specific (sm_90a), 0x200000 family-specific (sm_100f)

The flags alone tell sm_90a from sm_90 (since nvcc 13 the cubin's own e_flags no longer do), so that no
payload has to be uncompressed, whatever --compress-mode was.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from xfdev.elf import Image, Section, opened

_EXECUTABLE, _RELOCATABLE, _WRAPPERS = ".nv_fatbin", "__nv_relfatbin", ".nvFatBinSegment"
_MAGIC = struct.pack("<I", 0xBA55ED50)
_WRAPPER_MAGIC, _WRAPPER_LINKED, _WRAPPER_SIZE = 0x466243B1, 2, 24  # FATBINC_MAGIC, FATBINC_LINK_VERSION
_SHN_XINDEX = 0xFFFF  # more than 0xff00 sections: the number stands in the first header
_PTX, _CUBIN = 1, 2
_ARCH_SPECIFIC, _FAMILY_SPECIFIC = 0x100000, 0x200000
_PADDING = 4096  # the most that a linker puts between two object files' parts of a section


@dataclass(frozen=True)
class Unit:
    """One container, what nvcc made of one .cu file. *code* is False where every cubin is seen to hold no
    function and no variable; a compressed cubin is taken to hold some. *isa* is the highest version of PTX in it."""

    sass: frozenset[str]
    ptx: frozenset[str]
    code: bool = True
    isa: tuple[int, int] | None = None


@dataclass(frozen=True)
class FatBinary:
    """Archs as in TORCH_CUDA_ARCH_LIST ("8.0", "9.0a", "10.0f"): *sass* those with a cubin in any unit, *ptx*
    those with PTX in any. All empty for a file without CUDA."""

    sass: frozenset[str]
    ptx: frozenset[str]
    units: tuple[Unit, ...] = field(default=(), repr=False)

    @property
    def common_sass(self) -> frozenset[str]:
        """Archs with a cubin in every unit that has code: those that the whole library runs on without PTX.

        Units of host code alone ask for no arch; they are passed over where that can be seen (``Unit.code``). A
        unit with nothing but PTX leaves none.
        """
        return _common(unit.sass for unit in self.units if unit.code)

    @property
    def common_ptx(self) -> frozenset[str]:
        """Archs with PTX in every unit that has code."""
        return _common(unit.ptx for unit in self.units if unit.code)

    @property
    def isa(self) -> str | None:
        """The version of PTX that a driver has to know to compile all of it (``9.0``); None without PTX."""
        found = [unit.isa for unit in self.units if unit.isa is not None]
        return ".".join(map(str, max(found))) if found else None


def read(path: Path) -> FatBinary:
    """The archs in the shared library or object file at *path*; raises BadBundle if it is no ELF or damaged.

    Device linking (-rdc=true) leaves its result in .nv_fatbin, and in __nv_relfatbin what went in. Of that,
    cubins count in an object file not yet linked; PTX counts always, as the driver can link it.
    """
    with opened(path) as image:
        executable = [unit for section in _named(image, _EXECUTABLE) for unit in _units(image, section)]
        relocatable = [unit for section in _named(image, _RELOCATABLE) for unit in _units(image, section)]
        if not relocatable:
            executable = _without_stub(image, executable)
    units = executable or relocatable
    return FatBinary(
        sass=_union(unit.sass for unit in units),
        ptx=_union(unit.ptx for unit in (*executable, *relocatable)),
        units=tuple(units),
    )


def _without_stub(image: Image, units: list[Unit]) -> list[Unit]:
    """*units* less the empty one that `nvcc -shared` adds where there is nothing to link on the device.

    It is of the archs on that command line (sm_75 if none), whatever the units are of. Its wrapper is the one of
    version 2; each unit has a wrapper, in the same order.
    """
    versions = []
    for section in _named(image, _WRAPPERS):
        for at in range(section.offset, section.offset + section.size - _WRAPPER_SIZE + 1, _WRAPPER_SIZE):
            magic, version = image.unpack("<II", at)
            if magic != _WRAPPER_MAGIC:
                image.bad(f"it is damaged: no wrapper of a fat binary at {at}")
            versions.append(version)
    if len(versions) != len(units):
        return units
    return [unit for unit, version in zip(units, versions, strict=True) if version != _WRAPPER_LINKED]


def _named(image: Image, name: str) -> tuple[Section, ...]:
    """All sections called *name*, in file order."""
    (index,) = image.unpack("<H", 62)
    if index == _SHN_XINDEX and image.sections:
        index = image.sections[0].link
    names, wanted = image.linked(index), name.encode() + b"\0"
    starts = ((section, names.offset + section.name_at) for section in image.sections)
    return tuple(section for section, at in starts if image.data[at : at + len(wanted)] == wanted)


def _units(image: Image, section: Section) -> Iterator[Unit]:
    at, end = section.offset, section.offset + section.size
    while at < end:
        found = image.data.find(_MAGIC, at, min(end, at + _PADDING))
        stop = end if found < 0 else found
        if stop - at > _PADDING or image.data[at:stop].strip(b"\0"):
            image.bad(f"it is damaged: no fat binary at {at}")
        if found < 0:
            return
        _, _, header_size, size = image.unpack("<IHHQ", found, end)
        at = found + header_size + size
        if header_size < 16 or at > end:
            image.bad(f"it is cut off or damaged: the fat binary at {found} does not fit its section")
        yield _unit(image, found + header_size, at)


def _unit(image: Image, at: int, end: int) -> Unit:
    sass, ptx, code = set[str](), set[str](), False
    isa: tuple[int, int] | None = None
    while at < end:
        kind, _, header_size, size, packed = image.unpack("<HHIQI", at, end)
        minor, major, arch = image.unpack("<HHI", at + 24, end)
        flags, _, _ = image.unpack("<QQQ", at + 40, end)
        payload, next_entry = at + header_size, at + header_size + size
        if header_size < 64 or next_entry > end or not 10 <= arch < 1000:
            image.bad(f"it is cut off or damaged: no fat binary entry at {at}")
        if kind == _PTX:
            ptx.add(_name(arch, flags))
            isa = max(isa or (0, 0), (major, minor))
        elif kind == _CUBIN:
            sass.add(_name(arch, flags))
            code = code or packed != 0 or _has_code(image, payload, next_entry)
        else:
            code = True
        at = next_entry
    return Unit(frozenset(sass), frozenset(ptx), code or (bool(ptx) and not sass), isa)


def _name(arch: int, flags: int) -> str:
    suffix = "a" if flags & _ARCH_SPECIFIC else "f" if flags & _FAMILY_SPECIFIC else ""
    return f"{arch // 10}.{arch % 10}{suffix}"


def _has_code(image: Image, start: int, end: int) -> bool:
    """Whether the uncompressed cubin (an ELF file itself) has a section of code or of variables."""
    (magic,) = image.unpack("4s", start, end)
    (table,) = image.unpack("<Q", start + 40, end)
    if magic != b"\x7fELF" or table == 0:
        return True  # cannot be told
    entry_size, _, names_index = image.unpack("<HHH", start + 58, end)
    at, size = image.unpack("<QQ", start + table + names_index * entry_size + 24, end)
    names = image.data[start + at : min(end, start + at + size)]
    return any(b"\0" + kind in names for kind in (b".text.", b".nv.global", b".nv.constant3"))


def _union(sets: Iterator[frozenset[str]]) -> frozenset[str]:
    return frozenset[str]().union(*sets)


def _common(sets: Iterator[frozenset[str]]) -> frozenset[str]:
    listed = list(sets)
    return listed[0].intersection(*listed[1:]) if listed else frozenset()
