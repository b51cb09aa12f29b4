"""Checkouts out of real git repositories, a folder of releases, and loopback servers that misbehave."""

from __future__ import annotations

import http.server
import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from xfdev import arrivals, sources
from xfdev.errors import (
    Busy,
    DiskFull,
    NoSuchPath,
    NotAnExtensionProject,
    ReadOnlyCheckout,
    RequirementNotFound,
    SourceUnreachable,
    UsageError,
)
from xfdev.index import download_sdist

SRC = Path(sources.__file__).parents[1]


def missing(reason: str) -> None:
    """Skip, or fail where everything has to be there."""
    if os.environ.get("XFDEV_REQUIRE"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in [name for name in os.environ if name.startswith(("GIT_", "XDG_"))]:
        monkeypatch.delenv(name)
    settings = {"protocol.file.allow": "always", "user.name": "A", "user.email": "a@b", "safe.directory": "*"}
    monkeypatch.setenv("GIT_CONFIG_COUNT", str(len(settings)))
    for number, (key, value) in enumerate(settings.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", key)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def repository(folder: Path, commits: int = 3) -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    for number in range(commits):
        (folder / "file").write_text(f"{number}\n")
        git(folder, "add", ".")
        git(folder, "commit", "-q", "-m", str(number))
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a tag, a branch and three submodules, one of which has a submodule itself."""
    inner = repository(tmp_path / "srv" / "inner")
    for name in ("one", "two", "three"):
        repository(tmp_path / "srv" / name)
    git(tmp_path / "srv" / "one", "submodule", "add", "-q", f"file://{inner}", "inner")
    git(tmp_path / "srv" / "one", "commit", "-q", "-m", "inner")
    main = repository(tmp_path / "srv" / "project")
    git(main, "tag", "v1", "HEAD~1")
    git(main, "branch", "feature/x", "HEAD~2")
    for name in ("one", "two", "three"):
        git(main, "submodule", "add", "-q", f"file://{tmp_path / 'srv' / name}", f"third_party/{name}")
    git(main, "commit", "-q", "-m", "submodules")
    # The submodules move on: what is needed is no branch's tip any more.
    for name in ("one", "two"):
        (tmp_path / "srv" / name / "file").write_text("later\n")
        git(tmp_path / "srv" / name, "commit", "-q", "-am", "later")
    return main


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def up(text: str, cwd: Path, destination: Path | None = None, submodules: tuple[str, ...] = ()) -> Path:
    return sources.obtain(sources.parse(text, cwd), destination, submodules=submodules, cwd=cwd)


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_folder_is_left_alone(work: Path) -> None:
    (work / "here").mkdir()
    (work / "link").symlink_to("here")
    assert up("link", work) == (work / "here").resolve()
    assert list((work / "here").iterdir()) == []
    with pytest.raises(NoSuchPath):
        up("./nowhere", work)
    (work / "file").touch()
    with pytest.raises(UsageError):
        up("file", work)


@pytest.mark.parametrize("filters", [True, False])
def test_a_clone(project: Path, work: Path, filters: bool) -> None:
    if filters:
        git(project, "config", "uploadpack.allowFilter", "true")
        git(project, "config", "uploadpack.allowAnySHA1InWant", "true")
    made = up(f"file://{project}", work, submodules=("third_party/one", "third_party/two", "not/there"))
    assert made == work / "project"
    assert git(made, "rev-list", "--count", "HEAD") == "4"
    assert (git(made, "rev-list", "--objects", "--all", "--missing=print").count("?") > 0) == filters
    assert git(made, "symbolic-ref", "--short", "HEAD") == "main"
    assert (made / "third_party/one/file").read_text() == "2\n"
    assert (made / "third_party/two/file").read_text() == "2\n"
    assert git(made / "third_party/one", "rev-list", "--count", "HEAD") in ("1", "4")
    assert not list((made / "third_party/one/inner").iterdir())
    assert not list((made / "third_party/three").iterdir())
    assert git(made, "status", "--porcelain") == ""
    assert arrivals.recorded(made) == arrivals.Origin(f"file://{project}")
    assert hidden(work) == []


def test_references(project: Path, work: Path) -> None:
    url = f"file://{project}"
    orphan = git(project, "commit-tree", "-m", "orphan", "HEAD^{tree}")
    git(project, "update-ref", "refs/pull/7/head", orphan)
    for ref, commit in {
        "v1": "v1",
        "feature/x": "feature/x",
        git(project, "rev-parse", "HEAD~2"): "HEAD~2",
        git(project, "rev-parse", "--short=9", "HEAD~1"): "HEAD~1",
        "refs/pull/7/head": orphan,
        orphan: orphan,
    }.items():
        made = up(f"{url}@{ref}", work, Path(f"at-{ref.replace('/', '-')}"))
        assert git(made, "rev-parse", "HEAD") == git(project, "rev-parse", commit)
    for ref in ("v2", "Feature/y", "0123456789", "refs/pull/8/head"):
        with pytest.raises(RequirementNotFound) as caught:
            up(f"{url}@{ref}", work, Path("none"))
        assert "v1" in caught.value.why or "feature/x" in caught.value.why
    assert not (work / "none").exists()
    assert hidden(work) == []


def test_again(project: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"file://{project}"
    made = up(f"{url}@v1", work)
    (made / "file").write_text("edited\n")
    project.rename(project.with_name("gone"))  # nothing is asked any more
    assert up(f"{url}@v1", work) == made
    assert up(url, work) == made
    assert (made / "file").read_text() == "edited\n"
    assert "with your edits" in capsys.readouterr().err
    with pytest.raises(UsageError, match="not at feature/x"):
        up(f"{url}@feature/x", work)
    with pytest.raises(UsageError, match="holds file://"):
        up("file:///srv/other", work, Path("project"))


def test_what_is_in_the_way(project: Path, work: Path) -> None:
    (work / "project").mkdir()
    (work / "project" / "mine").touch()
    with pytest.raises(UsageError, match="exists already"):
        up(f"file://{project}", work)
    assert [path.name for path in (work / "project").iterdir()] == ["mine"]
    (work / "empty").mkdir()
    assert (up(f"file://{project}", work, Path("empty")) / "file").exists()
    made = up(f"file://{project}", work, Path("new/below"))
    assert made == work / "new/below"


def test_a_clone_of_the_users_own(project: Path, work: Path) -> None:
    git(work, "clone", "-q", f"file://{project}", "project")
    assert up(f"file://{project}@main", work) == work / "project"
    assert not (work / "project" / ".xfdev").exists()
    with pytest.raises(UsageError, match="not at v1"):
        up(f"file://{project}@v1", work)
    git(work / "project", "checkout", "-q", "v1")
    assert up(f"file://{project}@v1", work) == work / "project"


def test_a_clone_nearby_is_used(project: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"file://{project}"
    up(url, work, Path("first"), ("third_party/one", "third_party/two"))
    for name in ("one", "two"):  # the submodules' servers are gone: only the clone nearby has them
        (project.parent / name).rename(project.parent / f"{name}-gone")
    second = up(url, work, Path("second"), ("third_party/one", "third_party/two"))
    assert "has already" in capsys.readouterr().err
    assert not (second / ".git/objects/info/alternates").exists()
    assert (second / "third_party/two/file").read_text() == "2\n"
    assert git(second, "config", "submodule.third_party/two.url") == f"file://{project.parent / 'two'}"
    assert git(second / "third_party/two", "remote", "get-url", "origin") == f"file://{project.parent / 'two'}"
    assert git(second, "status", "--porcelain") == ""
    subprocess.run(["rm", "-rf", str(work / "first")], check=True)
    git(second, "fsck", "--connectivity-only")


def test_hooks_of_templates_do_not_run(project: Path, work: Path, tmp_path: Path) -> None:
    hooks = tmp_path / "template" / "hooks"
    hooks.mkdir(parents=True)
    (hooks / "post-checkout").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (hooks / "post-checkout").chmod(0o755)
    (tmp_path / "home" / ".gitconfig").write_text(f"[init]\n templateDir = {tmp_path}/template\n")
    made = up(f"file://{project}", work, submodules=("third_party/one",))
    assert not (tmp_path / "ran").exists()
    assert (made / ".git/hooks/post-checkout").exists()


def test_nothing_there(work: Path) -> None:
    with pytest.raises(SourceUnreachable) as caught:
        up(f"file://{work}/nowhere", work)
    assert "no git repository" in caught.value.why
    assert hidden(work) == []


def test_a_folder_that_cannot_be_written(project: Path, work: Path) -> None:
    with pytest.raises(ReadOnlyCheckout):  # not even root makes folders there
        up(f"file://{project}", work, Path("/sys/xfdev"))


def test_a_full_disk(project: Path, work: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'fatal: write error: No space left on device' >&2\nexit 128\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    with pytest.raises(DiskFull):
        up(f"file://{project}", work)
    assert list(work.iterdir()) == []


def test_two_at_once(project: Path, work: Path) -> None:
    with arrivals.workspace(work / "project"), pytest.raises(Busy):
        up(f"file://{project}", work)
    assert up(f"file://{project}", work) == work / "project"


PROGRAM = """
import sys
from pathlib import Path
from xfdev import sources
cwd = Path.cwd()
sources.obtain(sources.parse(sys.argv[1], cwd), None, submodules=sys.argv[2:], cwd=cwd)
"""


RUNNING = ".project.xfdev-partial/run-*/checkout"
MOMENTS = [
    "*",  # as soon as there is anything
    ".project.xfdev-partial/lock",
    RUNNING,
    f"{RUNNING}/.git/HEAD",
    f"{RUNNING}/file",
    f"{RUNNING}/.git/modules",
    f"{RUNNING}/third_party/one/file",
    f"{RUNNING}/.xfdev",
    "project",
]


@pytest.mark.parametrize("group", [True, False], ids=["with git", "git goes on"])
def test_killed_and_run_again(project: Path, work: Path, group: bool) -> None:
    command = [sys.executable, "-c", PROGRAM, f"file://{project}", "third_party/one"]
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    target = work / "project"
    unfinished = 0
    for number, moment in enumerate(MOMENTS):
        process = subprocess.Popen(
            command, cwd=work, env=environment, start_new_session=True, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not any(work.glob(moment)):
            time.sleep(0.001)
        if process.poll() is None:
            (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        if target.exists():  # whole or not at all
            assert (target / "third_party/one/file").read_text() == "2\n"
            assert arrivals.recorded(target) is not None
            target.rename(work / f"done-{number}")
        else:
            unfinished += 1
    assert unfinished >= 4
    made = up(f"file://{project}", work, submodules=("third_party/one",))
    assert (made / "third_party/one/file").read_text() == "2\n"
    assert git(made, "status", "--porcelain") == ""
    # What a git that went on had left is removed by the run after it.
    time.sleep(0.5)
    target.rename(work / "last")
    up(f"file://{project}", work)
    assert hidden(work) == []


def sdist(folder: Path, name: str = "tiny", version: str = "1.0", backend: str = "setuptools.build_meta") -> Path:
    """A release whose setup.py says so when it runs."""
    contents = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "setup.py": "raise SystemExit('code of the project ran')\n",
        "pyproject.toml": f'[build-system]\nrequires = ["torch"]\nbuild-backend = "{backend}"\n',
        ".gitignore": "*.cu\n",
        "kernel.cu": "// released although ignored\n",
    }
    if not backend:
        del contents["pyproject.toml"]
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for file, text in contents.items():
            info = tarfile.TarInfo(f"{name}-{version}/{file}")
            info.size, info.mtime = len(text), 1_700_000_000
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "releases"))
    (tmp_path / "releases").mkdir()
    return tmp_path / "releases"


@pytest.mark.parametrize("backend", ["setuptools.build_meta", "setuptools.build_meta:__legacy__", ""])
def test_a_release(releases: Path, work: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sdist(releases, version="0.9")
    archive = sdist(releases, backend=backend)
    monkeypatch.setenv("PIP_ONLY_BINARY", ":all:")  # of no concern to sources
    made = up("tiny==1.0", work)
    assert made == work / "tiny-1.0"
    assert sorted(git(made, "ls-files").split()) == sorted(
        ["PKG-INFO", "setup.py", ".gitignore", "kernel.cu", *(["pyproject.toml"] if backend else [])]
    )
    assert git(made, "status", "--porcelain") == ""
    assert git(made, "log", "--format=%D|%s|%an|%at|%ct") == (
        "HEAD -> main|tiny 1.0, as released on the package index|A|1700000000|1700000000"
    )
    assert arrivals.recorded(made) == arrivals.Origin("tiny==1.0")
    assert hidden(work) == []
    again = up("tiny==1.0", work, Path("again"))
    assert git(again, "rev-parse", "HEAD") == git(made, "rev-parse", "HEAD")
    (made / "kernel.cu").write_text("edited\n")
    archive.unlink()
    assert up("tiny==1.0", work) == made
    assert (made / "kernel.cu").read_text() == "edited\n"


def test_no_identity(releases: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "0")
    sdist(releases)
    made = up("tiny==1.0", work)
    assert git(made, "log", "--format=%an <%ae> %cn <%ce>") == "xfdev <xfdev@localhost> xfdev <xfdev@localhost>"
    assert "user" not in (made / ".git/config").read_text()


def test_the_newest_release(releases: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for version in ("0.9", "0.10", "1.0rc1"):
        sdist(releases, version=version)
    made = up("tiny", work)
    assert made == work / "tiny-0.10"
    assert "newest release" in capsys.readouterr().err
    assert up("tiny", work) == made
    assert hidden(work) == []
    with pytest.raises(RequirementNotFound) as caught:
        up("tiny==3", work)
    assert "0.10, 0.9" in caught.value.why


def test_another_backend(releases: Path, work: Path) -> None:
    sdist(releases, backend="hatchling_is_not_here.build")
    with pytest.raises(NotAnExtensionProject):
        up("tiny==1.0", work)


def test_find_links_relative_to_the_users_folder(releases: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sdist(releases)
    (work / "pip.py").write_text("raise SystemExit('a module of the folder was imported')\n")
    monkeypatch.chdir(work)
    monkeypatch.setenv("PIP_FIND_LINKS", "../releases")
    if sys.version_info < (3, 11):
        (work / "pip.py").unlink()  # PYTHONSAFEPATH came with 3.11
    assert download_sdist("tiny==1.0", work / "got") == work / "got" / "tiny-1.0.tar.gz"


@contextmanager
def server(answer: int | None) -> Iterator[str]:
    """A loopback server that answers every request with this status, or never (None); its address."""
    if answer is None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            yield f"http://127.0.0.1:{silent.getsockname()[1]}"
        return
    status = answer

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "error"),
    [(None, SourceUnreachable), (404, RequirementNotFound), (403, SourceUnreachable), (500, SourceUnreachable)],
)
def test_indexes_that_misbehave(
    status: int | None, error: type[Exception], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "1")
    started = time.monotonic()
    with server(status) as address:
        monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
        with pytest.raises(error) as caught:
            up("tiny==1.0", work)
    assert time.monotonic() - started < 20
    assert status == 404 or address in str(caught.value)
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("status", [None, 401, 404, 500])
def test_git_servers_that_misbehave(status: int | None, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("xfdev.clones.ANSWER_WITHIN", 2.0)
    with server(status) as address, pytest.raises(SourceUnreachable) as caught:
        up(f"{address}/o/r.git", work)
    assert caught.value.why
    assert list(work.iterdir()) == []


def test_the_real_index(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        made = up("xformers==0.0.35", work)
    except SourceUnreachable as error:
        missing(f"the configured package index is not reachable: {error}")
        return
    assert len(git(made, "ls-files").splitlines()) == 2196
    assert (made / "setup.py").is_file()
    assert git(made, "status", "--porcelain") == ""
