"""Packing what goes to a registry, and unpacking what comes: never more than was announced, nowhere else."""

from __future__ import annotations

import shutil
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from xfdev.bundle import Manifest
from xfdev.console import size
from xfdev.errors import BadBundle
from xfdev.files import sha256
from xfdev.stores.artifact import MOST_OUTPUT, OBJECTS_LAYER, Blob

_AT_A_TIME = 1 << 20
#: Hidden folders in which wheels keep libraries of others (auditwheel, delocate).
_HIDDEN = (".libs", ".dylibs")


def check(manifest: Manifest, where: str) -> None:
    """Raise BadBundle for what a manifest from elsewhere may not say. Its paths were looked at when it was read."""
    for name, output in manifest.outputs.items():
        whole = type(output.size) is int and type(output.mode) is int and isinstance(output.sha256, str)
        if not whole or not 0 <= output.size <= MOST_OUTPUT or output.mode & ~0o777:
            raise BadBundle(f"the bundle in {where} says impossible things of {name!r}", why="it was not made by xfdev")
        # Git's hooks, an environment's interpreter, an editor's tasks: nothing that a compiler makes lies there.
        if any(part.startswith(".") and part not in _HIDDEN for part in output.place.split("/")):
            raise BadBundle(f"the bundle in {where} has a file {output.place!r}", why="it was not made by xfdev")
    if sum(output.size for output in manifest.outputs.values()) > MOST_OUTPUT:
        raise BadBundle(f"the bundle in {where} is too large")


def inflated(data: bytes, most: int, where: str) -> bytes:
    try:
        engine = zlib.decompressobj(31)
        found = engine.decompress(data, most)
    except zlib.error as error:
        raise BadBundle(f"the manifest in {where} is damaged", details=str(error)) from error
    if engine.unconsumed_tail or not engine.eof or engine.unused_data:
        raise BadBundle(f"the manifest in {where} is damaged, or larger than {size(most)} when it is unpacked")
    return found


def expand(source: Path, target: Path, length: int, name: str) -> None:
    """Unpack a compressed output, and not one byte more than its manifest says."""
    engine, written = zlib.decompressobj(31), 0
    try:
        with source.open("rb") as reader, target.open("wb") as writer:
            while chunk := engine.unconsumed_tail or reader.read(_AT_A_TIME):
                data = engine.decompress(chunk, _AT_A_TIME)
                written += len(data)
                if written > length:
                    raise BadBundle(f"{name} is larger than its manifest says", why="it was not made by xfdev")
                writer.write(data)
                if engine.eof:
                    break
    except zlib.error as error:
        raise BadBundle(f"{name} is damaged", details=str(error)) from error
    if written != length or not engine.eof:
        raise BadBundle(f"{name} is truncated")


def unpack(source: Path, folder: Path, wanted: Mapping[str, str]) -> None:
    """The compiler-cache entries of an archive that *wanted* names; their contents are the store's to check."""
    room = source.stat().st_size
    try:
        with tarfile.open(source, "r:") as archive:
            for member in archive:
                if member.name not in wanted or not member.isreg() or member.issparse() or member.size > room:
                    raise BadBundle(f"the compiler cache of a bundle has a foreign file {member.name!r}")
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                stream = archive.extractfile(member)
                assert stream is not None
                with target.open("wb") as writer:
                    shutil.copyfileobj(stream, writer)
    except (tarfile.TarError, EOFError) as error:
        raise BadBundle("the compiler cache of a bundle is damaged", details=str(error)) from error
    absent = next((name for name in wanted if not (folder / name).is_file()), None)
    if absent is not None:
        raise BadBundle(f"the compiler cache of a bundle is truncated: {absent} is missing")


def blocks(path: Path) -> Iterable[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(_AT_A_TIME):
            yield chunk


def packed(target: Path, blocks: Iterable[bytes], media: str, title: str = "") -> Blob:
    """*blocks* compressed, always alike (no time, no name), so that equal files are one blob."""
    engine = zlib.compressobj(6, wbits=31)
    with target.open("wb") as stream:
        for block in blocks:
            stream.write(engine.compress(block))
        stream.write(engine.flush())
    return Blob(f"sha256:{sha256(target)}", target.stat().st_size, media, title)


def archive(folder: Path, names: Iterable[str], target: Path) -> Blob:
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.mode = (folder / name).stat().st_size, 0o644
            with (folder / name).open("rb") as stream:
                archive.addfile(member, stream)
    return Blob(f"sha256:{sha256(target)}", target.stat().st_size, OBJECTS_LAYER)
