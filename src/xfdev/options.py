"""The options: one model, from which ``--help``, the configuration files and the reference page all come.

A value is looked for on the command line, then in the environment (``XFDEV_<NAME>``), then in the checkout's
``xfdev.toml``, then in the user's ``~/.config/xfdev/config.toml``.
"""

from __future__ import annotations

import shlex
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

from xfdev.errors import UsageError

COMMAND_LINE = "command line"
#: What the lock file is called where the option lock does not say otherwise.
LOCK_FILE = "xfdev.lock"
#: Options that are several values.
LISTS = ("stores", "keys")
#: What verbs that use bundles of others take: whence, and whom to trust.
SHARED = ("stores", "signatures", "keys", "lock", "locked")
#: Options that are yes or no.
SWITCHES = ("compile_cache_write", "locked")
#: Options with a fixed set of values.
CHOICES = {"signatures": ("off", "optional", "required")}
_KINDS = {
    "jobs": "a whole number",
    "stores": "a list of texts",
    "keys": "a list of paths",
    "signatures": f"one of {', '.join(CHOICES['signatures'])}",
    "compile_cache_write": "true or false",
    "locked": "true or false",
}


def _option(text: str, flag: str = "") -> Any:
    """A field whose documentation goes with it, cheaply at hand: ``--help`` is built at every start."""
    return field(default=None, metadata={"text": text, "flag": flag})


@dataclass(frozen=True)
class Options:
    """What can be set."""

    arch: str | None = _option(
        "CUDA archs to compile for, as TORCH_CUDA_ARCH_LIST takes them: '9.0', '8.0;9.0a', '8.6+PTX', Hopper, native; "
        "also all, all-major, and auto for the GPUs here. Default: TORCH_CUDA_ARCH_LIST, else what the environment was "
        "made for, else auto."
    )
    toolchain: str | None = _option(
        "The toolchain to make an environment of: a name from toolchains.toml (cu128, cu130, cpu, ...). Default: the "
        "one that reuses most."
    )
    venv: str | None = _option("The environment's folder. Default: .venv in the checkout.")
    python: str | None = _option("The Python to make a new environment with. Default: the one that runs xfdev.")
    cache: str | None = _option(
        "The folder for bundles and compiler caches. Default: $XDG_CACHE_HOME/xfdev or ~/.cache/xfdev."
    )
    jobs: int | None = _option("At most this many compiles at once. Default: as many as CPUs and free memory allow.")

    stores: tuple[str, ...] | None = _option(
        "Repositories of registries in which bundles are looked for after this machine's own: ghcr.io/team/bundles. "
        "A list in TOML, separated by spaces in the variable, once for each on the command line.",
        flag="store",
    )
    signatures: str | None = _option(
        "Whether bundles of stores have to be signed: off; optional: one that is signed has to be by one of the keys; "
        "required. Default: required where keys are named, else off."
    )
    keys: tuple[str, ...] | None = _option(
        "Files with the public keys whose signatures count, as cosign writes them. A list in TOML, separated by spaces "
        "in the variable, once for each on the command line.",
        flag="key",
    )
    lock: str | None = _option(
        "The lock file: what it names is all that is taken from stores. Default: xfdev.lock in the checkout, where "
        "there is one."
    )
    locked: bool | None = _option(
        "Fail where there is no lock file, or it does not have what is asked for. Default: false; what it does not "
        "have is said."
    )
    compile_cache: str | None = _option(
        "A compiler cache that a team shares: a folder (/mnt/team/ccache), or a server (https://cache.example.com/x). "
        "It is read only, unless compile-cache-write is set."
    )
    compile_cache_write: bool | None = _option(
        "Whether what is compiled here goes into the team's compiler cache: true for the machine that fills it. "
        "Default: false."
    )

    sources: Mapping[str, str] = field(default_factory=dict)

    def source(self, name: str) -> str:
        """Where the value of an option came from, for messages."""
        return self.sources.get(name, "default")

    def command_line(self, *names: str) -> str:
        """Those of *names* that were given on the command line, as they have to be given again."""
        given = [name for name in names if self.source(name) == COMMAND_LINE]
        words = [
            (flag(name), value)
            for name in given
            for value in (getattr(self, name) if name in LISTS else (getattr(self, name),))
        ]
        return "".join(
            f" --{word}" + (f" {shlex.quote(str(value))}" if value is not True else "") for word, value in words
        )


def names() -> list[str]:
    return [entry.name for entry in fields(Options) if entry.name != "sources"]


def flag(name: str) -> str:
    """What an option is called on the command line."""
    given = next(entry.metadata["flag"] for entry in fields(Options) if entry.name == name)
    return given or name.replace("_", "-")


def documentation() -> dict[str, str]:
    """What each option is for."""
    return {entry.name: entry.metadata["text"] for entry in fields(Options) if "text" in entry.metadata}


def resolve(cli: Mapping[str, Any], environ: Mapping[str, str], files: list[Path]) -> Options:
    """The options from all sources, the first that has a value winning; *files* in order of precedence.

    Raises UsageError naming every value that is wrong and where it stands.
    """
    layers: list[tuple[str, Mapping[str, Any]]] = [(COMMAND_LINE, {k: v for k, v in cli.items() if v is not None})]
    layers.append((
        "environment",
        {name: environ[f"XFDEV_{name.upper()}"] for name in names() if environ.get(f"XFDEV_{name.upper()}")},
    ))  # fmt: skip
    layers += [(str(path), _read(path)) for path in files]
    problems: list[str] = []
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for where, layer in layers:
        for name, value in layer.items():
            if name not in names():
                near = get_close_matches(name, names(), n=1)
                problems.append(f"{where}: there is no option {name!r}" + (f"; {near[0]!r}?" if near else ""))
                continue
            converted = _convert(name, value)
            if converted is None:
                problems.append(f"{where}: {name} = {value!r} is not {_KINDS.get(name, 'text')}")
            elif name not in values:
                values[name], sources[name] = converted, where
    if problems:
        raise UsageError("; ".join(problems), hint=f"options are: {', '.join(names())}")
    return Options(**values, sources=sources)


def _convert(name: str, value: Any) -> Any:
    if name == "jobs":
        try:
            number = int(value)
        except (TypeError, ValueError):
            return None
        return number if number > 0 and not isinstance(value, bool) else None
    if name in LISTS:
        entries = value.split() if isinstance(value, str) else value
        whole = isinstance(entries, list | tuple) and all(isinstance(entry, str) and entry for entry in entries)
        return tuple(entries) if whole else None
    if name in SWITCHES:
        known = {"true": True, "1": True, "false": False, "0": False}
        return value if isinstance(value, bool) else known.get(str(value).lower())
    if name in CHOICES:
        return value if value in CHOICES[name] else None
    return value if isinstance(value, str) else None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text())
        return data
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="it has to be TOML: name = 'value'") from error


def config_files(root: Path | None, environ: Mapping[str, str]) -> list[Path]:
    base = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config")
    return ([root / "xfdev.toml"] if root else []) + [base / "xfdev" / "config.toml"]
