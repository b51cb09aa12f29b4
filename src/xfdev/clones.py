"""Clones: with the whole history but no old file contents, and with what a clone nearby has already."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xfdev import run
from xfdev.console import console
from xfdev.errors import CommandFailed, DubiousOwnership, RequirementNotFound, SourceUnreachable, XfdevError

# Seconds for the first answer of a server; a transfer may take as long as it moves, see http.lowSpeedTime.
ANSWER_WITHIN = 90.0

# Hooks of the user's templates do not run in a checkout that is still being made; a stalled transfer ends.
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "submodule.recurse=false",
    "advice.detachedHead=false",
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=30",
)
_SSH = "ssh -oBatchMode=yes -oConnectTimeout=20 -oServerAliveInterval=15 -oServerAliveCountMax=4"

_NETWORK = re.compile(
    r"unable to access|Could not resolve host|onnection (?:refused|reset|timed out)|too slow|early EOF|"
    r"could not read (?:Username|Password)|Authentication failed|Permission denied \(|"
    r"Could not read from remote repository|Host key verification failed|dubious ownership"
)
_LOGIN = re.compile(
    r"could not read (?:Username|Password)|Authentication failed|Permission denied \(|"
    r"Host key verification failed|returned error: 40[13]"
)
_ABSENT = re.compile(r"not found|does not exist|does not appear to be a git repository|returned error: 404")

# What git sets for its hooks: it would name another repository than ours.
_FOREIGN = {
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_WORK_TREE",
}


def git(
    words: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path,
    extra: Mapping[str, str] | None = None,
    timeout: float | None = None,
    check: bool = True,
) -> run.Completed:
    """Run git in *cwd*, never asking anything; a full disk is an OSError (see files.explained)."""
    environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8", **(extra or {})}
    argv = ["git", *(word for setting in _SETTINGS for word in ("-c", setting)), *words]
    done = run.capture(argv, cwd=cwd, env=environment, timeout=timeout, check=False)
    if not done.ok and ("No space left on device" in done.stderr or "Disk quota exceeded" in done.stderr):
        raise OSError(errno.ENOSPC, "no space left", str(cwd))
    if check and not done.ok:
        raise run.failure(done)
    return done


@dataclass(frozen=True)
class Remote:
    """What a server offers: branches and tags."""

    branches: tuple[str, ...]
    tags: tuple[str, ...]

    def has(self, ref: str) -> bool:
        return ref in self.branches or ref in self.tags

    def nearest(self, ref: str) -> list[str]:
        """Up to five names like *ref*, best first."""
        names = list(dict.fromkeys([*self.tags, *self.branches]))
        folded = {name.casefold(): name for name in names}
        close = difflib.get_close_matches(ref.casefold(), folded, n=5, cutoff=0.5)
        return [folded[name] for name in close] or names[-5:]


def ask(url: str, cwd: Path) -> Remote:
    """The branches and tags of *url*. Raises SourceUnreachable."""
    try:
        words = ["ls-remote", "--heads", "--tags", "--refs", "--", url]
        done = git(words, cwd=cwd, extra=ssh_settings(cwd), timeout=ANSWER_WITHIN, check=False)
    except CommandFailed as error:
        if "did not answer" not in str(error):
            raise
        raise unreachable(url, str(error)) from error
    if not done.ok:
        raise unreachable(url, done.stderr)
    names = [line.split("\t", 1)[1] for line in done.stdout.splitlines() if "\t" in line]
    return Remote(
        tuple(name.removeprefix("refs/heads/") for name in names if name.startswith("refs/heads/")),
        tuple(name.removeprefix("refs/tags/") for name in names if name.startswith("refs/tags/")),
    )


def clone(url: str, ref: str | None, target: Path, reference: Path | None) -> None:
    """Clone *url* into the new folder *target* and check out *ref* (branch, tag, commit; None: the default).

    No submodules. Raises SourceUnreachable, RequirementNotFound.
    """
    remote = ask(url, target.parent)
    named = ref is None or remote.has(ref)
    if ref is not None and not named and not re.fullmatch(r"[0-9a-f]{7,64}|refs/.+", ref):
        raise _no_such_ref(url, ref, remote)
    options = ["--quiet", "--no-recurse-submodules", "--origin", "origin"]
    if not named:
        options.append("--no-checkout")
    elif ref is not None:
        options += ["--branch", ref]
    _clone(url, target, options, reference)
    if ref is None or named:
        return
    if ref.startswith("refs/") or not git(["cat-file", "-e", f"{ref}^{{commit}}"], cwd=target, check=False).ok:
        # Not in any branch: servers give a commit or a pull request when asked for it by its full name.
        done = git(["fetch", "--quiet", "origin", ref], cwd=target, extra=ssh_settings(target), check=False)
        if not done.ok:
            raise _no_such_ref(url, ref, remote)
        ref = "FETCH_HEAD"
    git(["checkout", "--quiet", "--detach", ref], cwd=target, extra=ssh_settings(target))


def _clone(url: str, target: Path, options: Sequence[str], reference: Path | None) -> None:
    partial = ["--filter=blob:none"]  # all commits, and only the file contents that are checked out
    attempts = [partial, []]  # a few servers fail on a filter instead of ignoring it
    if reference is not None:
        console.info(f"taking what {reference} has already")
        attempts.insert(0, [*partial, "--reference-if-able", str(reference), "--dissociate"])
    stderr = ""
    for attempt in attempts:
        words = ["clone", *options, *attempt, "--", url, str(target)]
        done = git(words, cwd=target.parent, extra=ssh_settings(target.parent), check=False)
        if done.ok:
            return
        stderr = done.stderr
        if _NETWORK.search(stderr):
            break
        console.debug(stderr)
    raise unreachable(url, stderr)


def is_network(stderr: str) -> bool:
    """Whether git's words mean that the server cannot be used at all, so that another way is no use."""
    return _NETWORK.search(stderr) is not None


def shown(url: str) -> str:
    """*url* without a user's name and password, for messages and records."""
    return re.sub(r"(?i)^((?:git\+)?https?://)[^/@]*@", r"\1", url)


def unreachable(url: str, stderr: str) -> XfdevError:
    """The error for what git said when it could not read *url*. Pure."""
    lines = [line for line in stderr.splitlines() if line.startswith(("fatal:", "error:"))]
    lines = [line for line in lines if "Could not read from remote repository" not in line]
    last = lines[-1] if lines else (stderr.strip().splitlines() or ["git said nothing"])[-1]
    message = f"cannot read {shown(url)}: {last.removeprefix('fatal: ').removeprefix('error: ')}"
    if "dubious ownership" in stderr:
        return DubiousOwnership(
            message,
            why="that repository belongs to another user, and git does not trust it",
            hint="git config --global --add safe.directory <its folder>, if you do",
            details=stderr,
        )
    if _LOGIN.search(stderr):
        why = "it is private and git has no login for it, or there is no such repository"
        hint = f"git ls-remote {shown(url)} by hand must work without asking (credential helper, ssh-agent)"
    elif _ABSENT.search(stderr):
        why = "there is no git repository at this address"
        hint = "check the address; it is what `git clone` takes, not the page of a file or a branch"
    else:
        why = "no network, the server does not answer, or a proxy or certificate is missing"
        hint = f"try git ls-remote {shown(url)}; proxies: HTTPS_PROXY, certificates: git config http.sslCAInfo"
    return SourceUnreachable(message, why=why, hint=hint, details=stderr)


def _no_such_ref(url: str, ref: str, remote: Remote) -> XfdevError:
    names = remote.nearest(ref)
    return RequirementNotFound(
        f"{shown(url)} has no branch, tag or commit {ref}",
        why=f"the nearest names are {', '.join(names)}" if names else "it has no branches and no tags",
        hint=f"git ls-remote --heads --tags {shown(url)} lists all; a short commit must be in a branch",
    )


def ssh_settings(cwd: Path) -> dict[str, str]:
    """Make ssh fail instead of asking, unless the user has an ssh command of their own."""
    if os.environ.get("GIT_SSH_COMMAND") or os.environ.get("GIT_SSH"):
        return {}
    if git(["config", "--get", "core.sshCommand"], cwd=cwd, check=False).stdout.strip():
        return {}
    return {"GIT_SSH_COMMAND": _SSH}
