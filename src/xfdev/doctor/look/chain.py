"""The environment, read without importing anything in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from xfdev import cuda_releases, linker, toolchain
from xfdev.doctor.facts import Chain, Compiler
from xfdev.doctor.look.ask import Ask
from xfdev.doctor.look.host_compiler import any_compiler_allowed, compiler_kind, of_nvcc, unchecked


def look(ask: Ask) -> Chain:
    made, memory = ask.made, ask.cache / "tools"
    environ = {**ask.environ, **made.environ}
    prefix = Path(made.prefix)
    state = made.state
    if state == "finished" and not os.access(prefix / "bin" / "python", os.X_OK):
        state = "broken"
    site = prefix / "lib" / f"python{made.python}" / "site-packages"
    torch = toolchain.torch_in(site) if made.python else None
    nvcc = toolchain.nvcc_at(Path(made.cuda_home), memory) if made.cuda_home else None
    cxx = toolchain.host_compiler(environ, memory)
    named = environ.get("CXX") or None
    compiled = cuda_releases.release(nvcc.version) if nvcc else None
    loaded = cuda_releases.release(torch.cuda) if torch and torch.cuda else None
    return Chain(
        prefix=made.prefix,
        state=state,
        toolchain=made.toolchain,
        recorded=made.recorded,
        torch=torch.version if torch else None,
        distributions=tuple(_distributions(site)) if made.python else (),
        pinned=_pinned(prefix),
        elsewhere=tuple(_elsewhere(site, environ)),
        cuda=torch.cuda if torch else None,
        nvcc=nvcc.version if nvcc else None,
        compiler=_named(cxx) if cxx else None,
        device_compiler=_other(of_nvcc(environ, memory), cxx),
        named=named if cxx is None else None,
        linker=linker.fastest(environ),
        unsupported_allowed=any_compiler_allowed(environ),
        unchecked=unchecked(environ),
        gcc=compiled.gcc if compiled else None,
        clang=compiled.clang if compiled else None,
        driver=loaded.least_driver if loaded else None,
    )


def _named(found: toolchain.Compiler) -> Compiler:
    return Compiler(str(found.path), found.version, compiler_kind(found.path.name), toolchain.is_script(found.path))


def _other(found: toolchain.Compiler | None, cxx: toolchain.Compiler | None) -> Compiler | None:
    """nvcc's compiler, unless it is the same release of the same kind."""
    if found is None:
        return None
    named = _named(found)
    same = cxx is not None and (named.kind, named.version) == (compiler_kind(cxx.path.name), cxx.version)
    return None if same else named


def _distributions(site: Path) -> Iterator[str]:
    """The versions of torch that pip sees: those that the metadata says, not the folders' names."""
    for path in sorted(site.glob("torch-*.dist-info")):
        try:
            match = re.search(r"^Version: (.+)$", (path / "METADATA").read_text(errors="replace"), re.MULTILINE)
        except OSError:
            match = None
        yield match[1].strip() if match else f"{path.name} without metadata"


def _pinned(prefix: Path) -> str | None:
    """The torch that the environment's constraint names."""
    try:
        match = re.search(r"^torch===(\S+)$", (prefix / "xfdev" / "constraints.txt").read_text(), re.MULTILINE)
    except OSError:
        return None
    return match[1] if match else None


def _elsewhere(site: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """Folders with a torch that Python looks into before the environment's own packages."""
    for entry in environ.get("PYTHONPATH", "").split(os.pathsep):
        folder = Path(entry) / "torch"
        if entry and (folder / "__init__.py").exists() and folder.resolve() != (site / "torch").resolve():
            yield str(folder)
