"""``nightly.toml``: what a nightly builds, and where it goes."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from xfdev.devcontainer import BUNDLES
from xfdev.errors import NoSuchPath, UsageError


@dataclass(frozen=True)
class Variant:
    """One image and the archs that bundles are compiled for in it.

    *toolchain* and *requirements* make its lock: the newest versions that *requirements* allow are written to *lock*,
    a file of the folder. Without requirements the lock is taken as it lies there. *base* is an image's name with its
    tag; it is built from by the digest that this has tonight. In *args* (as for ``docker build``) ``{repository}`` and
    ``{commit}`` are filled in. *run* is what ``docker run`` gets on top, ``--gpus=all`` for example.
    """

    name: str
    base: str = ""
    archs: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    lock: str = ""
    python: str = "3.13"
    platform: str = "manylinux_2_28_x86_64"
    args: Mapping[str, str] = field(default_factory=dict)
    run: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """*folder* has the ``.devcontainer``; *watch* are the files below it that change the image beside locks."""

    repository: str
    image: str
    variants: tuple[Variant, ...]
    branch: str = "HEAD"
    bundles: str = ""
    folder: str = "."
    watch: tuple[str, ...] = (".devcontainer",)
    default: str = ""
    commits: int = 1
    history: int = 30
    keep: int = 14
    locks: tuple[str, ...] = ()
    place: Path = Path()

    def variant(self, name: str) -> Variant:
        return next(entry for entry in self.variants if entry.name == name)


_LISTS = {"archs", "requirements", "run", "contexts", "watch", "locks"}
_NUMBERS = {"commits": 1, "history": 0, "keep": 1}
#: A variant's name is a tag, and a part of others.
_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,30}")
_TAKEN = ("latest", "nightly")


def read(path: Path, *, image: str | None = None) -> Settings:
    """The settings in *path*, with another *image* if one is given.

    Raises NoSuchPath, and UsageError naming everything that is wrong.
    """
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise NoSuchPath(f"{path} does not exist", hint="docs/how-to/nightly.md has one to begin with") from error
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="it has to be TOML") from error
    return parse({**data, "image": image} if image else data, path)


def parse(data: Mapping[str, Any], path: Path) -> Settings:
    """The settings in *data*, which stood in *path*."""
    problems: list[str] = []
    tables = data.get("variant", [])
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        problems.append("there is no [[variant]]")
        tables = []
    variants = [_filled(Variant, table, f"variant {table.get('name', '?')!r}", problems) for table in tables]
    top = _filled(Settings, {k: v for k, v in data.items() if k != "variant"}, "", problems)
    names = [str(entry.get("name", "")) for entry in variants]
    for name in names:
        if not _NAME.fullmatch(name) or name in _TAKEN:
            problems.append(f"{name!r} cannot be a variant's name: small letters, digits and _")
    if len({*names}) != len(names):
        problems.append("two variants have one name")
    if top.get("default", "") not in ("", *names):
        problems.append(f"default = {top['default']!r} is none of the variants")
    problems += [f"{name} is missing" for name in ("repository", "image") if not top.get(name)]
    for entry in variants:
        if entry.get("requirements") and not entry.get("lock"):
            problems.append(f"variant {entry.get('name')!r} has requirements and no lock to write them to")
    if problems:
        raise UsageError(f"{path}: {'; '.join(problems)}", hint="docs/how-to/nightly.md says what goes in")
    top.setdefault("bundles", top["image"] + BUNDLES)
    top.setdefault("default", names[0])
    return Settings(**top, variants=tuple(Variant(**entry) for entry in variants), place=path.parent)


def _filled(model: Any, table: Mapping[str, Any], where: str, problems: list[str]) -> dict[str, Any]:
    known = [entry.name for entry in fields(model) if entry.name not in ("place", "variants")]
    found: dict[str, Any] = {}
    for name, value in table.items():
        about = f"{where}: {name}" if where else name
        if name not in known:
            near = get_close_matches(name, known, n=1)
            problems.append(f"there is no {about}" + (f"; {near[0]!r}?" if near else ""))
        elif name in _LISTS:
            if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
                problems.append(f"{about} is no list of texts")
            found[name] = tuple(value) if isinstance(value, list) else ()
        elif name in _NUMBERS:
            if type(value) is not int or value < _NUMBERS[name]:
                problems.append(f"{about} is no whole number from {_NUMBERS[name]} on")
            found[name] = value
        elif name == "args":
            if not isinstance(value, dict) or not all(isinstance(entry, str) for entry in value.values()):
                problems.append(f"{about} is no table of texts")
            found[name] = value
        elif isinstance(value, str):
            found[name] = value
        else:
            problems.append(f"{about} is no text")
    return found
