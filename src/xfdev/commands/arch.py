"""``xfdev arch``"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xfdev import arch as archs
from xfdev import compat, cuda_releases, elf, fatbin, gpu, gpu_families, link, profile
from xfdev.console import size
from xfdev.errors import NoSuchPath, UsageError

EXAMPLE = "xfdev arch ~/src/project"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", nargs="?", default=None, help="a checkout, to read what is linked in it (default: this folder, if one)"
    )
    parser.add_argument("--list", action="store_true", help="the table of all GPUs and their archs")
    parser.add_argument("--file", metavar="LIBRARY", help="read one shared library or object file instead")


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    """Needs no environment, and no compiler."""
    if args.file and args.path:
        raise UsageError("a checkout and --file do not go together", hint="leave one of them out")
    if args.list:
        return {"gpus": table(), "lines": _table_lines()}
    found = gpu.detect(environ)
    files = [Path(args.file)] if args.file else linked_libraries(args.path)
    libraries = [_library(path, found) for path in files]
    lines = _machine_lines(found)
    for library in libraries:
        lines += _library_lines(library)
    if not libraries and args.path:
        lines.append(f"nothing is linked in {args.path}: xfdev link {args.path}")
    if not found.devices and not args.file:
        lines += ["", *_table_lines()]
    return {
        "devices": [_device(device) for device in found.devices],
        "driver": found.driver,
        "cuda": found.cuda,
        "how": found.how,
        "notes": list(found.notes),
        "archs": archs.canonical(found.archs),
        "libraries": libraries,
        "lines": lines,
    }


# --- GPUs


def _device(device: gpu.Device) -> dict[str, Any]:
    return {
        "name": device.name,
        "capability": str(device.capability),
        "uuid": device.uuid,
        "memory": device.memory,
        "mig": device.mig,
        "first_cuda": _first_cuda(device.capability),
        "toolchains": _toolchains(device.capability),
    }


def _machine_lines(found: gpu.Found) -> list[str]:
    lines = []
    if found.driver:
        lines.append(f"driver {found.driver}" + (f", CUDA up to {found.cuda}" if found.cuda else ""))
    for device in found.devices:
        memory = f", {size(device.memory)}" if device.memory else ""
        what = gpu_families.described(str(device.capability))
        lines.append(f"{device.name}{memory}: arch {what}")
        first, able = _first_cuda(device.capability), _toolchains(device.capability)
        if first:
            lines.append(f"  compiled for by CUDA {first} and newer; toolchains: {', '.join(able) or 'none here'}")
        else:
            lines.append("  no CUDA release that xfdev knows compiles for it")
    if not found.devices:
        lines.append("no GPU here")
    return [*lines, *(f"note: {note}" for note in found.notes)]


def _first_cuda(device: archs.Arch) -> str | None:
    able = [entry for entry in cuda_releases.releases().values() if device.sm in entry.archs]
    return able[0].version if able else None


def _toolchains(device: archs.Arch) -> list[str]:
    """The toolchains of ours whose nvcc, of PyPI or of the host, compiles for a GPU."""
    found = []
    for name, entry in profile.toolchains().items():
        release = cuda_releases.release(entry.cuda) if entry.cuda else None
        if release is not None and device.sm in release.archs:
            found.append(name)
    return found


def table() -> list[dict[str, Any]]:
    """Every capability that xfdev knows of, with the CUDA releases that compile for it."""
    found = []
    for row in gpu_families.rows().values():
        (capability,) = archs.parse(row.capability)
        able = [entry.version for entry in cuda_releases.releases().values() if capability.sm in entry.archs]
        found.append(
            {
                "arch": row.capability,
                "family": row.family,
                "gpus": row.gpus,
                "note": row.note,
                "first_cuda": able[0] if able else None,
                "last_cuda": able[-1] if able and able[-1] != [*cuda_releases.releases()][-1] else None,
            }
        )
    return found


def _table_lines() -> list[str]:
    """The table, in columns; xfdev knows of CUDA 11.8 and newer."""
    head = ("arch", "generation", "GPUs", "CUDA", "")
    first = next(iter(cuda_releases.releases()))
    rows = []
    for entry in table():
        since, until = entry["first_cuda"], entry["last_cuda"]
        start = "" if since == first else since
        cuda = f"{start or 'up'} to {until}" if until else f"{start or first} and newer"
        rows.append((entry["arch"], entry["family"], entry["gpus"], cuda if since else "none", entry["note"]))
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]


# --- binaries


def linked_libraries(path: str | None) -> list[Path]:
    """What xfdev linked into the checkout at *path*; nothing where no *path* was given and this is no checkout."""
    from xfdev.needs import is_library

    root = _root(Path(path or "."))
    if root is None and path is not None and not Path(path).exists():
        raise NoSuchPath(f"{path} does not exist", hint="give a checkout, or --file for a library")
    outputs: Iterable[str] = (link.read_linked(root) or {}).get("outputs", {}) if root else ()
    return [root / name for name in sorted(outputs) if root and (root / name).exists() and is_library(root / name)]


def _root(path: Path) -> Path | None:
    """The folder at or above *path* that something was linked into. git is not asked: a tree need not be one."""
    start = path.absolute()
    return next((folder for folder in (start, *start.parents) if link.read_linked(folder) is not None), None)


def _library(path: Path, found: gpu.Found) -> dict[str, Any]:
    code = fatbin.read(path)
    with elf.opened(path) as image:
        shared = image.type == elf.SHARED
    demands = elf.read(path) if shared else None
    made = compat.code_of(
        code.common_sass, code.common_ptx, code.isa, str(demands.cuda_major) if demands and demands.cuda_major else None
    )
    machine = compat.Machine(found.archs, found.driver, found.cuda)
    outcomes = compat.outcomes(made, machine) if code.units else ()
    return {
        "path": str(path),
        "sass": sorted(code.common_sass),
        "ptx": sorted(code.common_ptx),
        "sass_in_parts": sorted(code.sass - code.common_sass),
        "ptx_isa": code.isa,
        "units": len(code.units),
        "machine": demands.machine if demands else None,
        "cuda_runtime": demands.cuda_major if demands else None,
        "glibc": _version(demands.glibc if demands else None),
        "glibcxx": _version(demands.glibcxx if demands else None),
        "torch_outside_stable_abi": len(demands.torch_symbols_outside_stable_abi) if demands else None,
        "runs": [
            {"device": str(entry.device), "how": entry.how, "why": entry.why, "text": str(entry)} for entry in outcomes
        ],
    }


def _version(numbers: tuple[int, ...] | None) -> str | None:
    return ".".join(map(str, numbers)) if numbers else None


def _library_lines(library: Mapping[str, Any]) -> list[str]:
    lines = [library["path"]]
    if not library["units"]:
        lines.append("  no CUDA code")
    else:
        lines.append(f"  machine code: {', '.join(library['sass']) or 'none'}")
        isa = f" (version {library['ptx_isa']})" if library["ptx_isa"] else ""
        lines.append(f"  PTX: {', '.join(library['ptx']) or 'none'}{isa if library['ptx'] else ''}")
        if library["sass_in_parts"]:
            lines.append(f"  in some units only: {', '.join(library['sass_in_parts'])}")
    needs = []
    if library["cuda_runtime"]:
        needs.append(f"the runtime of CUDA {library['cuda_runtime']}")
    needs += [f"{name} {library[key]}" for name, key in (("glibc", "glibc"), ("GLIBCXX", "glibcxx")) if library[key]]
    if library["torch_outside_stable_abi"]:
        needs.append(f"the very torch it was compiled with ({library['torch_outside_stable_abi']} symbols)")
    if needs:
        lines.append(f"  needs: {', '.join(needs)}")
    return [*lines, *(f"  {entry['text']}" for entry in library["runs"])]
