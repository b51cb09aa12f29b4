"""xfdev's own wheel, made of the installation that runs: what goes into an image is what made its files.

The same installation makes the same bytes, on every machine: fixed times, sorted names, nothing compressed (what
deflate makes differs between builds of zlib, and git and registries compress by themselves).
"""

from __future__ import annotations

import base64
import hashlib
import io
import stat
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from xfdev.errors import XfdevError

_PACKAGE = Path(__file__).parent
_WHEEL = "Wheel-Version: 1.0\nGenerator: xfdev\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def own_wheel() -> tuple[str, bytes]:
    """The file name and the contents of a wheel that installs what is running.

    Raises XfdevError where xfdev runs without being installed: nothing tells its version and what it needs.
    """
    distribution = _distribution()
    name = f"{_PACKAGE.name}-{distribution.version}"
    entries = [*_package(), *_metadata(distribution, f"{name}.dist-info")]
    record = [f"{path},sha256={_digest(data)},{len(data)}\n" for path, data, _ in entries]
    record.append(f"{name}.dist-info/RECORD,,\n")
    entries.append((f"{name}.dist-info/RECORD", "".join(record).encode(), 0o644))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for path, data, mode in entries:
            info = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, which is what makes the mode count
            info.external_attr = (stat.S_IFREG | mode) << 16
            archive.writestr(info, data)
    return f"{name}-py3-none-any.whl", stream.getvalue()


def _distribution() -> metadata.Distribution:
    # A source tree on the path brings an egg-info of its own, which lacks files and may be of another day.
    for distribution in metadata.distributions(name=_PACKAGE.name):
        if distribution.read_text("METADATA") is not None:
            return distribution
    raise XfdevError(
        "xfdev is not installed, so it cannot be put into an image",
        why="it runs from its sources; the list of what it needs is made when it is installed",
        hint="pip install -e . in its repository (or make up), and run the xfdev that comes of it",
    )


def _package() -> Iterator[tuple[str, bytes, int]]:
    """The files of the package: path in the wheel, contents, mode."""
    paths = (path for path in _PACKAGE.rglob("*") if path.is_file())
    for name, path in sorted((path.relative_to(_PACKAGE.parent).as_posix(), path) for path in paths):
        if "/__pycache__/" in name or "/." in name or name.endswith((".pyc", "~")):
            continue
        yield name, path.read_bytes(), 0o755 if path.stat().st_mode & 0o111 else 0o644


def _metadata(distribution: metadata.Distribution, folder: str) -> Iterator[tuple[str, bytes, int]]:
    """What any installation of the same release has; not how and from where this one was installed."""
    licenses = [f"licenses/{name}" for name in distribution.metadata.get_all("License-File") or ()]
    for name in ("METADATA", "entry_points.txt", *sorted(licenses)):
        text = distribution.read_text(name)
        if text is not None:
            yield f"{folder}/{name}", text.encode(), 0o644
    yield f"{folder}/WHEEL", _WHEEL.encode(), 0o644


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
