"""``xfdev init``"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xfdev import __version__, devcontainer, editor_tasks, gpu, profile, project, targets
from xfdev import run as processes
from xfdev.checkout import Checkout, open_checkout
from xfdev.cli import add_options
from xfdev.commands import engine
from xfdev.commands.session import resolve_options
from xfdev.console import console
from xfdev.errors import CommandFailed, FilesInTheWay, UsageError
from xfdev.file_changes import Change, diff, existing, write
from xfdev.options import Options
from xfdev.own_wheel import own_wheel

EXAMPLE = "xfdev init ~/src/project"

FOLDER = ".devcontainer"
_CONFIG = f"{FOLDER}/{devcontainer.CONFIG}"
_AT_ROOT = ".devcontainer.json"
_DOCKER_ANSWERS_WITHIN = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", default=".", help="the checkout (default: this folder)")
    parser.add_argument("--image", metavar="REF", help="an image to take layers from, without tag (default: none)")
    parser.add_argument("--yes", action="store_true", help="change files that are there without asking")
    parser.add_argument(
        "--tasks",
        action="store_true",
        help=f"write {editor_tasks.PLACE} instead: VS Code's tasks that build, with problem matchers for g++ and nvcc",
    )
    add_options(parser, "arch", "toolchain")


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    checkout = open_checkout(Path(args.path), environ)
    root = checkout.root
    project.check_project(root)
    if args.tasks:
        return _tasks(root, args)
    wheel, content = own_wheel()
    chosen = resolve_options(args, root, environ)
    rendered = devcontainer.render(_values(root, chosen, args.image, wheel, environ))
    extra, notes = _of_this_machine(root, environ)
    config, replaced, more = _config(root, rendered.pop(devcontainer.CONFIG).decode(), extra)
    changes = [*config, *_others(root, {**rendered, wheel: content}, wheel)]
    notes += more
    given = chosen.command_line("arch", "toolchain") + (f" --image {args.image}" if args.image else "")
    _agree(changes, args, given)
    write(root, [change for change in changes if change.what != "unchanged"])
    notes += _ignored(checkout, [change.path for change in changes if change.after is not None])
    return {
        "checkout": str(root),
        "files": {change.path: change.what for change in changes},
        "replaced": replaced,
        "notes": notes,
        "lines": _lines(root, changes, replaced, notes),
    }


def _tasks(root: Path, args: argparse.Namespace) -> Mapping[str, Any]:
    before = existing(root, editor_tasks.PLACE)
    try:
        after = editor_tasks.merged(None if before is None else before.decode())
    except UnicodeDecodeError as error:
        raise UsageError(f"{editor_tasks.PLACE} is not UTF-8: {error}", hint="save it as UTF-8") from error
    change = Change(editor_tasks.PLACE, before, after.encode())
    _agree([change], args, " --tasks")
    if change.what != "unchanged":
        write(root, [change])
    line = (
        f"{change.what} {change.path}" if change.what != "unchanged" else f"nothing to do: {change.path} is up to date"
    )
    return {"checkout": str(root), "files": {change.path: change.what}, "lines": [line]}


def _values(
    root: Path, chosen: Options, image: str | None, wheel: str, environ: Mapping[str, str]
) -> dict[str, str | None]:
    facts = profile.of_checkout(root)
    name = chosen.toolchain or facts.toolchain_for("compile", project.release_version(root, facts))
    entry, locked = profile.toolchain_entry(name), devcontainer.toolchains()
    if name not in locked:
        raise UsageError(
            f"there is no image of toolchain {name}",
            why="the packages of an image are pinned by digest, and nobody did that for this one",
            hint=f"give --toolchain, one of: {', '.join(locked)}",
        )
    return {
        # A folder may be called anything; this is a title.
        "name": re.sub(r"[^\w .+-]", "-", project.project_name(root, facts)),
        "version": __version__,
        "wheel": wheel,
        "base_image": devcontainer.base_image(),
        "toolchain": name,
        "arch": targets.asked_archs(chosen.arch or "", entry, environ) if entry.cuda else "",
        "image": devcontainer.check_image(image) if image else None,
        "stores": devcontainer.stores(image or None),
        "first_build": facts.repository or "",
        "first_build_variable": facts.first_build_variable,
        "fork_variable": facts.fork_variable,
    }


# --- what this machine needs in the file


def _of_this_machine(root: Path, environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Keys for this checkout on this machine, and what to say about them."""
    mounts, about_git = _git(root)
    arguments, about_gpu = _gpu(environ)
    return {**mounts, **arguments}, about_git + about_gpu


def _git(root: Path) -> tuple[dict[str, Any], list[str]]:
    file = root / ".git"
    if not file.is_file():
        return {}, []
    gitdir = os.fsdecode(file.read_bytes()).removeprefix("gitdir: ").rstrip("\n")
    common = root / gitdir / "commondir"
    if not common.exists() and not os.path.isabs(gitdir):
        return {}, ["this checkout is a submodule: git does not work in its container; open the one it is part of"]
    commondir = os.fsdecode(common.read_bytes()).rstrip("\n") if common.exists() else ""
    mount = devcontainer.git_mount(root, gitdir, commondir)
    if mount is None:
        return {}, ["git does not work in the container: no mount can be written for the path of its repository"]
    return {"mounts": [mount]}, [
        "the repository of this worktree lies elsewhere; it is mounted, so that git works in the container. "
        f"{_CONFIG} is for this machine then: do not commit it"
    ]


def _gpu(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    if not gpu.visible_archs(environ):
        return {}, []
    known = _docker(environ)
    if known is None:
        return {}, []
    runtime, devices = known
    arguments = devcontainer.gpu_arguments(visible=True, runtime=runtime, devices=devices)
    if arguments:
        return {"runArgs": arguments}, [
            f"docker knows this machine's GPU by CDI; {_CONFIG} asks for it by name, and starts only where it is there"
        ]
    if not runtime:
        return {}, ["docker cannot give this machine's GPU to a container: install nvidia-container-toolkit for that"]
    return {}, []


def _docker(environ: Mapping[str, str]) -> tuple[bool, list[str]] | None:
    """Whether the runtime ``nvidia`` is registered, and the CDI devices; None where no docker answers."""
    try:
        argv = ["docker", "info", "--format", "{{json .}}"]
        said = processes.capture(argv, env=environ, timeout=_DOCKER_ANSWERS_WITHIN, check=False)
        info = json.loads(said.stdout)
    except (CommandFailed, ValueError):
        return None
    if not said.ok or not isinstance(info, dict):
        return None
    devices = [str(entry.get("ID")) for entry in info.get("DiscoveredDevices") or ()]
    if engine.cdi(info.get("CDISpecDirs") or ()):  # before Docker 28.2 it says only where they are described
        devices.append("nvidia.com/gpu=all")
    return "nvidia" in (info.get("Runtimes") or {}), devices


# --- what becomes of each file


def _config(root: Path, text: str, extra: Mapping[str, Any]) -> tuple[list[Change], list[str], list[str]]:
    """What becomes of devcontainer.json, the keys of it that lose their values, and what to say."""
    text = devcontainer.merged(text, extra) if extra else text
    before, at_root = existing(root, _CONFIG), existing(root, _AT_ROOT)
    if before is None and at_root is None:
        return [Change(_CONFIG, None, text.encode())], [], []
    place, data = (_AT_ROOT, at_root) if before is None else (_CONFIG, before)
    try:
        theirs = (data or b"").decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{place} is not UTF-8: {error}", hint="save it as UTF-8, and run it again") from error
    result = devcontainer.merged(theirs, devcontainer.read(text), place)
    replaced = devcontainer.replaced(devcontainer.read(theirs), devcontainer.read(result))
    if before is None:
        note = f"{_AT_ROOT} moved to {_CONFIG}: tools take one place or the other where both have a file"
        return [Change(_CONFIG, data, result.encode(), _AT_ROOT)], replaced, [note]
    notes = []
    if at_root is not None:
        notes.append(f"{_AT_ROOT} is there too: the devcontainer CLI does not look at it, VS Code asks; remove it")
    return [Change(_CONFIG, before, result.encode())], replaced, notes


def _others(root: Path, contents: Mapping[str, bytes], wheel: str) -> list[Change]:
    changes = [Change(f"{FOLDER}/{name}", existing(root, f"{FOLDER}/{name}"), data) for name, data in contents.items()]
    pattern = f"{wheel.partition('-')[0]}-*-py3-none-any.whl"
    for path in sorted((root / FOLDER).glob(pattern)):
        if path.name != wheel:  # the image takes every wheel of that pattern
            changes.append(Change(f"{FOLDER}/{path.name}", path.read_bytes(), None))
    return changes


# --- asking, writing, telling


def _agree(changes: Sequence[Change], args: argparse.Namespace, given: str) -> None:
    """Raise FilesInTheWay unless nothing that is there changes, or somebody agrees to it."""
    touched = [change for change in changes if change.before is not None and change.what != "unchanged"]
    if not touched or args.yes:
        return
    shown = "\n".join(diff(change) for change in touched)
    names = ", ".join(change.was or change.path for change in touched)
    hint = f"xfdev init {shlex.quote(args.path)}{given} --yes changes what the diff shows"
    if not args.json:
        console.info(shown)
        if console.interactive and sys.stdin.isatty():
            sys.stderr.write(f"change {names}? [y/N] ")
            sys.stderr.flush()
            if sys.stdin.readline().strip().lower() in ("y", "yes"):
                return
            raise FilesInTheWay("nothing was written", why="the answer was no", hint=hint)
    raise FilesInTheWay(
        f"files that are there would change, so nothing was written: {names}",
        why="they differ from what xfdev writes, and there was nobody to ask",
        hint=hint,
        details=shown if args.json else "",
    )


def _ignored(checkout: Checkout, paths: Sequence[str]) -> list[str]:
    said = checkout.git("check-ignore", "--", *paths, check=False).splitlines()
    if not said or len(said) == len(paths):  # all of the folder: somebody means it
        return []
    return [f"git ignores {', '.join(said)}: commit it with git add -f, or others cannot build the image"]


def _lines(root: Path, changes: Sequence[Change], replaced: Sequence[str], notes: Sequence[str]) -> list[str]:
    where = shlex.quote(str(root.relative_to(Path.cwd()) if root.is_relative_to(Path.cwd()) else root))
    done = [f"{change.what} {change.path}" for change in changes if change.what != "unchanged"]
    return [
        *(done or [f"nothing to do: {FOLDER} is up to date"]),
        *([f"replaced in {devcontainer.CONFIG}: {', '.join(replaced)}"] if replaced else []),
        *notes,
        f'next: code {where}, then "Reopen in Container"; or devcontainer up --workspace-folder {where}',
    ]
