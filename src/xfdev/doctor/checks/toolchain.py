"""The environment: its torch, nvcc and host compiler."""

from __future__ import annotations

from xfdev.doctor.compare import judge_compiler, judge_nvcc, judge_script
from xfdev.doctor.facts import Chain, Facts
from xfdev.doctor.finding import SEVERITY, Finding, error, not_applicable, ok, warning

_AGAIN = "xfdev up again: it finishes what is there and puts the right torch back"


def environment(facts: Facts) -> Finding:
    chain = facts.get(Chain)
    if chain.state == "finished":
        return ok(f"{chain.prefix}, toolchain {chain.toolchain}")
    if chain.state == "unfinished":
        return warning(f"{chain.prefix} is unfinished", _AGAIN)
    if chain.state == "broken":
        said = f"{chain.prefix}: its Python does not run; the one it was made with is gone or changed"
        return error(said, f"rm -r {chain.prefix}, then xfdev up again")
    if chain.state == "foreign":
        return not_applicable(f"{chain.prefix} is not of xfdev")
    return not_applicable("none yet: xfdev up makes one")


def torch(facts: Facts) -> Finding:
    chain = facts.get(Chain)
    if chain.state != "finished":
        return not_applicable("no finished environment here")
    if not chain.recorded and chain.torch is None:
        return not_applicable(f"toolchain {chain.toolchain} has no torch")
    if chain.torch != (chain.recorded or None):
        have = chain.torch or "none"
        return error(f"torch was swapped: made with {chain.recorded or 'none'}, now {have}", _AGAIN)
    if len(chain.distributions) != 1:
        found = ", ".join(chain.distributions) or "none"
        return error(f"pip sees not one torch but {len(chain.distributions)}: {found}", _AGAIN)
    (seen,) = chain.distributions
    if seen.partition("+")[0] != chain.recorded.partition("+")[0]:
        return error(f"torch is {chain.recorded}, and pip takes it for {seen}", _AGAIN)
    if chain.elsewhere:
        where = chain.elsewhere[0]
        return error(f"another torch is found first: {where}", "unset PYTHONPATH, or take that folder out of it")
    if chain.pinned != seen:
        said = f"nothing keeps torch {seen}: the constraint says {chain.pinned or 'nothing'}"
        return warning(said, _AGAIN)
    return ok(f"torch {chain.torch}, once, and pinned")


def nvcc(facts: Facts) -> Finding:
    chain = facts.get(Chain)
    if chain.state != "finished":
        return not_applicable("no finished environment here")
    return judge_nvcc(chain.nvcc, chain.cuda)


def host_compiler(facts: Facts) -> Finding:
    chain = facts.get(Chain)
    if chain.state == "unfinished":
        return not_applicable("no finished environment here")
    if chain.compiler is None:
        if chain.named:
            return error(f"CXX is {chain.named!r}, which is no program", "unset CXX")
        said = "there is no C++ compiler: prebuilt parts can be linked, nothing can be compiled"
        return warning(said, "sudo apt-get install g++")
    # Without one of its own nvcc takes this one; else torch alone has an opinion of it.
    both = [(chain.compiler, chain.unsupported_allowed or (chain.unchecked and chain.device_compiler is not None))]
    if chain.device_compiler is not None and chain.nvcc is not None:
        both.append((chain.device_compiler, chain.unsupported_allowed))
    found = [
        judge_compiler(one.path, one.version, one.kind, chain.nvcc, chain.gcc, chain.clang, allowed=allowed)
        for one, allowed in both
    ]
    found += [judge_script(one.path, one.script) for one, _ in both]
    return max(found, key=lambda finding: SEVERITY[finding.status])


def linker(facts: Facts) -> Finding:
    chain = facts.get(Chain)
    if chain.torch is None or chain.compiler is None:
        return not_applicable("nothing is linked with torch here")
    if chain.linker:
        return ok(f"{chain.linker} links what an edit compiled")
    said = "GNU's linker: 0.4 to 0.7 s of each build after an edit, where mold takes 0.1 s"
    return warning(said, "sudo apt-get install mold")
