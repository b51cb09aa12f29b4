"""What ``xfdev up`` is given: a folder, a git URL or a requirement, and how it becomes a checkout."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement
from packaging.requirements import Requirement as ParsedRequirement
from packaging.utils import InvalidSdistFilename, canonicalize_name, parse_sdist_filename
from packaging.version import InvalidVersion, Version

from xfdev import arrivals, clones, index, neighbours, sdist, submodules
from xfdev.console import console
from xfdev.errors import NoSuchPath, UsageError, XfdevError

FORMS = "a folder (./project), a git URL (https://host/owner/name.git@ref) or a release (name==version)"

_SCHEMES = ("https", "http", "ssh", "git", "file")
_SCHEME = re.compile(r"(?:git\+)?([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_SCP = re.compile(r"(?:git\+)?([A-Za-z0-9_][\w.-]*@[A-Za-z0-9][\w.-]*):(?!//)(.+)")
_BAD_REF = re.compile(r"^-|^/|/$|\.\.|//|@\{|[\s~^:?*\[\\\x00-\x1f\x7f]|\.lock$|\.$")


@dataclass(frozen=True)
class LocalPath:
    """A folder of this machine, absolute but not resolved."""

    path: Path


@dataclass(frozen=True)
class GitUrl:
    """What ``git clone`` takes, and the branch, tag or commit wanted (the default branch when None)."""

    url: str
    ref: str | None = None

    @property
    def name(self) -> str:
        """The folder's name that ``git clone`` would choose."""
        path = self.url.rstrip("/").removesuffix("/.git").rstrip("/")
        return re.split(r"[/:]", path)[-1].removesuffix(".git")


@dataclass(frozen=True)
class Requirement:
    """A project of the package index (normalised name) and its release (the newest when None)."""

    name: str
    version: str | None = None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}=={self.version}"


Source = LocalPath | GitUrl | Requirement


def parse(text: str, cwd: Path) -> Source:
    """What the user means by *text*. Raises UsageError.

    A URL is a git URL; what exists below *cwd*, contains a separator or starts with a dot is a path; everything
    else must be a requirement.
    """
    text = text.strip()
    if not text or re.search(r"[\x00-\x1f\x7f]", text):
        raise _usage(text, "it is empty or has control characters in it")
    if (scheme := _SCHEME.match(text)) or _SCP.fullmatch(text):
        if scheme and scheme.group(1).lower() not in _SCHEMES:
            raise _usage(text, f"{scheme.group(1)}:// is none of {', '.join(f'{s}://' for s in _SCHEMES)}")
        return _git_url(text)
    path = cwd / os.path.expanduser(text)  # unlike Path.expanduser, raises nothing for a user that nobody knows
    if _exists(path):
        return LocalPath(path)
    if re.match(r"[\w-]+(\.[\w-]+)*\.(com|org|net|io|dev)/[^/]+/", text):
        raise _usage(text, f"there is no such folder; as a git URL it is https://{text}")
    if ("/" in text and " @ " not in text) or text.startswith((".", "~")):
        return LocalPath(path)
    return _requirement(text)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long for a name
        return False


def _git_url(text: str) -> GitUrl:
    url = text.removeprefix("git+")
    if "#" in url or re.search(r"\s", url):
        raise _usage(text, "a git URL has no spaces and nothing after '#'")
    if scp := _SCP.fullmatch(url):
        start = scp.start(2)
    else:
        authority = url.index("://") + 3
        start = url.find("/", authority) + 1 or len(url)
    path, ref = _split_ref(url[start:])
    if not path.strip("/"):
        raise _usage(text, "this URL names a server, not a repository")
    if path.endswith((".whl", ".tar.gz", ".zip")):
        raise _usage(text, "this URL names an archive, not a git repository")
    if ref is not None and (not ref or _BAD_REF.search(ref)):
        raise _usage(text, f"{ref!r} after the last '@' cannot be a branch, a tag or a commit (write %40 for an @)")
    found = GitUrl(url[:start] + path, ref)
    if found.name in ("", ".", ".."):
        raise _usage(text, "this URL's last part is no name for a folder")
    return found


def _split_ref(path: str) -> tuple[str, str | None]:
    """A URL's path and the reference behind its last ``@``; behind ``.git@`` where it has that."""
    if ".git@" in path:
        before, _, ref = path.partition(".git@")
        return f"{before}.git", ref
    before, at, ref = path.rpartition("@")
    return (before, ref) if at else (path, None)


def _requirement(text: str) -> Requirement:
    try:
        parsed = ParsedRequirement(text)
    except InvalidRequirement:
        why = "there is no such file or folder here, and it is no requirement"
        if re.search(r"[\w.-]=[\w.]", text) and "==" not in text:
            why += "; a release is pinned with =="
        elif "@" in text:
            why += "; '@' goes with a git URL"
        raise _usage(text, why) from None
    if parsed.url:
        raise _usage(text, "'@' goes with a git URL, which is given without the name before it")
    if parsed.extras or parsed.marker:
        raise _usage(text, "extras and markers make no difference to the sources; leave them out")
    pins = list(parsed.specifier)
    if not pins:
        return Requirement(canonicalize_name(parsed.name))
    if len(pins) != 1 or pins[0].operator != "==" or pins[0].version.endswith(".*"):
        raise _usage(text, "one release is pinned with ==; without a version it is the newest one")
    return Requirement(canonicalize_name(parsed.name), str(Version(pins[0].version)))


def _usage(text: str, why: str) -> UsageError:
    return UsageError(f"cannot tell what {clones.shown(text)!r} is", why=why, hint=f"give {FORMS}")


def obtain(source: Source, destination: Path | None, *, submodules: Sequence[str] = (), cwd: Path) -> Path:
    """Make *source* a checkout in *destination* (None: a folder of its name in *cwd*); return its root.

    A folder is returned as it is. What is there already from the same source is kept, with the user's edits.
    Only the *submodules* named are checked out. An interrupted run leaves nothing that counts as a checkout.
    """
    target = None if destination is None else cwd / destination
    match source:
        case LocalPath(path):
            return _folder(path)
        case GitUrl():
            return _clone(source, target or cwd / source.name, submodules, cwd)
        case Requirement():
            return _release(source, target, cwd)


def _folder(path: Path) -> Path:
    if not _exists(path):
        raise NoSuchPath(
            f"{path} does not exist",
            why="the path is misspelt, or relative to another folder",
            hint=f"give {FORMS}",
        )
    if not path.is_dir():
        raise UsageError(f"{path} is a file", why="xfdev works on checkouts", hint="give the folder it is in")
    return path.resolve()


def _clone(source: GitUrl, target: Path, wanted: Sequence[str], cwd: Path) -> Path:
    origin = arrivals.Origin(clones.shown(source.url), source.ref)
    if arrivals.is_there(target, origin):
        return target.resolve()
    with arrivals.workspace(target) as work:
        near = neighbours.nearby(source.url, (target.parent.resolve(), cwd.resolve()))
        with console.step(f"cloning {clones.shown(source.url)}"):
            clones.clone(source.url, source.ref, work / "checkout", near)
        submodules.obtain(work / "checkout", wanted, near)
        return arrivals.settle(work / "checkout", target, origin)


def _release(source: Requirement, target: Path | None, cwd: Path) -> Path:
    if target is None and source.version is not None:
        target = cwd / f"{source.name}-{source.version}"
    if target is not None and source.version and arrivals.is_there(target, arrivals.Origin(str(source))):
        return target.resolve()
    if source.version is None:
        console.info(f"no version given: taking the newest release of {source.name}")
    with arrivals.workspace(target or cwd / source.name) as work:
        with console.step(f"downloading the source release of {source}"):
            archive = index.download_sdist(str(source), work / "download")
        version = source.version or _version(archive)
        label = f"{source.name} {version}"
        target = target or cwd / f"{source.name}-{version}"
        origin = arrivals.Origin(f"{source.name}=={version}")
        if source.version is None and arrivals.is_there(target, origin):
            return target.resolve()
        with console.step(f"unpacking {archive.name}"):
            unpacked = sdist.unpack(archive, work / "unpacked")
            sdist.commit(unpacked.root, f"{label}, as released on the package index", unpacked.newest)
        return arrivals.settle(unpacked.root, target, origin)


def _version(archive: Path) -> str:
    try:
        return str(parse_sdist_filename(archive.name)[1])
    except (InvalidSdistFilename, InvalidVersion) as error:
        raise XfdevError(
            f"cannot tell the version of {archive.name}",
            why="its name does not follow the packaging standards",
            hint="pin the release with ==",
        ) from error
