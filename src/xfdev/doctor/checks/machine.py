"""Memory, disks, caches, the clock."""

from __future__ import annotations

import shlex

from xfdev.doctor.compare import FREE
from xfdev.doctor.facts import Caches, Chain, Disks, Engine, Facts, Index, Machine, Tree
from xfdev.doctor.finding import Finding, error, not_applicable, ok, unknown, warning
from xfdev.doctor.wanted import Wanted
from xfdev.doctor.words import size, span


def memory(facts: Facts) -> Finding:
    machine, wanted = facts.get(Machine), facts.get(Wanted)
    if not machine.memory:
        return unknown("this system does not say how much memory is left")
    limit = f", a limit of {size(machine.limit)} counts" if machine.limit is not None else ""
    said = f"{size(machine.memory)} available of {size(machine.total)}{limit}"
    if machine.memory >= wanted.memory_enough:
        return ok(said)
    if machine.wsl:
        fix = "in %UserProfile%\\.wslconfig: [wsl2] and memory=12GB; then wsl --shutdown (WSL takes half by default)"
    elif machine.limit is not None:
        fix = "start the container with a higher --memory; on Docker Desktop: Settings, Resources"
    else:
        fix = "close what takes it (ps aux --sort=-rss | head); or xfdev build --jobs 1"
    short = f"{said}; one CUDA unit takes 3 to 5 GB"
    return warning(short, fix)  # to link takes next to nothing


def disk(facts: Facts) -> Finding:
    disks, wanted, chain = facts.get(Disks), facts.get(Wanted), facts.find(Chain)
    made = chain is not None and chain.state == "finished"
    said, problems = [], []
    for entry in disks.disks:
        # What a build writes; where an environment has to be made first, that.
        need = wanted.disk_enough
        if entry.what == "environment":
            need += 0 if made else wanted.environment
        names = " and ".join(other.what for other in disks.disks if other.device == entry.device)
        text = f"{entry.path} ({names}): {size(entry.free)} free"
        if entry.free < wanted.disk_least:
            problems.append((2, f"{text}, next to nothing"))
        elif entry.free < need:
            problems.append((1, f"{text}, {size(need)} are wanted"))
        elif entry.inodes is not None and entry.inodes < wanted.inodes_least:
            problems.append((1, f"{text}, but only {entry.inodes} more files"))
        else:
            said.append(text)
    if problems:
        worst, text = max(problems)
        return (error if worst == 2 else warning)(text, FREE)
    return ok(said[0]) if said else unknown("no file system could be asked")


def caches(facts: Facts) -> Finding:
    found, wanted = facts.get(Caches), facts.get(Wanted)
    if not found.sizes:
        return not_applicable("none yet")
    total = sum(count for _, _, count, _ in found.sizes)
    text = ", ".join(f"{name} {'' if whole else 'at least '}{size(count)}" for name, _, count, whole in found.sizes)
    if total > wanted.caches_large:
        folder = max(found.sizes, key=lambda entry: entry[2])[1]
        fix = f"xfdev bundle prune --max-age 30d --max-size 5GB; the largest: du -sh {shlex.quote(folder)}"
        return warning(text, fix)
    if not all(whole for *_, whole in found.sizes):
        return unknown(f"{text}: there was no time to count all")
    return ok(text)


def clock(facts: Facts) -> Finding:
    """This machine's clock against others; a file system of its own is no witness."""
    wanted = facts.get(Wanted)
    engine, index, tree = facts.find(Engine), facts.find(Index), facts.find(Tree)
    others = [
        ("the package index", index.skew if index else None),
        ("the container engine", engine.skew if engine and not engine.local else None),
    ]
    known = [(who, skew) for who, skew in others if skew is not None]
    fix = "sudo timedatectl set-ntp true; in WSL: sudo hwclock -s"
    for who, skew in sorted(known, key=lambda entry: -abs(entry[1])):
        if abs(skew) > wanted.clock_warning:
            said = f"{who} is {span(skew)} {'ahead of' if skew > 0 else 'behind'} this machine"
            return (error if abs(skew) > wanted.clock_error else warning)(said, fix)
    if tree is not None and tree.commit_age is not None and tree.commit_age < -wanted.clock_error:
        return warning(f"the commit that is checked out is {span(tree.commit_age)} in the future", fix)
    if known:
        return ok(f"{known[0][0]} agrees within {span(max(abs(known[0][1]), 1))}")
    return unknown("nothing here to compare with", "xfdev doctor --network asks the package index")
