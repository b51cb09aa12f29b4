"""The editable install of a checkout: metadata in the environment that every tool understands (PEP 660)."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from xfdev.bundle import Manifest
from xfdev.console import console
from xfdev.errors import BadBundle
from xfdev.files import explained, locked, read_json
from xfdev.venv import Environment


def editable_wheel(root: Path, manifest: Manifest, modules: Mapping[str, str]) -> tuple[str, bytes, dict[str, bytes]]:
    """A PEP 660 wheel for the checkout: its file name, its bytes, and the extra metadata of an editable install.

    *modules* are texts of modules by name, the first of which every Python of the environment imports at its start.
    """
    import io
    import json
    import zipfile

    metadata = dict(manifest.metadata)
    info = metadata.pop("name")
    stem = info.removesuffix(".dist-info")
    name = stem.rpartition("-")[0]
    files = {
        f"__editable__.{stem}.pth": f"{root / manifest.source_root}\n".replace("/\n", "\n"),
        **_modules(modules),
        **{f"{info}/{path}": text for path, text in metadata.items()},
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: xfdev\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},{_record_hash(text)},{len(text.encode())}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    direct_url = {"url": root.as_uri(), "dir_info": {"editable": True}}
    extra = {"INSTALLER": b"xfdev\n", "direct_url.json": json.dumps(direct_url).encode()}
    return f"{name}-{stem.rpartition('-')[2]}-py3-none-any.whl", buffer.getvalue(), extra


def _modules(modules: Mapping[str, str]) -> dict[str, str]:
    """The files of *modules* in site-packages. Those that only name a path stay apart: tools read them."""
    return {
        **{f"{name}.py": text for name, text in modules.items()},
        **{f"{name}.pth": f"import {name}\n" for name in list(modules)[:1]},
    }


def _record_hash(text: str) -> str:
    import base64

    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def installed(environment: Environment, manifest: Manifest, root: Path, modules: Mapping[str, str]) -> bool:
    """Whether the environment has this very editable install already."""
    info = environment.site_packages / manifest.metadata["name"]
    url = read_json(info / "direct_url.json")
    if not isinstance(url, dict) or url.get("url") != root.as_uri() or not url.get("dir_info", {}).get("editable"):
        return False
    stem = manifest.metadata["name"].removesuffix(".dist-info")
    pth = environment.site_packages / f"__editable__.{stem}.pth"
    try:
        return (
            (info / "METADATA").read_text() == manifest.metadata["METADATA"]
            and pth.read_text().strip() == str(root / manifest.source_root).rstrip("/")
            and (info / "RECORD").exists()  # it is written last, and pip needs it to uninstall
            and len(distributions(environment, manifest)) == 1
            and all((environment.site_packages / path).read_text() == text for path, text in _modules(modules).items())
        )
    except (OSError, KeyError):
        return False


def installed_files(manifest: Manifest, modules: Iterable[str]) -> list[str]:
    """The files in site-packages by which ``installed`` tells, for *modules* of these names."""
    info = manifest.metadata["name"]
    pth = f"__editable__.{info.removesuffix('.dist-info')}.pth"
    own = _modules(dict.fromkeys(modules, ""))
    return [*(f"{info}/{name}" for name in ("direct_url.json", "METADATA", "RECORD")), pth, *own]


def distributions(environment: Environment, manifest: Manifest) -> list[Path]:
    """The ``.dist-info`` folders of this project in the environment, of whatever version."""
    wanted = _normal(manifest.metadata["name"].removesuffix(".dist-info").rpartition("-")[0])
    with os.scandir(environment.site_packages) as entries:
        return [
            Path(entry.path)
            for entry in entries
            if entry.name.endswith(".dist-info")
            and _normal(entry.name.removesuffix(".dist-info").rpartition("-")[0]) == wanted
        ]


def _normal(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def install(
    environment: Environment, manifest: Manifest, root: Path, environ: Mapping[str, str], modules: Mapping[str, str]
) -> None:
    """Make the checkout an editable install of the environment, in place of any other install of the project.

    *modules*: see ``editable_wheel``.
    """
    if "name" not in manifest.metadata:
        raise BadBundle("the bundle has no packaging metadata", hint="xfdev build makes it from the checkout")
    if installed(environment, manifest, root, modules):
        return
    # Checkouts may share an environment: the last one has it, but never half of each.
    with locked(environment.tools / "lock", str(environment.prefix), wait=60.0):
        uninstall(environment, manifest, environ)
        _install(environment, manifest, root, modules)


def _install(environment: Environment, manifest: Manifest, root: Path, modules: Mapping[str, str]) -> None:
    import io
    import zipfile

    from installer import install as install_wheel
    from installer.destinations import SchemeDictionaryDestination
    from installer.sources import WheelFile

    name, data, extra = editable_wheel(root, manifest, modules)
    site = str(environment.site_packages)
    scheme = {
        "purelib": site,
        "platlib": site,
        "scripts": str(environment.prefix / "bin"),
        "data": str(environment.prefix),
        "headers": str(environment.prefix / "include"),
    }
    destination = SchemeDictionaryDestination(
        scheme, interpreter=str(environment.interpreter), script_kind="posix", overwrite_existing=True
    )
    archive = zipfile.ZipFile(io.BytesIO(data))
    # The class reads the file's name off its archive, to tell distribution and version.
    archive.filename = name
    with explained(site):
        install_wheel(WheelFile(archive), destination, additional_metadata=extra)


def uninstall(environment: Environment, manifest: Manifest, environ: Mapping[str, str]) -> None:
    """Remove every install of the project from the environment: our own at once, others with pip (which takes a
    second to start)."""
    for info in distributions(environment, manifest):
        # What a killed install left: pip refuses to uninstall that.
        if not (info / "RECORD").exists() or not (info / "METADATA").exists():
            with explained(str(info)):
                (info.parent / f"__editable__.{info.name.removesuffix('.dist-info')}.pth").unlink(missing_ok=True)
                shutil.rmtree(info)
    found = distributions(environment, manifest)
    foreign = [info for info in found if not _remove_own(environment, info)]
    if not foreign:
        return
    import sys

    from xfdev import run

    name = manifest.metadata["name"].removesuffix(".dist-info").rpartition("-")[0]
    pip = [sys.executable, "-m", "pip", "--python", str(environment.interpreter), "--disable-pip-version-check"]
    run.capture([*pip, "uninstall", "-q", "-y", name], env=environ)
    console.debug(f"removed the earlier install of {name}")


def _remove_own(environment: Environment, info: Path) -> bool:
    """Remove an install that ``install`` made, by its RECORD; whether *info* was one."""
    try:
        if (info / "INSTALLER").read_text().strip() != "xfdev":
            return False
        names = [line.rsplit(",", 2)[0] for line in (info / "RECORD").read_text().splitlines()]
    except OSError:
        return False
    site = environment.site_packages
    for name in names:
        if not name.startswith("/") and ".." not in name.split("/"):
            (site / name).unlink(missing_ok=True)
        if name.endswith(".py") and "/" not in name:
            for cached in (site / "__pycache__").glob(f"{name.removesuffix('.py')}.*.pyc"):
                cached.unlink(missing_ok=True)
    shutil.rmtree(info)
    return True
