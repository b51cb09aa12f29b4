"""The only module that starts processes.

Argument lists, never shell strings; a missing program, a time-out and a failure are errors with a name; values of
environment variables are never logged.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xfdev.console import console
from xfdev.errors import CommandFailed


@dataclass(frozen=True)
class Completed:
    """What a finished process left: its exit status and its two outputs, undecodable bytes replaced."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.returncode == 0


def capture(
    argv: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    input_text: str | None = None,
    check: bool = True,
    show: bool = False,
) -> Completed:
    """Run *argv* and return what it printed; with *show*, what it says on stderr is seen meanwhile instead.

    Raises CommandFailed when the program is missing, takes longer than *timeout* seconds, or (with *check*) exits
    with another status than 0.
    """
    words = tuple(os.fspath(word) for word in argv)
    _log(words)
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=None if env is None else dict(env),
            timeout=timeout,
            input=input_text,
            stdin=subprocess.DEVNULL if input_text is None else None,
            stdout=subprocess.PIPE,
            stderr=None if show else subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except FileNotFoundError as error:
        raise _missing(words, error) from error
    except PermissionError as error:
        raise CommandFailed(f"cannot run {words[0]}: permission denied", hint=f"chmod +x {words[0]}") from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{Path(words[0]).name} did not answer within {timeout:g} s") from error
    result = Completed(words, done.returncode, done.stdout, done.stderr or "")
    if check and not result.ok:
        raise failure(result)
    return result


def live(
    argv: Sequence[str | os.PathLike[str]], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> int:
    """Run *argv* with its output on our stderr (stdout stays free for ``--json``); return its exit status."""
    words = [os.fspath(word) for word in argv]
    _log(words)
    try:
        return subprocess.run(
            words, cwd=cwd, env=None if env is None else dict(env), stdin=subprocess.DEVNULL, stdout=2
        ).returncode
    except FileNotFoundError as error:
        raise _missing(words, error) from error


def spawn(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], output: int) -> subprocess.Popen[bytes]:
    """Start *argv* in a process group of its own, both outputs into the file descriptor *output*."""
    _log(argv)
    try:
        return subprocess.Popen(
            list(argv),
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise _missing(argv, error) from error
    except PermissionError as error:
        raise CommandFailed(f"cannot run {argv[0]}: permission denied", hint=f"chmod +x {argv[0]}") from error


def _log(words: Sequence[str]) -> None:
    if console.verbose:
        # A URL may hold a password or a token: user:secret@host.
        console.debug("+ " + re.sub(r"(?<=://)[^/@\s]+@", "***@", shlex.join(words)))


def failure(result: Completed) -> CommandFailed:
    """The error for a process that failed: the last line it said, all of it in the details."""
    said = (result.stderr or result.stdout).strip()
    last = said.splitlines()[-1] if said else f"exit status {result.returncode}"
    return CommandFailed(
        f"{Path(result.argv[0]).name} failed: {last}",
        details=f"$ {shlex.join(result.argv)}\n{said}",
    )


def _missing(words: Sequence[str], error: FileNotFoundError) -> CommandFailed:
    if error.filename not in (None, words[0]):  # the working folder, not the program
        return CommandFailed(f"{error.filename} does not exist, so {words[0]} cannot run there")
    return CommandFailed(f"{words[0]} is not installed", hint=f"install {words[0]} and run the same command again")
