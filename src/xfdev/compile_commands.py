"""A compilation database of a checkout, from the recipe of what is linked in it, in words that clangd understands.

clangd reads a source as clang would compile it. Commands of gcc are near enough; those of nvcc are translated with the
table ``resources/clangd.toml``. Nothing is compiled with the result, so what only shapes code (optimization of
device code, registers, debug information) is left out.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from xfdev.bundle import Manifest, Places, Unit
from xfdev.files import write_atomic
from xfdev.profile import RESOURCES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Cuda:
    """The nvcc whose commands are told to clang: its tree, folders that it searches by itself, its version."""

    home: str | None
    implicit: tuple[str, ...] = ()
    version: str = ""


def write(path: Path, manifest: Manifest, places: Places) -> None:
    """Write the database of *manifest*'s units to *path*; a file that says the same already stays as it is."""
    home = places.cuda_home
    folders = [os.path.join(home, name) for name in _table()["nvcc"]["implicit"]] if home else []
    implicit = tuple(folder for folder in folders if os.path.isdir(folder))
    cuda = Cuda(home, implicit, manifest.facts.get("nvcc", ""))
    lines = ",\n".join(json.dumps(entry) for entry in entries(manifest, places, cuda))
    content = f"[\n{lines}\n]\n".encode()
    with suppress(OSError):
        if path.read_bytes() == content:
            return
    write_atomic(path, content)


def entries(manifest: Manifest, places: Places, cuda: Cuda) -> list[dict[str, Any]]:
    """The database: one entry a unit.

    Recorded commands name files by absolute paths, so they may run anywhere. They run in the checkout's own folder
    here: the folder they were recorded for is there only once something was compiled, and clangd wants it to be.
    """
    found = []
    concrete = cache(places.concrete)  # units have most words in common
    for unit in manifest.units:
        source = os.path.join(places.checkout, concrete(unit.source))
        words = [concrete(word) for word in _with_variables(unit, manifest.variables)]
        found.append({"directory": places.checkout, "file": source, "arguments": for_clangd(words, source, cuda)})
    return found


def _with_variables(unit: Unit, variables: Mapping[str, str]) -> list[str]:
    """The command with the options that reach nvcc through variables."""
    program, *words = unit.argv
    if not is_nvcc(program):
        return [program, *words]
    before, after = (
        _unquoted(variables.get(name, ""), " \t\n") for name in ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")
    )
    return [program, *before, *words, *after]


def is_nvcc(program: str) -> bool:
    """Whether a command's first word is nvcc."""
    return program.rpartition("/")[2] == "nvcc"


def for_clangd(argv: Sequence[str], source: str, cuda: Cuda) -> list[str]:
    """The command *argv*, which compiles *source*, as clang has to be told it."""
    program, *words = argv
    if not is_nvcc(program):
        return [program, *_of_gcc(words, source), "-c", source]
    kept, host, archs = _of_nvcc(words)
    table = _table()
    version = re.findall(r"\d+", cuda.version.partition(" ")[0])
    return [
        *("clang++", "-x", "cuda"),
        *([f"--cuda-path={cuda.home}"] if cuda.home else []),
        f"--cuda-gpu-arch={device_arch(archs)}",
        *table["clang"]["cuda"],
        *(f"-D{macro}={int(part)}" for macro, part in zip(table["nvcc"]["version"], version, strict=False)),
        *kept,
        *_of_gcc(host, source),
        *(word for folder in cuda.implicit for word in ("-isystem", folder)),
        *("-c", source),
    ]


def _of_gcc(words: Iterable[str], source: str) -> Iterator[str]:
    """Options of gcc without those that write files, and those that clang refuses."""
    drop = _table()["gcc"]["drop"]
    refused = tuple(drop["starting"])
    rest = iter(words)
    for word in rest:
        if word in drop["with_value"]:
            next(rest, None)
        elif word != source and word not in drop["without_value"] and not word.startswith(refused):
            yield word


def _of_nvcc(words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """What the words of an nvcc command say: options in clang's words, options of the host compiler, and archs."""
    kept: list[str] = []
    host: list[str] = []
    archs: list[str] = []
    options = _options()
    forward = any(word.lstrip("-") in _table()["nvcc"]["forward"] for word in words)
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            continue  # the source
        name, value = _split(word)
        takes_value, clang = options.get(name, (False, "<unknown>"))
        if takes_value and value is None:
            value = next(rest, "")
        if clang == "<unknown>":
            host += [word] * forward
        elif clang == "<host>":
            host += _unquoted(value or "", ", \t\n")
        elif clang == "<arch>":
            archs.append(value or "")
        elif clang == "<rdc>":
            kept += ["-fgpu-rdc"] * (value == "true")
        elif clang:
            kept += _told(clang, value)
    return kept, host, archs


def _told(clang: str, value: str | None) -> list[str]:
    """An option as *clang* calls it, with its *value* if it has one."""
    if value is None:
        return [clang]
    if clang.endswith("="):
        return [clang + value]
    # nvcc takes several macros or folders in one word.
    parts = [part.replace("\\,", ",") for part in re.split(r"(?<!\\),", value)]
    return [word for part in parts for word in (clang, part)]


def _split(word: str) -> tuple[str, str | None]:
    """An option's name without hyphens, and its value if it stands in the same word."""
    name, equals, value = word.lstrip("-").partition("=")
    if name in _options():
        return name, value if equals else None
    if not word.startswith("--") and word != "-" and word[1] in _table()["nvcc"]["attached"]:
        return word[1], word[2:]
    return name, None


def _unquoted(value: str, between: str) -> list[str]:
    """The options in a word like ``-Wall,-DNAME="a b"``, quoted as for a shell; *between* are what separates them."""
    lexer = shlex.shlex(value, posix=True)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = between, True, ""
    try:
        return list(lexer)
    except ValueError:  # a quote that does not end: nvcc refuses it, too
        return []


def device_arch(given: Iterable[str]) -> str:
    """The newest GPU among the values of ``-gencode`` and ``-arch``: clangd reads device code for one."""
    found = {match for value in given for match in re.findall(r"\b(?:sm|compute|lto)_(\d+)([a-z]?)", value)}
    if not found:
        return str(_table()["nvcc"]["any_arch"])
    number, letter = max(found, key=lambda arch: (int(arch[0]), arch[1]))
    return f"sm_{number}{letter}"


@cache
def _options() -> Mapping[str, tuple[bool, str]]:
    """nvcc's options by each of their names: whether it takes a value, and what clang calls it (nothing: left out)."""
    table = _table()["nvcc"]
    found = {}
    for key, takes_value in (("with_value", True), ("without_value", False)):
        for names, clang in {table["drop"][key]: "", **table[key]}.items():
            found.update(dict.fromkeys(names.split(), (takes_value, clang)))
    return found


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((RESOURCES / "clangd.toml").read_text())
    return table
