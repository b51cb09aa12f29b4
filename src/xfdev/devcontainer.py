"""The files of a dev container: rendered from templates, and merged with what a checkout has. Writes nothing."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from xfdev.errors import FilesInTheWay, UsageError, XfdevError
from xfdev.jsonc import Malformed, comments, same
from xfdev.jsonc import parse as parse  # for whoever reads such a file
from xfdev.jsonc_edit import updated
from xfdev.profile import RESOURCES

TEMPLATES = RESOURCES / "devcontainer"
CONFIG = "devcontainer.json"
#: What the name of an image gets for that of the bundles that go with it.
BUNDLES = "-bundles"
#: What a checkout gets; beside these the folder holds what the locks are made of.
FILES = ("Dockerfile", "Dockerfile.dockerignore", CONFIG, "post-create.sh", "private.sh", "requirements/*.txt")

_PLACEHOLDER = re.compile(r"@\{([^{}\n]*)\}")
#: What can stand in a Dockerfile, in a shell script and between quotes of either, and means itself.
_PLAIN = re.compile(r"[\w .,:;/+@%=-]*")
#: A registry reference: host and port where it has one, then lower-case names; neither tag nor digest.
_IMAGE = re.compile(r"(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*")
#: Keys with which a container is made of something else than ``build``; tools take them and leave ``build`` aside.
_RIVALS = ("image", "dockerFile", "context")


def check_image(reference: str) -> str:
    """*reference* as it is. Raises UsageError for what cannot be one, and for one with a tag or digest."""
    if not _IMAGE.fullmatch(reference):
        bare = re.sub(r"(@sha256:\w+|:[\w.-]+)$", "", reference)
        hint = f"--image {bare}" if _IMAGE.fullmatch(bare) else "for example --image ghcr.io/you/name"
        raise UsageError(f"{reference!r} is not an image's name without tag", hint=hint)
    return reference


def stores(image: str | None) -> str:
    """The value of ``XFDEV_STORES``: the user's own, else the bundles that a nightly publishes beside *image*.

    The default of a variable ends at the next colon (devcontainers/cli, variableSubstitution.ts), so a registry's port
    leaves the name alone.
    """
    if image is None:
        return "${localEnv:XFDEV_STORES}"
    return image + BUNDLES if ":" in image else f"${{localEnv:XFDEV_STORES:{image}{BUNDLES}}}"


def base_image() -> str:
    """What the image starts from."""
    data = tomllib.loads((RESOURCES / "images.toml").read_text())
    return str(data["base"])


def toolchains(folder: Path = TEMPLATES) -> list[str]:
    """The toolchains that there is a locked list of packages for."""
    return sorted(path.stem for path in folder.glob("requirements/*.txt") if path.stem != "xfdev")


def render(values: Mapping[str, str | None], folder: Path = TEMPLATES) -> dict[str, bytes]:
    """The files by their path in ``.devcontainer``, every ``@{name}`` filled in.

    Without an ``image`` there is nothing to take layers from, and ``cacheFrom`` is left out. Raises XfdevError for a
    name that *values* has nothing for, UsageError for a value that would not stand for itself where it goes.
    """
    paths = sorted({path for pattern in FILES for path in folder.glob(pattern)})
    rendered = {}
    for path in paths:
        name, text = path.relative_to(folder).as_posix(), path.read_text()
        if name == CONFIG and not values.get("image"):
            text = _without_cache(text)
        rendered[name] = _filled(text, values, name).encode()
    return rendered


def _without_cache(text: str) -> str:
    value = parse(text)
    build = {key: entry for key, entry in value.get("build", {}).items() if key != "cacheFrom"}
    return updated(text, {**value, "build": build} if "build" in value else value)


def _filled(text: str, values: Mapping[str, str | None], where: str) -> str:
    def one(found: re.Match[str]) -> str:
        name, value = found[1], values.get(found[1])
        if value is None:
            raise XfdevError(f"the template {where} wants @{{{name}}}, and there is no such value")
        if where == CONFIG:
            return json.dumps(value, ensure_ascii=False)[1:-1]
        if not _PLAIN.fullmatch(value):
            raise UsageError(
                f"{value!r} cannot be written into {where} as {name}",
                why="quotes, line ends and signs that a shell understands would mean something else there",
            )
        return value

    return _PLACEHOLDER.sub(one, text)


def merged(text: str, ours: Mapping[str, Any], where: str = CONFIG) -> str:
    """A ``devcontainer.json`` with our keys set in it; foreign keys, comments and formatting stay as they are.

    Where ours has ``build``, what else would make the container (``image``, ``dockerFile``) gives way to it.
    Raises UsageError where it cannot be read, FilesInTheWay where its container comes from docker compose.
    """
    theirs = read(text, where)
    if "build" in ours and "dockerComposeFile" in theirs:
        raise FilesInTheWay(
            f"{where} takes its container from docker compose",
            why="it has dockerComposeFile, and tools that find it never look at build",
            hint="take dockerComposeFile out, and service and runServices with it, and run the same command again",
        )
    wanted = united(theirs, ours)
    result = updated(text, wanted)
    if not same(parse(result), wanted) or comments(result) != comments(text):
        raise AssertionError(f"the merge of {where} lost something")
    return result


def read(text: str, where: str = CONFIG) -> dict[str, Any]:
    """What a ``devcontainer.json`` says. Raises UsageError."""
    try:
        value: Any = parse(text)
    except Malformed as error:
        raise UsageError(
            f"{where} is not JSON with comments: {error}",
            hint="mend it, or move it out of the way, and run the same command again",
        ) from error
    if not isinstance(value, dict):
        raise UsageError(f"{where} is no JSON object", hint="move it out of the way, and run the same command again")
    return dict(value)


def united(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Both, key by key: objects are united, lists too and without doubles, of other values ours counts."""
    rivals = _RIVALS if "build" in ours else ()
    kept = {key: value for key, value in theirs.items() if key not in rivals}
    old, new = theirs.get("build"), ours.get("build")
    if isinstance(old, dict) and isinstance(new, dict) and old.get("dockerfile") != new.get("dockerfile"):
        # A stage of another Dockerfile.
        kept["build"] = {key: value for key, value in old.items() if key != "target"}
    return dict(_united(kept, ours, ""))


def _united(theirs: Any, ours: Any, key: str) -> Any:
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        inner = {name: _united(theirs[name], value, name) if name in theirs else value for name, value in ours.items()}
        return {**theirs, **inner}
    if isinstance(theirs, list) and isinstance(ours, list):
        there = [_identity(entry, key) for entry in theirs]
        return [*theirs, *(entry for entry in ours if _identity(entry, key) not in there)]
    return ours


def _identity(entry: Any, key: str) -> str:
    """What makes two entries of a list the same one. Nothing can be mounted twice at one place, so the first stays."""
    if key == "mounts":
        if isinstance(entry, str):
            entry = dict(part.partition("=")[::2] for part in entry.split(","))
        if isinstance(entry, Mapping):
            target = next((entry[name] for name in ("target", "dst", "destination") if name in entry), None)
            if isinstance(target, str):
                return os.path.normpath(target)
    return json.dumps(entry, sort_keys=True)


def replaced(theirs: Mapping[str, Any], merge: Mapping[str, Any], above: str = "") -> list[str]:
    """The keys, as ``build.dockerfile``, whose values a merge took away."""
    found = []
    for key, value in theirs.items():
        now = merge.get(key)
        if isinstance(value, Mapping) and isinstance(now, Mapping):
            found += replaced(value, now, f"{above}{key}.")
        elif isinstance(value, list) and isinstance(now, list):
            if not same(value, now[: len(value)]):
                found.append(above + key)
        elif key not in merge or not same(value, now):
            found.append(above + key)
    return found


def gpu_arguments(*, visible: bool, runtime: bool, devices: Sequence[str]) -> list[str]:
    """The arguments of ``docker run`` that give a container the GPUs, where tools do not find out by themselves.

    Tools ask docker for a runtime called ``nvidia`` and pass ``--gpus all`` where it is registered. A machine set up
    by CDI alone has none; its *devices* (``nvidia.com/gpu=0``) are asked for by name.
    """
    cdi = any(device.startswith("nvidia.com/gpu=") for device in devices)
    return ["--device=nvidia.com/gpu=all"] if visible and not runtime and cdi else []


def git_mount(root: Path, gitdir: str, commondir: str) -> str | None:
    """The mount with which git works in the container of a worktree, which else sees this working tree alone.

    *gitdir* is what the worktree's ``.git`` file says, *commondir* what the file of that name there says. The
    repository has to appear where the ``.git`` file leads from inside: at the same path where it is absolute, else
    beside ``/workspaces/NAME``, where tools put the checkout. None for a path with a comma, which ends a mount's field,
    or with bytes that no JSON can hold.
    """
    source = os.path.normpath(os.path.join(root, gitdir, commondir))
    target = os.path.normpath(os.path.join("/workspaces", root.name, gitdir, commondir))
    both = source + target
    if "," in both or both.encode(errors="replace").decode() != both:
        return None
    return f"source={source},target={target},type=bind"
