#!/usr/bin/env python3
"""Write the pages of docs/reference that the code itself tells: options, verbs, exit codes, toolchains.

    python docs/generate.py [--check]

With ``--check`` nothing is written; the exit status is 1 when a page is not what the code says. A test runs that.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from xfdev import cli, errors, options, profile

HERE = Path(__file__).parent
NOTE = "<!-- written by docs/generate.py; do not edit -->\n\n"


def verbs() -> str:
    os.environ["COLUMNS"] = "110"  # argparse wraps to the terminal's width
    whole = cli.parser("*")
    action = next(a for a in whole._actions if isinstance(a, argparse._SubParsersAction))
    parts = ["# The command line\n", "Every verb takes `--json`, `--verbose` and `--quiet`.\n"]
    for name, sub in action.choices.items():
        parts.append(f"## xfdev {name}\n\n```text\n{sub.format_help().rstrip()}\n```\n")
        for inner in (a for a in sub._actions if isinstance(a, argparse._SubParsersAction)):
            for verb, parser in inner.choices.items():
                parts.append(f"### xfdev {name} {verb}\n\n```text\n{parser.format_help().rstrip()}\n```\n")
    return "\n".join(parts)


def option_table() -> str:
    lines = [
        "# Options\n",
        "A value is looked for on the command line, then in the environment, then in `xfdev.toml` in the checkout,",
        "then in `~/.config/xfdev/config.toml` (`$XDG_CONFIG_HOME`). A name that is none of these is an error.\n",
        "| option | variable | in TOML | what it is |",
        "|---|---|---|---|",
    ]
    for name, text in options.documentation().items():
        lines.append(f"| `--{name}` | `XFDEV_{name.upper()}` | `{name}` | {text} |")
    return "\n".join(lines) + "\n"


def exit_codes() -> str:
    lines = ["# Exit codes\n", "| code | error | meaning |", "|---|---|---|", "| 0 | | all went well |"]
    lines += [f"| {code} | `{cls.__name__}` | {cls.meaning} |" for code, cls in sorted(errors.by_exit_code().items())]
    lines.append(f"| {errors.INTERNAL} | | a bug in xfdev |")
    lines.append(f"| {errors.INTERRUPTED} | | interrupted (Ctrl-C); the same command continues |")
    return "\n".join(lines) + "\n"


def toolchains() -> str:
    lines = [
        "# Toolchains\n",
        "What `xfdev up --toolchain NAME` makes an environment of.\n",
        "| name | torch | CUDA | compiles CUDA | |",
        "|---|---|---|---|---|",
    ]
    for entry in profile.toolchains().values():
        able = "yes" if entry.nvcc else ("with an nvcc of the host" if entry.cuda else "no")
        lines.append(f"| `{entry.name}` | {entry.torch or '–'} | {entry.cuda or '–'} | {able} | {entry.summary} |")
    return "\n".join(lines) + "\n"


PAGES = {
    "reference/command-line.md": verbs,
    "reference/options.md": option_table,
    "reference/exit-codes.md": exit_codes,
    "reference/toolchains.md": toolchains,
}


def main() -> int:
    check = "--check" in sys.argv
    stale = []
    for name, make in PAGES.items():
        path, text = HERE / name, NOTE + make()
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if not check:
                path.write_text(text)
    if check and stale:
        print(f"not what the code says: {', '.join(stale)}; run python docs/generate.py")
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
