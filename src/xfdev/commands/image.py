"""``xfdev image``"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xfdev import container, make_venv, profile
from xfdev import run as running
from xfdev.commands import engine
from xfdev.console import console, duration, size
from xfdev.errors import CommandFailed

EXAMPLE = "xfdev image build --tag registry.example.com/team/project-dev:cu130 --push"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    environment = actions.add_parser(
        "environment", help="inside an image build: make xfdev's environment of a virtual environment that has torch"
    )
    environment.add_argument("prefix", help="the virtual environment")
    environment.add_argument("--toolchain", metavar="NAME", required=True, help="what it was filled with")
    build = actions.add_parser("build", help="build the image of a folder's .devcontainer, and push it")
    build.add_argument("path", nargs="?", default=".", help="the folder (default: this one)")
    build.add_argument("--tag", metavar="REF", action="append", required=True, help="its name; may be given again")
    build.add_argument("--push", action="store_true", help="to the registry that the name says, with its build cache")
    build.add_argument("--build-arg", metavar="NAME=VALUE", action="append", default=[], help="as for docker build")
    build.add_argument("--build-context", metavar="NAME=PATH", action="append", default=[], help="as for docker build")
    build.add_argument("--cache-from", metavar="REF", action="append", default=[], help="an image to reuse layers of")
    build.add_argument(
        "--cache-to", metavar="REF", help="where all layers go, those of stages too (default: with the image)"
    )
    build.add_argument(
        "--sbom", metavar="GENERATOR", nargs="?", const="", help="attach a list of what is inside, made by that image"
    )
    build.add_argument("--no-provenance", action="store_true", help="do not attach how it was built")
    inspect = actions.add_parser("inspect", help="what an image says it holds")
    inspect.add_argument("image", help="its name")
    for action in (environment, build, inspect):
        for flags in (("--json",), ("-v", "--verbose"), ("-q", "--quiet")):
            action.add_argument(*flags, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    if args.action == "environment":
        return _environment(Path(args.prefix), args.toolchain, environ)
    if args.action == "build":
        return _build(args, environ)
    return _inspect(args.image, environ)


def _build(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    started = time.monotonic()
    root = Path(args.path).resolve()
    file = engine.find(root)
    engine.require(environ)
    config = container.read(file, root, file.read_text(), environ)
    words = container.build_words(
        config,
        tags=args.tag,
        args=container.build_args(args.build_arg, environ),
        # The build cache of the name that is built is looked at first.
        cache_from=list(
            dict.fromkeys([*([args.tag[0]] if args.push else []), *args.cache_from, *container.caches(config)])
        ),
        more=container.publish_words(
            push=args.push,
            contexts=args.build_context,
            cache_to=args.cache_to,
            sbom=args.sbom,
            provenance=not args.no_provenance,
        ),
    )
    # All that carries a time gets that of the commit: the same commit makes the same bytes.
    dated = running.capture(["git", "-C", root, "log", "-1", "--format=%ct"], env=environ, check=False).stdout.strip()
    with console.step(f"building {args.tag[0]}"):
        status = running.live(words, env={"SOURCE_DATE_EPOCH": dated or "0", **environ})
    if status:
        raise CommandFailed(
            f"the image cannot be {'built and pushed' if args.push else 'built'}",
            why="the step that failed is the last one above that says ERROR",
            hint="fix it and run the same command again; finished layers are kept",
        )
    seconds = time.monotonic() - started
    return {
        "tags": args.tag,
        "pushed": args.push,
        "elapsed": seconds,
        "lines": [f"{args.tag[0]}: {'pushed' if args.push else 'built'}, {duration(seconds)}"],
    }


def _inspect(name: str, environ: Mapping[str, str]) -> Mapping[str, Any]:
    engine.require(environ)
    done = running.capture(["docker", "image", "inspect", name], env=environ, check=False)
    if not done.ok:
        raise CommandFailed(
            f"this machine has no image {name}",
            why="only what was built or pulled here can be looked into",
            hint=f"docker pull {name}",
            details=done.stderr,
        )
    said = json.loads(done.stdout)[0]
    labels = {key: value for key, value in (said["Config"].get("Labels") or {}).items() if "xfdev" in key}
    lines = [f"{name}: {size(said['Size'])}, {len(said['RootFS']['Layers'])} layers"]
    return {
        "image": name,
        "id": said["Id"],
        "bytes": said["Size"],
        "labels": labels,
        "lines": lines + [f"  {key}: {value}" for key, value in sorted(labels.items())],
    }


def _environment(prefix: Path, name: str, environ: Mapping[str, str]) -> Mapping[str, Any]:
    """One environment serves every project: each one's build classes, and no project's variables."""
    (prefix / "xfdev").mkdir(exist_ok=True)
    (prefix / "xfdev" / "toolchain").write_text(name)
    classes = {name: None for facts in profile.profiles().values() for name in facts.build_classes}
    environment = make_venv.finish(
        prefix, profile.toolchain_entry(name), environ=environ, arch="", variables={}, build_classes=tuple(classes)
    )
    shutil.copyfile(profile.RESOURCES / "shell.bash", prefix / "xfdev" / "shell.bash")
    return {
        "prefix": str(prefix),
        "toolchain": name,
        "torch": environment.torch,
        "lines": [f"{prefix}: toolchain {name}, torch {environment.torch}"],
    }
