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


def _option(text: str) -> Any:
    """A field whose documentation goes with it, cheaply at hand: ``--help`` is built at every start."""
    return field(default=None, metadata={"text": text})


@dataclass(frozen=True)
class Options:
    """What can be set."""

    arch: str | None = _option(
        "CUDA archs to compile for, as TORCH_CUDA_ARCH_LIST takes them: '9.0', '8.0;9.0a', '8.6+PTX'. Default: "
        "TORCH_CUDA_ARCH_LIST, else what the environment was made for, else the GPUs of this machine."
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

    sources: Mapping[str, str] = field(default_factory=dict)

    def source(self, name: str) -> str:
        """Where the value of an option came from, for messages."""
        return self.sources.get(name, "default")

    def command_line(self, *names: str) -> str:
        """Those of *names* that were given on the command line, as they have to be given again."""
        given = [name for name in names if self.source(name) == COMMAND_LINE]
        return "".join(f" --{name} {shlex.quote(str(getattr(self, name)))}" for name in given)


def names() -> list[str]:
    return [entry.name for entry in fields(Options) if entry.name != "sources"]


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
                problems.append(f"{where}: {name} = {value!r} is not {'a whole number' if name == 'jobs' else 'text'}")
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
