"""The container engine that ``.ci/engine start`` has started, and what the tests give to the builds in it."""

from __future__ import annotations

import configparser
import io
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: The environment as the tests were started with: later on, fixtures take variables named XFDEV_* out of it.
STARTED_WITH = dict(os.environ)

#: Where Debian's ca-certificates expects the certificates that a machine trusts beside Mozilla's.
OWN_CERTIFICATES = Path("/usr/local/share/ca-certificates")

#: What pip has to know of a machine's network. Its other settings name files that no container has.
_PIP_KEYS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout")

_SECRETS = {"ca": "XFDEV_BUILD_CA", "pip": "XFDEV_BUILD_PIP_CONF", "apt": "XFDEV_BUILD_APT"}
_MARK = "xfdev-test"
_ACCEPT = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        *("oci.image.index.v1", "oci.image.manifest.v1"),
        *("docker.distribution.manifest.list.v2", "docker.distribution.manifest.v2"),
    )
)


class Missing(Exception):
    """A part of the engine is not there; says which."""


@dataclass(frozen=True)
class Engine:
    """A Docker engine with a registry and two base images. What a test makes is called ``name("...")``, lies in a
    ``folder(...)``, or carries ``label``; it is removed when the tests end."""

    env: dict[str, str]
    registry: str
    base12: str
    base13: str
    #: The process whose tests these are: several may use one engine at a time.
    owner: int = field(default_factory=os.getpid)

    def docker(
        self, *words: str | Path, check: bool = True, timeout: float = 900, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return self._run("docker", *words, check=check, timeout=timeout, cwd=cwd)

    def devcontainer(
        self, *words: str | Path, check: bool = True, timeout: float = 900, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return self._run("devcontainer", *words, check=check, timeout=timeout, cwd=cwd)

    def up(self, folder: Path, *words: str | Path) -> dict[str, Any]:
        """``devcontainer up`` in a ``folder(...)``; what it says at its end, as ``containerId``."""
        assert is_leftover(str(folder), self.owner), f"what is made from {folder} would stay"
        done = self.devcontainer("up", "--workspace-folder", folder, *words)
        last: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return last

    def name(self, word: str) -> str:
        """A name for a container, image, volume or network."""
        return f"{_MARK}-p{self.owner}-{word}"

    def folder(self, parent: Path, word: str) -> Path:
        """A new workspace folder. Its name is in the label of its dev container, and in the name of its image."""
        made = parent / self.name(word)
        made.mkdir()
        return made

    def pushed(self, word: str) -> str:
        """The name of an image in the registry; it is removed there too."""
        return f"{self.registry}/{self.name(word)}"

    @property
    def label(self) -> str:
        return f"{_MARK}=p{self.owner}"

    def secrets(self) -> list[str]:
        """The words that give ``docker build`` what this machine's network needs; none on most machines."""
        return [
            word
            for key, variable in _SECRETS.items()
            if variable in self.env
            for word in ("--secret", f"id={key},env={variable}")
        ]

    def _run(
        self, *words: str | Path, check: bool, timeout: float, cwd: Path | None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            list(map(str, words)),
            env=self.env,
            cwd=cwd,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if check:
            said = f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
            assert done.returncode == 0, f"{' '.join(map(str, words))}: exit status {done.returncode}\n{said}"
        return done

    def clean(self) -> None:
        """Remove what these tests have made, and what tests have left that were killed."""
        labelled = ("--filter", f"label={self.label}")
        self._remove(("rm", "-fv"), ("ps", "-a", "--no-trunc"), "{{.ID}}\t{{.Names}}\t{{.Labels}}")
        self._remove(("image", "rm", "-f"), ("image", "ls"), "{{.Repository}}:{{.Tag}}\t{{.Repository}}")
        self._remove(("image", "rm", "-f"), ("image", "ls", *labelled), f"{{{{.ID}}}}\t{self.label}")
        self._remove(("volume", "rm", "-f"), ("volume", "ls"), "{{.Name}}\t{{.Name}}\t{{.Labels}}")
        self._remove(("network", "rm", "-f"), ("network", "ls"), "{{.ID}}\t{{.Name}}\t{{.Labels}}")
        found = self._ask("/v2/_catalog?n=1000")[0].get("repositories") or []
        for repository in found:
            if is_leftover(repository, self.owner):
                self._unpush(repository)

    def _remove(self, removal: tuple[str, ...], listing: tuple[str, ...], form: str) -> None:
        """Remove what *listing* shows in *form*: what to remove, then names that tell whose it is."""
        rows = [line.split("\t") for line in self.docker(*listing, "--format", form).stdout.splitlines()]
        if gone := [row[0] for row in rows if any(is_leftover(words, self.owner) for words in row[1:])]:
            self.docker(*removal, *gone, check=False)

    def _unpush(self, repository: str) -> None:
        for tag in self._ask(f"/v2/{repository}/tags/list")[0].get("tags") or []:
            digest = self._ask(f"/v2/{repository}/manifests/{tag}", "HEAD")[1].get("Docker-Content-Digest")
            if digest:
                self._ask(f"/v2/{repository}/manifests/{digest}", "DELETE")

    def layers(self, image: str, tag: str) -> dict[str, int]:
        """The layers of a pushed image, as the registry has them: their digests and sizes in bytes."""
        return {layer["digest"]: layer["size"] for layer in self._manifest(image, tag)["layers"]}

    def unpacked(self, image: str, tag: str) -> list[str]:
        """The digests of a pushed image's layers as they are unpacked."""
        config = self._manifest(image, tag)["config"]["digest"]
        found = self._ask(f"/v2/{image.removeprefix(f'{self.registry}/')}/blobs/{config}")[0]
        return list(found["rootfs"]["diff_ids"])

    def _manifest(self, image: str, tag: str) -> dict[str, Any]:
        repository = image.removeprefix(f"{self.registry}/")
        manifest = self._ask(f"/v2/{repository}/manifests/{tag}")[0]
        if "manifests" in manifest:  # the image's own, beside its provenance
            (only,) = (m["digest"] for m in manifest["manifests"] if m["platform"]["os"] != "unknown")
            manifest = self._ask(f"/v2/{repository}/manifests/{only}")[0]
        return manifest

    def _ask(self, path: str, method: str = "GET") -> tuple[dict[str, Any], Mapping[str, str]]:
        """What the registry answers, empty where it has no such thing; and the headers of its answer."""
        request = urllib.request.Request(f"http://{self.registry}{path}", method=method, headers={"Accept": _ACCEPT})
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
                text = answer.read()
                return (json.loads(text) if text else {}), answer.headers
        except urllib.error.HTTPError as error:
            if error.code not in (404, 405):
                raise
            return {}, {}


def is_leftover(words: str, owner: int) -> bool:
    """Whether the name or label belongs to tests that end now (*owner*), or whose process is no longer there."""
    for number in re.findall(rf"\b{_MARK}[-=](?:p(\d+)\b)?", words):
        if not number or int(number) == owner or not os.path.exists(f"/proc/{number}"):
            return True
    return False


def find(environ: Mapping[str, str]) -> Engine:
    """The engine that *environ* names; raises Missing, with the reason."""
    how = "make one with .ci/engine start FOLDER and export what it prints"
    for program in ("docker", "devcontainer"):
        if shutil.which(program, path=environ.get("PATH")) is None:
            raise Missing(f"{program} is not installed: {how}")
    registry, base12, base13 = (
        environ.get(f"XFDEV_TEST_{name}", "") for name in ("REGISTRY", "BASE_DEBIAN12", "BASE_DEBIAN13")
    )
    if not (registry and base12 and base13):
        raise Missing(f"there is no registry for tests: {how}")
    engine = Engine({**without_own(environ), **build_secrets(environ)}, registry, base12, base13)
    try:
        done = engine.docker("version", "--format", "{{.Server.Version}}", check=False, timeout=60)
    except subprocess.TimeoutExpired:
        raise Missing("the Docker engine does not answer within a minute") from None
    if done.returncode:
        raise Missing(f"no Docker engine answers ({done.stderr.strip()}): {how}")
    try:
        engine._ask("/v2/")
    except OSError as error:
        raise Missing(f"the registry {engine.registry} does not answer ({error}): {how}") from None
    return engine


def without_own(environ: Mapping[str, str]) -> dict[str, str]:
    """*environ* without the settings of xfdev that a developer may have."""
    return {name: value for name, value in environ.items() if not name.startswith("XFDEV_")}


def build_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """What a build in a container needs to reach package indexes from this machine, as the variables that builds take
    as secrets; given ones win. Most machines need nothing."""
    # All certificates of a machine are too much: an environment string ends at 128 KiB.
    made = {"ca": certificates(OWN_CERTIFICATES), "pip": pip_conf(_pip_settings(environ)), "apt": ""}
    found = {variable: environ.get(variable) or made[key] for key, variable in _SECRETS.items()}
    return {variable: text for variable, text in found.items() if text}


def certificates(folder: Path) -> str:
    return "".join(path.read_text().strip() + "\n" for path in sorted(folder.glob("**/*.crt")))


def pip_conf(settings: Iterable[str]) -> str:
    """The pip.conf for a container, from lines of ``pip config list``: ``global.index-url='https://...'``."""
    kept = {}
    for line in settings:
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        urls = [word for word in value.strip("'\"").split() if not word.startswith(("file:", "/"))]
        if section in ("global", "install", "download", ":env:") and name in _PIP_KEYS and urls:
            kept[name] = " ".join(urls)
    if not kept:
        return ""
    parser = configparser.RawConfigParser()
    parser["global"] = kept
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


def _pip_settings(environ: Mapping[str, str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], env=dict(environ), capture_output=True, text=True
    )
    return done.stdout.splitlines()
