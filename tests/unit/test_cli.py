"""The command line: where errors become output."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from xfdev import cli, errors, options
from xfdev.console import console


@pytest.fixture(autouse=True)
def _console() -> Any:
    yield
    console.verbose = console.quiet = False


def with_result(monkeypatch: pytest.MonkeyPatch, result: Mapping[str, Any] | BaseException) -> None:
    """``xfdev plan`` returns *result*, or raises it."""

    def run(args: object, environ: object) -> Mapping[str, Any]:
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(importlib.import_module("xfdev.commands.plan"), "run", run)


ERROR = errors.NoNvcc("no nvcc", why="none was found", hint="get one", details="a long story")


def test_error_in_three_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with_result(monkeypatch, ERROR)
    assert cli.main(["plan"], {}) == errors.NoNvcc.exit_code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: no nvcc\n  why: none was found\n  do: get one\n"


def test_error_without_reason_or_hint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with_result(monkeypatch, errors.XfdevError("it failed", details="more"))
    assert cli.main(["plan"], {}) == 1
    assert capsys.readouterr().err == "error: it failed\n"


def test_verbose_adds_the_details(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with_result(monkeypatch, ERROR)
    assert cli.main(["plan", "--verbose"], {}) == errors.NoNvcc.exit_code
    assert capsys.readouterr().err.endswith("  do: get one\na long story\n")


def test_error_for_machines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with_result(monkeypatch, ERROR)
    assert cli.main(["plan", "--json"], {}) == errors.NoNvcc.exit_code
    said = capsys.readouterr()
    assert said.err == ""
    assert json.loads(said.out) == {
        "error": "NoNvcc",
        "message": "no nvcc",
        "why": "none was found",
        "hint": "get one",
        "details": "a long story",
        "exit_code": errors.NoNvcc.exit_code,
    }


def test_quiet_still_says_errors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with_result(monkeypatch, ERROR)
    cli.main(["plan", "--quiet"], {})
    assert "error: no nvcc" in capsys.readouterr().err


@pytest.mark.parametrize("bug", [ZeroDivisionError("division by zero"), KeyError("x"), OSError(5, "I/O error")])
def test_bug_is_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bug: Exception
) -> None:
    with_result(monkeypatch, bug)
    assert cli.main(["plan"], {}) == errors.INTERNAL
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert f"this is a bug in xfdev: {type(bug).__name__}" in said
    assert "--verbose" in said
    assert cli.main(["plan", "-v"], {}) == errors.INTERNAL
    assert "Traceback" in capsys.readouterr().err


def test_bug_for_machines_has_the_status_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_result(monkeypatch, RuntimeError("oops"))
    assert cli.main(["plan", "--json"], {}) == errors.INTERNAL
    assert json.loads(capsys.readouterr().out)["exit_code"] == errors.INTERNAL


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with_result(monkeypatch, KeyboardInterrupt())
    assert cli.main(["plan"], {}) == 130
    said = capsys.readouterr()
    assert said.err.startswith("error: interrupted")
    assert cli.main(["plan", "--json"], {}) == 130
    assert json.loads(capsys.readouterr().out)["exit_code"] == 130


def test_result_lines_and_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with_result(monkeypatch, {"verdict": "reuse", "path": Path("/a"), "lines": ["one", "two"]})
    assert cli.main(["plan"], {}) == 0
    assert capsys.readouterr().out == "one\ntwo\n"
    assert cli.main(["plan", "-q"], {}) == 0
    assert capsys.readouterr().out == ""
    assert cli.main(["plan", "--json"], {}) == 0
    assert json.loads(capsys.readouterr().out)["path"] == "/a"


def test_result_may_carry_a_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with_result(monkeypatch, {"exit_code": 29, "lines": ["bad"]})
    assert cli.main(["plan"], {}) == 29
    assert cli.main(["plan", "--json"], {}) == 29


@pytest.mark.parametrize(
    "words", [[], ["biuld"], ["build", "--frobnicate"], ["build", "a", "b"], ["bundle"], ["bundle", "sell"], ["up"]]
)
def test_wrong_words_are_an_error_like_others(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words, {}) == errors.UsageError.exit_code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert "--help shows what it takes" in said.err
    assert cli.main([*words, "--json"], {}) == errors.UsageError.exit_code
    assert json.loads(capsys.readouterr().out)["error"] == "UsageError"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_every_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"], {})
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "example:\n  xfdev " + verb in said
    assert "--json" in said
    assert "--verbose" in said


@pytest.mark.parametrize("verb", cli.VERBS)
def test_example_of_every_verb_is_one_that_it_takes(verb: str) -> None:
    import shlex

    example = importlib.import_module(f"xfdev.commands.{verb}").EXAMPLE
    words = shlex.split(example)
    assert words[0] == "xfdev"
    assert cli.parser(verb).parse_args(cli.split_command(words[1:])[0]).verb == verb


def test_verbs_are_the_modules_of_commands() -> None:
    folder = Path(cli.__file__).parent / "commands"
    modules = {path.stem for path in folder.glob("*.py")} - {
        "__init__",
        "session",
        "candidates",
        "apply",
        "linking",
        "demands",
        "report",
        "engine",
        "cosign",
        "trusting",
        "team_cache",
        "pins",
        "history",
        "cells",
        "settling",
        "inside",
        "nights",
    }
    assert modules == set(cli.VERBS)


def test_options_of_a_verb_are_documented_by_the_model() -> None:
    said = cli.parser("build").format_help() + importlib.import_module("xfdev.commands.build").__name__
    assert "xfdev.commands.build" in said
    texts = options.documentation()
    assert set(texts) == set(options.names())
    assert all(len(text) > 20 for text in texts.values())


@pytest.mark.parametrize("flag", ["--json", "--verbose", "-v", "--quiet", "-q"])
def test_flags_of_output_go_behind_an_action_too(flag: str, tmp_path: Path) -> None:
    for words in ([flag, "list"], ["list", flag]):
        assert cli.main(["bundle", *words], {"XFDEV_CACHE": str(tmp_path)}) == 0


def test_closed_pipe_is_no_error() -> None:
    # sh's own status would be that of `true`; the left side's is what is asked for.
    script = f"({sys.executable} -m xfdev bundle list; echo $? >&3) 3>&2 | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=dict(os.environ))
    assert "Traceback" not in done.stderr
    assert done.stderr.split() == ["0"]


def test_version_is_told_without_loading_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"], {})
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("xfdev ")


@pytest.mark.parametrize(
    "words", [["gemm.cu", "/p", "--sass"], ["gemm.cu", "--sass", "/p"], ["--sass", "gemm.cu", "--kernel", "x", "/p"]]
)
def test_options_between_words(words: list[str]) -> None:
    args = cli.parser("inspect").parse_args(["inspect", *words])
    assert (args.unit, args.path, args.sass) == ("gemm.cu", "/p", True)
    assert cli.parser("inspect").parse_args(["inspect", "gemm.cu", "--sass"]).path == "."
    with pytest.raises(errors.UsageError, match="required: UNIT"):
        cli.parser("inspect").parse_args(["inspect", "--sass"])
    with pytest.raises(errors.UsageError, match="unrecognized arguments: third"):
        cli.parser("inspect").parse_args(["inspect", "gemm.cu", "--sass", "/p", "third"])
