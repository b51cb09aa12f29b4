"""The checkout: git, its submodules, where it lies and whose it is."""

from __future__ import annotations

import shlex

from xfdev.doctor.facts import Facts, Machine, Mount, Owners, Tree, Unseen
from xfdev.doctor.finding import Finding, Repair, error, not_applicable, ok, unknown, warning
from xfdev.doctor.wanted import Wanted
from xfdev.doctor.words import size, span


def _no_tree(tree: Tree) -> Finding | None:
    if tree.git == "none":
        return not_applicable(f"{tree.root} is not in a git working tree")
    if tree.git == "failed":
        raise Unseen(tree.said)
    return None


def ownership(facts: Facts) -> Finding:
    tree = facts.get(Tree)
    if tree.git == "refused":
        words = ("git", "config", "--global", "--add", "safe.directory", tree.root)
        return error(f"git refuses {tree.root}: it belongs to another user", shlex.join(words), Repair(words))
    return _no_tree(tree) or ok(f"git works in {tree.root}")


def submodules(facts: Facts) -> Finding:
    tree = facts.get(Tree)
    none = _no_tree(tree)
    if none:
        return none
    if tree.git == "refused":
        return unknown("git refuses this checkout")
    if not tree.submodules:
        return not_applicable("a compile needs none")
    marks = {mark: [path for path, now in tree.submodules if now == mark] for mark in "-+U"}
    at = ("git", "-C", tree.root, "submodule", "update", "--init")
    if marks["U"]:
        return error(f"in a merge conflict: {', '.join(marks['U'])}", f"git -C {shlex.quote(tree.root)} status")
    if marks["-"]:
        words = (*at, "--depth", "1", "--", *marks["-"])
        said = f"not checked out: {', '.join(marks['-'])}; a link needs none, a compile fetches them"
        return warning(said, shlex.join(words), Repair(words))
    if marks["+"]:
        # Somebody may mean it: shown, never done.
        said = f"at another commit than this checkout records: {', '.join(marks['+'])}"
        return warning(said, f"if that is not meant: {shlex.join((*at, '--', *marks['+']))}")
    return ok(f"checked out as recorded: {', '.join(path for path, _ in tree.submodules)}")


def worktree(facts: Facts) -> Finding:
    tree = facts.get(Tree)
    if not tree.worktree:
        return _no_tree(tree) or not_applicable("a plain clone")
    if not tree.repository_there:
        said = f"a worktree whose repository {tree.repository} is not here"
        return error(said, "in a container: xfdev init in the worktree, on the host, adds the mount; or open the clone")
    if tree.configured and not tree.mounted:
        said = f"a worktree of {tree.repository}, which its dev container does not get: git does not work there"
        return warning(said, f"xfdev init {shlex.quote(tree.root)}")
    return ok(f"a worktree of {tree.repository}")


def locks(facts: Facts) -> Finding:
    tree, wanted = facts.get(Tree), facts.get(Wanted)
    stale = [lock for lock in tree.locks if lock.age >= wanted.lock_age and not lock.held]
    if stale:
        said = ", ".join(f"{lock.path} ({span(lock.age)} old)" for lock in stale)
        fixes = [Repair(remove=lock.path, identity=lock.identity) for lock in stale]
        return warning(f"left by a process that is gone: {said}", "; ".join(map(str, fixes)), *fixes)
    if tree.locks:
        return ok(f"in use: {', '.join(lock.path for lock in tree.locks)}")
    return ok("none is left over")


def mount(facts: Facts) -> Finding:
    found, wanted, machine = facts.get(Mount), facts.get(Wanted), facts.get(Machine)
    if found.read_only:
        said = f"{found.path} is mounted read-only; a link writes into the checkout"
        return error(said, f"sudo mount -o remount,rw {shlex.quote(found.point)}; or work on a clone")
    if found.files is None or found.speed is None:
        return unknown(f"{found.system}, its speed could not be measured: {found.said}")
    measured = f"{found.system}, {found.files:.0f} files/s, {size(found.speed)}/s"
    slow = found.files < wanted.files_per_second or found.speed < wanted.bytes_per_second
    shared = found.system in wanted.shared_systems or found.system.startswith("fuse.")
    if slow:
        if machine.wsl and shared:
            fix = f"move the clone into Linux: git clone {shlex.quote(found.path)} ~/"
        elif shared:
            fix = "put the clone on a volume or a disk of the machine that compiles; caches and .venv first"
        else:
            fix = "put the clone on a faster disk; iostat -x 1 shows what keeps this one busy"
        return warning(f"{measured}: slow" + (", it is shared from another machine" if shared else ""), fix)
    return ok(measured + (" (shared from another machine)" if shared else ""))


def clock_files(facts: Facts) -> Finding:
    found, wanted = facts.get(Mount), facts.get(Wanted)
    if found.skew is None:
        return unknown(f"no file could be written: {found.said}")
    if abs(found.skew) > wanted.clock_files:
        ahead = "ahead of" if found.skew > 0 else "behind"
        said = (
            f"a file written now is {span(found.skew)} {ahead} this machine's clock: compiles repeat, or are left out"
        )
        return warning(said, "set both clocks: timedatectl set-ntp true, here and on the machine that has the files")
    return ok(f"a file written now has the time of now, within {span(max(abs(found.skew), 0.1))}")


def owners(facts: Facts) -> Finding:
    found, none = facts.get(Owners), _no_tree(facts.get(Tree))
    if none:  # of a folder that is none, such as /tmp, the files may be anybody's
        return none
    folder = shlex.quote(found.path)
    if found.closed:
        mine = f"sudo chown -R {found.uid}:{found.gid} {folder}"
        said = f"{found.closed} of {found.looked} files cannot be written by user {found.uid}, first {found.example}"
        return error(said, mine)
    if found.foreign:
        said = f"{found.foreign} of {found.looked} files are not of user {found.owner}, first {found.example}"
        return warning(said, f"sudo chown -R {found.owner} {folder}")
    if found.looked == 0:
        return unknown(f"{found.path} could not be read")
    whose = "this user's" if found.owner == found.uid else f"user {found.owner}'s"
    return ok(f"{found.looked} files, all {whose}")
