"""``xfdev watch``"""

from __future__ import annotations

import argparse
import os
import select
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from xfdev import on_import, venv
from xfdev import run as processes
from xfdev.children import signals_held
from xfdev.cli import add_options
from xfdev.commands.session import Session, open_session
from xfdev.console import console, duration
from xfdev.errors import Busy, CompileFailed, ConfigureFailed, MissingSubmodule, OutOfMemory, UsageError
from xfdev.options import SHARED
from xfdev.saves import Saves

EXAMPLE = "xfdev watch -- pytest tests/test_gemm.py"

_LOOK = 0.15  # seconds between two looks at the files
_SHARE = 20  # and so many times what a look takes: compilers need the CPUs more
_QUIET = 0.15  # seconds without a save after which a burst of them is over
_LONGEST = 60.0  # seconds that a burst may last
_GRACE = 5.0  # seconds from SIGINT (xfdev) or SIGTERM (the command) to SIGKILL

#: What the next save may mend.
_MENDABLE = {error.exit_code for error in (CompileFailed, ConfigureFailed, OutOfMemory, MissingSubmodule, Busy)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "xfdev watch [options] [path] [-- COMMAND ...]"
    parser.add_argument("path", nargs="?", default=".", help="the checkout (default: this folder)")
    add_options(parser, "arch", "venv", "cache", "jobs", *SHARED, "compile_cache", "compile_cache_write")


@dataclass
class _Watch:
    """*wait* sleeps for some seconds, and tells whether somebody wants it all to end."""

    saves: Saves
    wait: Callable[[float], bool]
    build_argv: Sequence[str]
    command: Sequence[str]
    environ: Mapping[str, str]
    """Of the command."""
    builds: int = 0
    failed: int = 0
    runs: int = 0
    status: int = 0
    _changed: list[str] = field(default_factory=list)

    def all(self, environ: Mapping[str, str]) -> None:
        """Build and run until told to end, or until the first build fails for what no save can mend."""
        while True:
            ended = self._build(environ)
            self.saves.learn()  # it may have been made of other files than the last
            if ended == "stop" or (self.builds == 1 and self.status not in {0, *_MENDABLE}):
                return
            if ended != "saved" and self.status == 0 and self.command:
                ended = self._run()
                if ended == "stop":
                    return
            if ended == "saved":
                continue
            console.info(f"watching {self.saves.count} files; Ctrl-C ends")
            if self._next_save() == "stop":
                return

    def _build(self, environ: Mapping[str, str]) -> Literal["done", "saved", "stop"]:
        self.builds += 1
        ended, self.status = self._process(self.build_argv, environ, signal.SIGINT, native=True)
        self.failed += ended == "done" and self.status != 0
        return ended

    def _run(self) -> Literal["done", "saved", "stop"]:
        self.runs += 1
        console.info(f"$ {shlex.join(self.command)}")
        started = time.monotonic()
        ended, status = self._process(self.command, self.environ, signal.SIGTERM, native=False)
        if ended == "done":
            how = "ended well" if status == 0 else f"ended with {status}"
            console.info(f"{Path(self.command[0]).name} {how}, {duration(time.monotonic() - started)}")
        return ended

    def _process(
        self, argv: Sequence[str], environ: Mapping[str, str], number: int, *, native: bool
    ) -> tuple[Literal["done", "saved", "stop"], int]:
        """Run *argv* to its end, or until a file is saved: a *native* one, or any. It is then ended by the signal
        *number*."""
        child = processes.spawn(argv, cwd=Path.cwd(), env=environ, output=2)
        saved: list[str] = []
        ended: Literal["done", "saved", "stop"] = "done"
        try:
            while child.poll() is None:
                if self.wait(self._pause()):
                    ended = "stop"
                    break
                saved = self.saves.take()
                if saved and (not native or self.saves.native(saved)):
                    ended = "saved"
                    break
        finally:
            _end(child.pid, child.poll, number)
        if ended == "saved":
            self._announce([*saved, *self.saves.take_all(_QUIET, _LONGEST, self.wait)])
        return ended, int(child.returncode)

    def _next_save(self) -> Literal["saved", "stop"]:
        while not self.wait(self._pause()):
            saved = self.saves.take()
            if saved:
                self._announce([*saved, *self.saves.take_all(_QUIET, _LONGEST, self.wait)])
                return "saved"
        return "stop"

    def _pause(self) -> float:
        return max(_LOOK, _SHARE * self.saves.cost)

    def _announce(self, saved: Sequence[str]) -> None:
        names = list(dict.fromkeys(saved))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        console.info(f"saved: {', '.join(names[:3])}{more}")


def _end(group: int, poll: Callable[[], int | None], number: int) -> None:
    """End a process that leads *group* by the signal *number*, and what is left of the group by SIGKILL."""
    if poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(group, number)
        deadline = time.monotonic() + _GRACE
        while poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    while poll() is None:
        time.sleep(0.01)


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    session = open_session(args, environ)
    command = _command(args.command, session, environ)
    options = shlex.split(session.options.command_line("arch", "jobs", "stores"))
    cache = venv.cache_folder(session.environ)
    argv = on_import.build_command(session.root, session.environment.prefix, cache, options)
    argv += ["--quiet"] * args.quiet + ["--verbose"] * args.verbose
    beside = tuple(path for word in args.command if (path := Path(word).absolute()).is_file())
    started = time.monotonic()
    watch: _Watch | None = None
    try:
        with signals_held() as (wake, interrupted):

            def wait(seconds: float) -> bool:
                if wake is not None:
                    select.select([wake], [], [], seconds)
                return interrupted()

            variables = {**session.environment.environ(environ), "XFDEV_IMPORT": "off"}  # it was built just now
            watch = _Watch(Saves(session.checkout, beside), wait, argv, command, variables)
            watch.all(environ)
    except KeyboardInterrupt:  # how it is meant to end
        pass
    assert watch is not None
    lines = [f"watched for {duration(time.monotonic() - started)}: {watch.builds} builds, {watch.failed} failed"]
    if command:
        lines[0] += f", {watch.runs} runs of {Path(command[0]).name}"
    fatal = watch.builds == 1 and watch.status not in {0, *_MENDABLE} and watch.status > 0
    return {
        "checkout": str(session.root),
        "builds": watch.builds,
        "failed": watch.failed,
        "runs": watch.runs,
        "lines": lines,
        "exit_code": watch.status if fatal and watch.status != 130 else 0,
    }


def _command(given: Sequence[str], session: Session, environ: Mapping[str, str]) -> list[str]:
    """The command with the path of its program, as the environment has it. Raises UsageError where there is none."""
    if not given:
        return []
    path = session.environment.environ(environ).get("PATH")
    found = shutil.which(given[0], path=path)
    if found is None:
        raise UsageError(
            f"{given[0]} is not installed in {session.environment.prefix}",
            hint=f"{session.environment.interpreter} -m pip install {given[0]}, or give a path",
        )
    return [found, *given[1:]]
