"""The command line: which verb, how loud, and the one place where errors become output."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from xfdev import __version__, options
from xfdev.console import console
from xfdev.errors import INTERNAL, INTERRUPTED, UsageError, XfdevError
from xfdev.timeline import timeline

#: Verb -> what it is for. Its module is ``xfdev.commands.<verb>``, loaded only when that verb is used.
VERBS = {
    "up": "bring up an environment for a path, a git URL or a requirement, with everything reused that can be",
    "plan": "say what would be reused and what compiled, and why; changes nothing",
    "link": "make a checkout an editable install with a bundle's outputs; compiles nothing",
    "unlink": "undo link: leave the tree as it was found",
    "build": "compile what changed, and link it",
    "watch": "build whenever a file is saved, and then run a command",
    "inspect": "show what a unit is compiled to: the command, and its kernels' registers, memory, PTX and SASS",
    "prebuild": "compile everything and write a bundle",
    "check": "import the project in a fresh process and say what works and what is stale",
    "attach": "in a container that was just created: link the checkout, compile nothing, say what is ready",
    "image": "build, push and inspect the environment image",
    "init": "write .devcontainer/ into a checkout, merged with what is there",
    "arch": "the GPUs here, the archs that they need, and what the linked binaries have",
    "lock": "write xfdev.lock: the bundles, images and packages that everybody on the team takes, by digest",
    "doctor": "say what is wrong with this machine, the checkout and its environment, and the fix",
    "bundle": "list, show, verify, prune the bundles of the local store; push them to a registry, and pull",
    "nightly": "refresh images and bundles in a registry where something changed, and prove them before they are used",
}


#: Verbs that take a command of the user's own, after ``--``.
_WITH_COMMAND = ("watch",)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors like all others: in two lines, or in ``--json``; and that takes an option
    between two words (``xfdev inspect gemm.cu --sass ~/project``), as argparse itself does not."""

    _mixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        places = self._get_positional_actions()
        if self._mixing or len(places) < 2 or any(isinstance(place, argparse._SubParsersAction) for place in places):
            return super().parse_known_args(args, namespace)
        self._mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} --help shows what it takes")


def parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The whole parser; only the arguments of *verb* are filled in, or those of every verb for the documentation."""
    common = _Parser(add_help=False)
    loud = common.add_argument_group("output")
    loud.add_argument("--json", action="store_true", help="one JSON object on stdout, for machines")
    loud.add_argument("-v", "--verbose", action="store_true", help="every command that is run, and details of errors")
    loud.add_argument("-q", "--quiet", action="store_true", help="warnings and errors only")
    top = _Parser(prog="xfdev", description="Edit, and only what you changed compiles.")
    top.add_argument("--version", action="version", version=f"xfdev {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, summary in VERBS.items():
        sub = verbs.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            parents=[common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if verb in (name, "*"):
            module = importlib.import_module(f"xfdev.commands.{name}")
            sub.epilog = f"example:\n  {module.EXAMPLE}"
            module.add_arguments(sub)
    return top


def add_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add options of the model to a verb, with the model's documentation as help."""
    texts = options.documentation()
    for name in names:
        text = texts[name].replace("%", "%%")
        spelled = f"--{options.flag(name)}"
        if name in options.SWITCHES:
            parser.add_argument(spelled, dest=name, action="store_true", default=None, help=text)
            continue
        if name in options.CHOICES:
            parser.add_argument(spelled, dest=name, choices=options.CHOICES[name], default=None, help=text)
            continue
        metavar = {"jobs": "N", "arch": "LIST", "toolchain": "NAME", "compile_cache": "PLACE"}.get(name, "PATH")
        if name in options.LISTS:
            metavar = {"keys": "PATH"}.get(name, "REF")
            parser.add_argument(spelled, dest=name, action="append", metavar=metavar, default=None, help=text)
            continue
        parser.add_argument(spelled, dest=name, metavar=metavar, default=None, help=text)


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one command; returns the exit status. Nothing below this function prints an error or exits."""
    words = sys.argv[1:] if argv is None else list(argv)
    env = dict(os.environ) if environ is None else dict(environ)
    verb = next((word for word in words if word in VERBS), None)
    words, command = split_command(words)
    as_json = "--json" in words
    try:
        args = parser(verb).parse_args(words)
        args.command, args.words = command, words
        console.configure(verbose=args.verbose, quiet=args.quiet, environ=env)
        as_json = args.json
        module = importlib.import_module(f"xfdev.commands.{args.verb}")
        with _traced(args, words):
            result = module.run(args, env)
        if env.get("XFDEV_STATUS") and args.verb in ("up", "link", "build") and result.get("linked"):
            from xfdev import status

            status.ready(env, Path(result["checkout"]), result["lines"])
        return _finish(result, as_json)
    except XfdevError as error:
        return _report(error, as_json)
    except KeyboardInterrupt:
        return _report_interrupt(as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _report_bug(error, as_json)


def add_trace(parser: argparse.ArgumentParser) -> None:
    """Add what notes where the time goes, to a verb that compiles."""
    group = parser.add_argument_group("where the time goes")
    group.add_argument("--trace", metavar="FILE", help="write a trace of this run: open it at https://ui.perfetto.dev")
    group.add_argument("--trace-nvcc", action="store_true", help="with --trace: nvcc's own phases, too")


@contextmanager
def _traced(args: argparse.Namespace, words: Sequence[str]) -> Iterator[None]:
    """Write the trace that was asked for, also of a run that fails or is stopped."""
    timeline.restart()
    path = getattr(args, "trace", None)
    if not path:
        if getattr(args, "trace_nvcc", False):
            raise UsageError("--trace-nvcc has no file to write to", hint="add --trace FILE")
        yield
        return
    if not Path(path).absolute().parent.is_dir():
        raise UsageError(f"--trace cannot write {path}: there is no such folder")
    timeline.wanted, timeline.parts = True, args.trace_nvcc
    try:
        yield
    finally:
        timeline.write(Path(path), shlex.join(["xfdev", *words]))


def split_command(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words for xfdev, and the command of the user's own that follows them."""
    verb = next((word for word in words if word in VERBS), None)
    end = words.index("--") if verb in _WITH_COMMAND and "--" in words else len(words)
    return list(words[:end]), list(words[end + 1 :])


def _finish(result: Mapping[str, Any], as_json: bool) -> int:
    status = int(result.get("exit_code", 0))
    if as_json:
        print(json.dumps(result, indent=1, default=str))
    else:
        lines = result.get("lines", ())
        if lines and not console.quiet:
            print("\n".join(lines))
    sys.stdout.flush()
    return status


def _report(error: XfdevError, as_json: bool, status: int | None = None) -> int:
    status = error.exit_code if status is None else status
    if as_json:
        body = {"error": type(error).__name__, "message": str(error), "why": error.why, "hint": error.hint}
        print(json.dumps({**body, "details": error.details, "exit_code": status}, indent=1))
    else:
        console.error(str(error))
        for label, text in (("why", error.why), ("do", error.hint)):
            if text:
                sys.stderr.write(f"  {label}: {text}\n")
        if error.details and console.verbose:
            sys.stderr.write(error.details.rstrip() + "\n")
    return status


def _report_interrupt(as_json: bool) -> int:
    message = "interrupted; what was finished is kept, the same command continues"
    if as_json:
        print(json.dumps({"error": "Interrupted", "message": message, "exit_code": INTERRUPTED}, indent=1))
    else:
        console.error(message)
    return INTERRUPTED


def _report_bug(error: Exception, as_json: bool) -> int:
    """A traceback helps nobody but us: it goes to the details."""
    import traceback

    bug = XfdevError(
        f"this is a bug in xfdev: {type(error).__name__}: {error}",
        hint="run it again with --verbose and report what it prints",
        details=traceback.format_exc(),
    )
    return _report(bug, as_json, INTERNAL)
