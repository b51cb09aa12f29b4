"""What a checkout's own files say of its project, without running its build script."""

from __future__ import annotations

import re
from pathlib import Path

from xfdev import profile
from xfdev.errors import NotAnExtensionProject


def release_version(root: Path, facts: profile.Profile) -> str | None:
    """The release that a checkout descends from, as its version file says."""
    if facts.version_file is None:
        return None
    try:
        return (root / facts.version_file).read_text().strip().splitlines()[0]
    except (OSError, IndexError):
        return None


def project_name(root: Path, facts: profile.Profile) -> str:
    """The distribution's name, without running its build script."""
    if facts.distribution is not None:
        return facts.distribution
    for name, pattern in (
        ("pyproject.toml", r'^name\s*=\s*"([^"]+)"'),
        ("setup.cfg", r"^name\s*=\s*(\S+)"),
        ("PKG-INFO", r"^Name: (\S+)"),
        ("setup.py", r"""\bname\s*=\s*["']([^"']+)["']"""),
    ):
        try:
            match = re.search(pattern, (root / name).read_text(errors="replace"), re.MULTILINE)
        except OSError:
            continue
        if match:
            return match[1]
    return root.name


def normal(name: str) -> str:
    """A distribution's name in the one form in which names are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def check_project(root: Path) -> None:
    """Raise NotAnExtensionProject for a checkout that setuptools does not build."""
    if (root / "setup.py").exists():
        return
    project = root / "pyproject.toml"
    text = project.read_text(errors="replace") if project.exists() else ""
    if "ext-modules" in text and "setuptools" in text:
        return
    raise NotAnExtensionProject(
        f"{root} is not an extension project",
        why="it has no setup.py, and no pyproject.toml with ext-modules for setuptools",
        hint="give the folder that has one; a pure Python project needs only pip install -e .",
    )
