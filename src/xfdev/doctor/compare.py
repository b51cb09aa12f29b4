"""Two facts against each other, as plain values: what the checks and ``early`` have in common. Pure."""

from __future__ import annotations

from xfdev.doctor.finding import Finding, error, not_applicable, numbers, ok, unknown, warning
from xfdev.doctor.words import size

FREE = "xfdev bundle prune --max-age 30d; pip cache purge; df -h shows the disk"


def judge_driver(have: str | None, brings: str | None, cuda: str | None, least: str | None, *, seen: bool) -> Finding:
    """A driver (which *brings* a CUDA) against the *cuda* of torch, which needs the driver *least*."""
    if have is None and not seen:
        return not_applicable("no NVIDIA driver here")
    if cuda is None:
        return not_applicable("no environment with CUDA here")
    if have is None:
        return unknown("the driver does not tell its version")
    if least is None:
        return unknown(f"which driver CUDA {cuda} needs is not known to this xfdev")
    if numbers(have) < numbers(least):
        return error(
            f"driver {have} is older than {least}, which CUDA {cuda} needs: kernels do not start",
            "update the driver: https://www.nvidia.com/drivers; or xfdev up --toolchain with an older CUDA",
        )
    if brings is not None and numbers(brings) < numbers(cuda):
        return warning(
            f"driver {have} brings CUDA {brings}, torch has {cuda}: kernels run, PTX of {cuda} is not compiled",
            "compile for this GPU's own arch (xfdev arch), or update the driver",
        )
    return ok(f"driver {have}, CUDA {cuda} needs {least}")


def judge_nvcc(have: str | None, cuda: str | None) -> Finding:
    """An nvcc against the CUDA that torch was built for."""
    if cuda is None:
        return not_applicable("torch has no CUDA here")
    if have is None:
        return warning(
            f"no nvcc for CUDA {cuda}: prebuilt parts can be linked, nothing can be compiled",
            "xfdev up --toolchain cu130 moves to one that compiles",
        )
    if numbers(have)[:1] != numbers(cuda)[:1]:
        said = f"nvcc is {have}, torch was built for CUDA {cuda}: torch refuses to compile"
        return error(said, "unset CUDA_HOME; xfdev up again takes the nvcc that fits")
    if numbers(have)[:2] != numbers(cuda)[:2]:
        said = f"nvcc is {have}, torch was built for CUDA {cuda}: it works, and may need a newer driver than torch"
        return warning(said, "xfdev up again, without CUDA_HOME, installs the nvcc of torch's own release")
    return ok(f"nvcc {have}, torch's CUDA {cuda}")


def judge_compiler(
    path: str, version: str, kind: str, nvcc: str | None, gcc: int | None, clang: int | None, *, allowed: bool
) -> Finding:
    """A host compiler of a *kind* against what *nvcc* takes: up to these releases of *gcc* or *clang*."""
    have = f"{path} {version}"
    if nvcc is None:
        return ok(f"{have}; no nvcc to fit")
    newest = {"gcc": gcc, "clang": clang}.get(kind)
    if newest is None:
        why = f"nvcc {nvcc} is not known to this xfdev" if kind else "neither gcc nor clang by its name"
        return unknown(f"{have}: whether nvcc {nvcc} takes it is not known ({why})")
    major = numbers(version)[:1]
    if major > (newest,):
        said = f"{have} is newer than {kind} {newest}, the last that nvcc {nvcc} takes"
        name = f"g++-{newest}" if kind == "gcc" else f"clang++-{newest}"
        c = f"gcc-{newest}" if kind == "gcc" else f"clang-{newest}"
        package = name if kind == "gcc" else f"clang-{newest}"
        fix = f"sudo apt-get install {package}, then export CXX={name} CC={c}"
        if allowed:
            return warning(f"{said}; -allow-unsupported-compiler was given", fix)
        return error(said, fix)
    return ok(f"{have}; nvcc {nvcc} takes {kind} up to {newest}")


def judge_script(path: str, script: bool) -> Finding:
    """A host compiler, by whether it is a script."""
    if not script:
        return ok(path)
    said = f"{path} is a script, behind which another compiler may come to stand: nothing it compiles is cached"
    return warning(said, "export CXX=PROGRAM CC=PROGRAM, the compiler that it starts")


def judge_room(place: str, free: int, *, least: int, enough: int, what: str) -> Finding:
    """Room on one file system, for something that takes about *enough* and cannot do with less than *least*."""
    said = f"{place}: {size(free)} free, {what} takes about {size(enough)}"
    if free < least:
        return error(said, FREE)
    return warning(said, FREE) if free < enough else ok(said)


def judge_memory(left: int, least: int) -> Finding:
    """Memory for at least one CUDA unit; 0 where it is not known."""
    if not left:
        return unknown("this system does not say how much memory is left")
    said = f"{size(left)} of memory available"
    if left < least:
        return warning(f"{said}; one CUDA unit takes 3 to 5 GB", "xfdev doctor --only memory says what limits it")
    return ok(said)
