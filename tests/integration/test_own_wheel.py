"""The wheel that xfdev makes of itself, installed by pip."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import xfdev
from xfdev import own_wheel
from xfdev.errors import XfdevError


def python(*words: str | Path, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, env={**os.environ, **variables}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    name, content = own_wheel.own_wheel()
    path = tmp_path_factory.mktemp("wheel") / name
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    python("-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", target, wheel)
    return target


def test_the_archive_is_sound(wheel: Path) -> None:
    assert wheel.name == f"xfdev-{xfdev.__version__}-py3-none-any.whl"
    assert "Done testing" in python("-m", "zipfile", "-t", wheel)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert len(set(names)) == len(names)
    assert not [name for name in names if "__pycache__" in name or "direct_url" in name or name.endswith(".pyc")]
    # All of the package, whatever kind of file it is.
    folder = Path(xfdev.__file__).parent
    there = {path.relative_to(folder.parent).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {name for name in there if "__pycache__" not in name and "/." not in name} == {
        name for name in names if name.startswith("xfdev/")
    }


def test_pip_installs_what_is_running(installed: Path) -> None:
    code = "import xfdev, sys; print(xfdev.__file__); from xfdev import cli; sys.exit(cli.main(['--version']))"
    said = python("-c", code, PYTHONPATH=str(installed), PYTHONSAFEPATH="1").splitlines()
    assert said == [str(installed / "xfdev" / "__init__.py"), f"xfdev {xfdev.__version__}"]
    folder = Path(xfdev.__file__).parent
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            copy = installed / "xfdev" / path.relative_to(folder)
            assert copy.read_bytes() == path.read_bytes()
            assert bool(copy.stat().st_mode & 0o111) == bool(path.stat().st_mode & 0o111), path
    assert (installed / "bin" / "xfdev").exists()


def test_pip_finds_every_file_as_recorded(installed: Path) -> None:
    """``pip check`` and ``pip uninstall`` go by RECORD; so does ``importlib.metadata``."""
    from importlib import metadata

    (found,) = metadata.distributions(name="xfdev", path=[str(installed)])
    assert found.version == xfdev.__version__
    assert {entry.name for entry in found.entry_points} == {"xfdev"}
    assert any("packaging" in line for line in found.requires or ())
    assert (installed / f"xfdev-{xfdev.__version__}.dist-info" / "licenses" / "LICENSE").exists()
    files = found.files or []
    assert len(files) > 50
    for file in files:
        if file.hash is not None and file.parts[0] == "xfdev" and "__pycache__" not in file.parts:
            assert file.read_binary() == (installed / file).read_bytes()
            assert file.size == (installed / file).stat().st_size


def test_another_installation_makes_the_same_bytes(installed: Path, wheel: Path) -> None:
    """This one is editable (or whatever the tests run in), that one is a normal one, of this very wheel."""
    code = (
        "import sys, hashlib; from xfdev.own_wheel import own_wheel; name, content = own_wheel();"
        "print(sys.modules['xfdev'].__file__, name, hashlib.sha256(content).hexdigest())"
    )
    digest = python(
        "-c", "import sys, hashlib; print(hashlib.sha256(open(sys.argv[1],'rb').read()).hexdigest())", wheel
    )
    for zone in ("UTC", "Asia/Tokyo"):
        said = python("-c", code, PYTHONPATH=str(installed), PYTHONSAFEPATH="1", TZ=zone).split()
        assert said == [str(installed / "xfdev" / "__init__.py"), wheel.name, digest.strip()]


def test_sources_that_are_not_installed(tmp_path: Path) -> None:
    code = "from xfdev.own_wheel import own_wheel; own_wheel()"
    source = Path(xfdev.__file__).parents[1]
    # -S: without site-packages, where the installation is.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(source), "PATH": os.environ["PATH"]},
    )
    assert done.returncode == 1
    assert f"{XfdevError.__name__}: xfdev is not installed" in done.stderr
