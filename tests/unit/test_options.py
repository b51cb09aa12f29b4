"""The options: which source wins, and what is said of a value that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from xfdev import options, trust
from xfdev.errors import UsageError


def toml(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_default_is_nothing(tmp_path: Path) -> None:
    found = options.resolve({}, {}, [tmp_path / "absent.toml"])
    assert found == options.Options()
    assert found.source("arch") == "default"


def test_command_line_beats_variable_beats_checkout_beats_user(tmp_path: Path) -> None:
    checkout = toml(tmp_path / "xfdev.toml", 'arch = "8.0"\njobs = 2\ncache = "/checkout"\ntoolchain = "cpu"\n')
    user = toml(tmp_path / "config.toml", 'arch = "7.0"\njobs = 1\nvenv = "user"\ncache = "/user"\n')
    variables = {"XFDEV_ARCH": "9.0", "XFDEV_JOBS": "3", "XFDEV_PYTHON": "", "XFDEV_OTHER": "x"}
    found = options.resolve({"arch": "10.0", "jobs": None, "python": None}, variables, [checkout, user])
    assert (found.arch, found.jobs, found.cache, found.venv) == ("10.0", 3, "/checkout", "user")
    assert found.toolchain == "cpu"
    assert found.python is None
    assert found.source("arch") == "command line"
    assert found.source("jobs") == "environment"
    assert found.source("cache") == str(checkout)
    assert found.source("venv") == str(user)


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "", "1e3"])
def test_jobs_is_a_whole_number_above_nought(value: str) -> None:
    variables = {"XFDEV_JOBS": value}
    if not value:
        assert options.resolve({}, variables, []).jobs is None
        return
    with pytest.raises(UsageError, match=r"jobs = .* is not a whole number"):
        options.resolve({}, variables, [])


@pytest.mark.parametrize("text", ["jobs = true", "jobs = 0", "arch = 9.0", "arch = ['9.0']", "venv = false"])
def test_value_of_another_type(tmp_path: Path, text: str) -> None:
    path = toml(tmp_path / "xfdev.toml", text)
    with pytest.raises(UsageError) as caught:
        options.resolve({}, {}, [path])
    assert str(path) in str(caught.value)
    assert text.partition(" ")[0] in str(caught.value)


@pytest.mark.parametrize(("name", "meant"), [("job", "jobs"), ("archs", "arch"), ("tool-chain", "toolchain")])
def test_unknown_name_with_the_one_that_was_meant(tmp_path: Path, name: str, meant: str) -> None:
    path = toml(tmp_path / "xfdev.toml", f"{name} = 'x'")
    with pytest.raises(UsageError) as caught:
        options.resolve({}, {}, [path])
    assert f"there is no option {name!r}" in str(caught.value)
    assert repr(meant) in str(caught.value)
    assert all(known in caught.value.hint for known in options.names())


def test_name_that_resembles_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        options.resolve({}, {}, [toml(tmp_path / "xfdev.toml", "zzzz = 1")])
    assert "?" not in str(caught.value)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    one = toml(tmp_path / "one.toml", "job = 1\narch = 9")
    two = toml(tmp_path / "two.toml", "jobs = 'x'")
    with pytest.raises(UsageError) as caught:
        options.resolve({}, {"XFDEV_JOBS": "none"}, [one, two])
    for part in ("'job'", "arch = 9", "jobs = 'x'", "jobs = 'none'", str(one), str(two), "environment"):
        assert part in str(caught.value)


def test_wrong_value_in_a_file_is_told_although_another_wins(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        options.resolve({"jobs": 2}, {}, [toml(tmp_path / "xfdev.toml", "jobs = 'x'")])


@pytest.mark.parametrize("data", [b"jobs = = 1", b"\xff\xfe", b"[", b"jobs = 1\njobs = 2"])
def test_file_that_is_no_toml(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "xfdev.toml"
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        options.resolve({}, {}, [path])
    assert str(path) in str(caught.value)


def test_file_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        options.resolve({}, {}, [tmp_path])


def test_config_files(tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    assert options.config_files(root, {"HOME": "/h"}) == [root / "xfdev.toml", Path("/h/.config/xfdev/config.toml")]
    assert options.config_files(None, {"XDG_CONFIG_HOME": "/x"}) == [Path("/x/xfdev/config.toml")]


def test_command_line_again(tmp_path: Path) -> None:
    path = toml(tmp_path / "xfdev.toml", "jobs = 2")
    found = options.resolve({"arch": "8.0;9.0", "venv": "a b", "jobs": None}, {}, [path])
    assert found.command_line("arch", "venv", "jobs") == " --arch '8.0;9.0' --venv 'a b'"
    assert found.command_line("jobs") == ""


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("1", True), ("false", False), ("0", False), ("yes", None), ("2", None)]
)
def test_switches(tmp_path: Path, text: str, value: bool | None) -> None:
    variables = {"XFDEV_COMPILE_CACHE_WRITE": text}
    if value is None:
        with pytest.raises(UsageError, match="is not true or false"):
            options.resolve({}, variables, [])
        return
    assert options.resolve({}, variables, []).compile_cache_write is value
    # One that is off on top wins over one that is on below.
    below = toml(tmp_path / "xfdev.toml", "compile_cache_write = true\n")
    assert options.resolve({}, variables, [below]).compile_cache_write is value


def test_choices(tmp_path: Path) -> None:
    path = toml(tmp_path / "xfdev.toml", 'signatures = "always"\n')
    with pytest.raises(UsageError, match="is not one of off, optional, required"):
        options.resolve({}, {}, [path])
    assert options.CHOICES["signatures"] == trust.POLICIES


def test_switches_and_lists_as_they_are_given_again() -> None:
    found = options.resolve({"locked": True, "keys": ["a b.pub", "c.pub"], "lock": "x.lock"}, {}, [])
    assert found.command_line("locked", "keys", "lock") == " --locked --key 'a b.pub' --key c.pub --lock x.lock"
    assert options.flag("compile_cache_write") == "compile-cache-write"
