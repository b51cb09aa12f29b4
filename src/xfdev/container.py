"""A dev container from its devcontainer.json, with plain Docker: what to build, what to run. Pure functions.

Only what our own file and common ones use of the dev container spec is here: a Dockerfile or an image, arguments,
mounts, variables, ``hostRequirements.gpu``, ``remoteUser`` and the commands of its life. The devcontainer CLI does it
all; this is for where it is missing. Labels are the same, so that each finds the other's container.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xfdev.errors import UsageError

FOLDER_LABEL, FILE_LABEL = "devcontainer.local_folder", "devcontainer.config_file"

#: What plain Docker cannot do from such a file.
_BEYOND = ("dockerComposeFile", "features")


@dataclass(frozen=True)
class Config:
    """One devcontainer.json, its variables filled in. *root* is the folder that is mounted."""

    root: Path
    file: Path
    data: Mapping[str, Any]

    @property
    def labels(self) -> list[str]:
        return [f"{FOLDER_LABEL}={self.root}", f"{FILE_LABEL}={self.file}"]

    @property
    def workspace(self) -> str:
        return str(self.data.get("workspaceFolder") or f"/workspaces/{self.root.name}")

    @property
    def user(self) -> str:
        return str(self.data.get("remoteUser") or self.data.get("containerUser") or "root")

    @property
    def tag(self) -> str:
        return f"xfdev-{_identity(self.labels)[:16]}"


def read(file: Path, root: Path, text: str, environ: Mapping[str, str]) -> Config:
    """The configuration in *text*, which stands in *file*. Raises UsageError for one that needs the CLI."""
    from xfdev.devcontainer import parse

    try:
        data = parse(text)
    except ValueError as error:
        raise UsageError(f"{file} cannot be read: {error}", hint="it has to be JSON, comments allowed") from error
    beyond = [key for key in _BEYOND if data.get(key)]
    if beyond:
        raise UsageError(
            f"{file} uses {beyond[0]}, which plain Docker knows nothing of",
            hint="npm install -g @devcontainers/cli, and run the same command again",
        )
    plain = Config(root, file, data)
    known = {
        "localWorkspaceFolder": str(root),
        "localWorkspaceFolderBasename": root.name,
        "containerWorkspaceFolder": plain.workspace,
        "containerWorkspaceFolderBasename": Path(plain.workspace).name,
        "devcontainerId": _identity(plain.labels),
    }
    return Config(root, file, _filled(data, known, environ))


def _identity(labels: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(labels).encode()).hexdigest()[:52]


#: ``${localEnv:NAME:default}``: the default ends at the next colon (devcontainers/cli, variableSubstitution.ts).
_VARIABLE = re.compile(r"\$\{(\w+)(?::([^:}]*))?(?::([^:}]*))?[^}]*\}")


def _filled(value: Any, known: Mapping[str, str], environ: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(entry, known, environ) for key, entry in value.items()}
    if isinstance(value, list):
        return [_filled(entry, known, environ) for entry in value]
    if not isinstance(value, str):
        return value

    def one(match: re.Match[str]) -> str:
        kind, name, default = match[1], match[2] or "", match[3] or ""
        if kind in ("localEnv", "env"):
            return environ.get(name, default)
        return known.get(kind, match[0])

    return _VARIABLE.sub(one, value)


def build_words(
    config: Config,
    *,
    tags: Sequence[str],
    args: Mapping[str, str] | None = None,
    cache_from: Sequence[str] | None = None,
    more: Sequence[str] = (),
) -> list[str]:
    """The ``docker buildx build`` that the configuration asks for, with *args* on top of its own and *cache_from*
    instead of its own."""
    build = config.data.get("build") or {}
    folder = config.file.parent
    context = (folder / build.get("context", ".")).resolve()
    sources = caches(config) if cache_from is None else cache_from
    words = ["docker", "buildx", "build", "-f", str(folder / build["dockerfile"])]
    for tag in tags:
        words += ["--tag", tag]
    for name, value in {**build.get("args", {}), **(args or {})}.items():
        words += ["--build-arg", f"{name}={value}"]
    if build.get("target"):
        words += ["--target", build["target"]]
    for cache in sources:
        words += ["--cache-from", cache]
    # The configuration says how an image is kept here, and that is not how it is published.
    options = [word for word in build.get("options", []) if "--output" not in more or not word.startswith("--output")]
    return [*words, *options, *more, str(context)]


def pinned(reference: str, digests: Mapping[str, str]) -> str:
    """An image's name, with its digest where *digests* has one."""
    digest = digests.get(reference)
    return f"{reference}@{digest}" if digest else reference


def caches(config: Config) -> list[str]:
    """The images whose layers the configuration's build may take."""
    own = (config.data.get("build") or {}).get("cacheFrom") or []
    return [own] if isinstance(own, str) else list(own)


def build_args(given: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Arguments as ``docker build`` takes them: ``NAME=VALUE``, or ``NAME`` for the value of that variable."""
    pairs = (text.partition("=") for text in given)
    return {name: value if equals else environ.get(name, "") for name, equals, value in pairs}


def publish_words(
    *, push: bool, contexts: Sequence[str], cache_to: str | None, sbom: str | None, provenance: bool
) -> list[str]:
    """What a build takes on top that others shall use.

    Layers are compressed with zstd, which unpacks several times as fast as gzip. The cache is a part of the image
    (``inline``) unless it has a place of its own, which holds all stages. *sbom* is a generator image, or ``""`` for
    BuildKit's own.
    """
    words = [word for context in contexts for word in ("--build-context", context)]
    if push:
        words += ["--output", "type=image,push=true,compression=zstd,oci-mediatypes=true"]
    else:
        words += ["--load"]
    if cache_to:
        words += ["--cache-to", f"type=registry,ref={cache_to},mode=max,compression=zstd,ignore-error=true"]
    else:
        words += ["--cache-to", "type=inline"]
    if sbom is not None:
        words += ["--attest", "type=sbom" + (f",generator={sbom}" if sbom else "")]
    return [*words, "--provenance", "mode=max" if provenance else "false"]


def run_words(config: Config, image: str, *, gpus: bool) -> list[str]:
    """The ``docker run`` that starts the container; what is to be run in it is executed later."""
    workspace = config.data.get("workspaceMount") or f"type=bind,source={config.root},target={config.workspace}"
    words = ["docker", "run", "--detach", "--init", "--user", "root", "--mount", workspace]
    for label in config.labels:
        words += ["--label", label]
    for mount in config.data.get("mounts", []):
        if isinstance(mount, dict):
            mount = ",".join(f"{key}={mount[key]}" for key in ("type", "source", "target") if mount.get(key))
        words += ["--mount", mount]
    for name, value in config.data.get("containerEnv", {}).items():
        words += ["--env", f"{name}={value}"]
    if gpus and "--gpus" not in config.data.get("runArgs", []):
        words += ["--gpus", "all"]
    # Whatever the image would run: the container waits for commands.
    return [
        *words, *config.data.get("runArgs", []), "--entrypoint", "/bin/sh", image, "-c",
        "while sleep 1000 & wait $!; do :; done",
    ]  # fmt: skip


def exec_words(config: Config, container: str, command: Any, *, user: str | None = None) -> list[str]:
    """The ``docker exec`` of a command as the spec has it: a line for the shell, or words."""
    words = ["docker", "exec", "--user", user or config.user, "--workdir", config.workspace]
    for name, value in config.data.get("remoteEnv", {}).items():
        if value is not None:
            words += ["--env", f"{name}={value}"]
    return [*words, container, *(command if isinstance(command, list) else ["/bin/sh", "-c", command])]


def for_podman(words: Sequence[str]) -> list[str]:
    """A docker command as Podman has it.

    Podman builds by itself, in its own cache: of a tagged ``--cache-from`` it makes an error, and images are never
    packed where they are kept. It gives GPUs by their CDI names. Source: podman-build(1) and podman-run(1) of 5.4.
    """
    rest = list(words[3:] if words[1:3] == ["buildx", "build"] else words[1:])
    said = ["podman", "build"] if words[1:3] == ["buildx", "build"] else ["podman"]
    while rest:
        word = rest.pop(0)
        if word == "--cache-from":
            rest.pop(0)
        elif word == "--gpus":
            rest.pop(0)
            said += ["--device", "nvidia.com/gpu=all"]
        elif word != "--load" and not word.startswith("--output="):
            said.append(word)
    return said


def wants_gpu(config: Config) -> bool:
    return bool((config.data.get("hostRequirements") or {}).get("gpu"))


def adopt_user(user: str, uid: int, gid: int) -> str:
    """A shell line that gives the container's *user* the numbers of the host's, as the devcontainer CLI does while it
    builds. Its home is small, and nothing else has an owner that matters."""
    return (
        f"getent passwd {uid} >/dev/null || {{ groupmod -o -g {gid} {user}; "
        f"usermod -u {uid} -g {gid} {user}; chown -R {uid}:{gid} ~{user}; }}"
    )
