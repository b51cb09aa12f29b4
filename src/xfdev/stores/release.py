"""An official wheel as a bundle: its release's sdist tells from which native inputs it was made.

Both come from the user's package index, once; what is learned is kept in the local store. Outputs are the files that
the wheel has and the sdist does not: libraries, and what the build wrote beside them.
"""

from __future__ import annotations

import tarfile
import tempfile
import time
import zipfile
from fnmatch import fnmatch
from pathlib import Path

from xfdev import needs
from xfdev.bundle import Manifest, Output, Scripts
from xfdev.checkout import blob_id
from xfdev.errors import BadBundle
from xfdev.files import sha256
from xfdev.profile import Profile


def manifest_of(wheel: Path, sdist: Path, profile: Profile, folder: Path) -> Manifest:
    """The manifest of the bundle that *wheel* is; its outputs are unpacked into *folder*.

    Raises BadBundle for a wheel or an sdist that is damaged or has no library.
    """
    try:
        contents = _sdist_files(sdist)
        with zipfile.ZipFile(wheel) as archive:
            info = next(name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name)
            metadata = {"name": info}
            outputs: dict[str, Output] = {}
            for name in archive.namelist():
                if name.endswith("/"):
                    continue
                if name.startswith(info + "/"):
                    part = name[len(info) + 1 :]
                    if part not in ("RECORD", "WHEEL", "INSTALLER", "direct_url.json"):
                        metadata[part] = archive.read(name).decode(errors="replace")
                elif name not in contents:
                    outputs[name] = _unpack(archive, name, folder)
    except (zipfile.BadZipFile, tarfile.TarError, OSError, StopIteration) as error:
        raise BadBundle(
            f"{wheel.name} or {sdist.name} is damaged",
            why="a download was cut short",
            hint="run the same command again",
            details=repr(error),
        ) from error
    libraries = [folder / name for name in outputs if needs.is_library(folder / name)]
    if not libraries:
        raise BadBundle(f"{wheel.name} brings no native library", hint="compile it: xfdev build")
    native = {path: digest for path, digest in contents.items() if any(fnmatch(path, item) for item in profile.native)}
    stem = info.removesuffix(".dist-info")
    requires = _requires_torch(metadata.get("METADATA", ""))
    found = needs.of_outputs(
        libraries, torch=requires.removeprefix("=="), python=_python(wheel.name), stable=_least(requires)
    )
    return Manifest(
        project=stem.rpartition("-")[0],
        version=stem.rpartition("-")[2],
        kind="release",
        variables={},
        watched=profile.variables,
        needs=found,
        scripts=Scripts(),
        files=native,
        submodules=profile.submodule_commits.get(stem.rpartition("-")[2], {}),
        patterns=profile.native,
        outputs=outputs,
        metadata=metadata,
        metadata_files={path: digest for path, digest in contents.items() if profile.is_metadata(path)},
        origin={
            "wheel": wheel.name,
            "wheel sha256": sha256(wheel),
            "sdist": sdist.name,
            "sdist sha256": sha256(sdist),
            "created": f"{time.time():.0f}",
        },
    )


def _unpack(archive: zipfile.ZipFile, name: str, folder: Path) -> Output:
    target = folder / name
    if name.startswith("/") or ".." in name.split("/"):
        raise BadBundle(f"the wheel has a file {name!r}, which leaves its folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(name) as source, target.open("wb") as sink:
        while chunk := source.read(1 << 20):
            sink.write(chunk)
    return Output(name, sha256(target), target.stat().st_size, 0o755 if needs.is_library(target) else 0o644)


def _sdist_files(sdist: Path) -> dict[str, str]:
    """Every file of an sdist by its path below the top folder, with its git blob id."""
    found = {}
    with tarfile.open(sdist) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isreg() else None
            # A submodule's .git that was packed by mistake is no source, and is not unpacked either.
            if stream is not None and ".git" not in member.name.split("/"):
                path, data = member.name.partition("/")[2], stream.read()
                found[path] = blob_id(data)
                if path == "setup.cfg" and data.endswith(_EGG_INFO):
                    found[path] += "|" + blob_id(data[: -len(_EGG_INFO)])
    return found


#: What setuptools appends to setup.cfg in every sdist (its command egg_info): a checkout has it without.
_EGG_INFO = b"\n[egg_info]\ntag_build = \ntag_date = 0\n\n"


def _requires_torch(metadata: str) -> str:
    """``==2.8.0`` or ``>=2.10`` of a wheel's requirement on torch, ``""`` where it has none."""
    from email.parser import HeaderParser

    from packaging.requirements import InvalidRequirement, Requirement

    for text in HeaderParser().parsestr(metadata).get_all("Requires-Dist", []):
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.name == "torch" and len(requirement.specifier) == 1:
            return str(requirement.specifier)
    return ""


def _python(wheel: str) -> str:
    """``abi3`` or ``X.Y``: what a wheel's tags say of code that calls Python (the code itself cannot tell)."""
    from packaging.utils import parse_wheel_filename

    _, _, _, tags = parse_wheel_filename(wheel)
    tag = next(iter(tags))
    if tag.abi == "abi3":
        return "abi3"
    digits = tag.interpreter.lstrip("abcdefghijklmnopqrstuvwxyz")
    return f"{digits[:1]}.{digits[1:]}"


def _least(requires: str) -> str | None:
    return requires[2:] if requires.startswith(">=") else None


def fetch(profile: Profile, version: str, folder: Path, python: Path) -> tuple[Manifest, Path]:
    """Download wheel and sdist of a release into *folder* and read them; returns manifest and outputs folder.

    Raises RequirementNotFound or SourceUnreachable.
    """
    from xfdev import index

    requirement = f"{profile.distribution}=={version}"
    wheel = index.download_wheel(requirement, folder / "wheel", python)
    sdist = index.download_sdist(requirement, folder / "sdist")
    outputs = folder / "outputs"
    outputs.mkdir()
    return manifest_of(wheel, sdist, profile, outputs), outputs


def scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="xfdev-release-")
