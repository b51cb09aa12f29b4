#!/usr/bin/env python3
"""Write the pages of docs/reference that the code itself tells: options, verbs, exit codes, toolchains, checks.

    python docs/generate.py [--check]

With ``--check`` nothing is written; the exit status is 1 when a page is not what the code says. A test runs that.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import sys
from pathlib import Path

from xfdev import cli, cuda_releases, errors, gpu_families, options, profile
from xfdev.commands.arch import table
from xfdev.doctor import registry
from xfdev.doctor.wanted import wanted

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
        lines.append(f"| `--{options.flag(name)}` | `XFDEV_{name.upper()}` | `{name}` | {text} |")
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


def gpus() -> str:
    lines = [
        "# GPUs and CUDA releases\n",
        "What xfdev knows of them. Where each number is from stands in `gpus.toml` and `cuda.toml` in",
        "`src/xfdev/resources`; `tests/integration/test_gpu_facts.py` compares them with an installed nvcc and torch.",
        "`xfdev arch --list` shows the first table.\n",
        "## Archs\n",
        "| arch | generation | GPUs | CUDA | |",
        "|---|---|---|---|---|",
    ]
    for entry in table():
        until, since = entry["last_cuda"], entry["first_cuda"]
        cuda = f"up to {until}" if until else f"from {since} on"
        lines.append(f"| `{entry['arch']}` | {entry['family']} | {entry['gpus']} | {cuda} | {entry['note']} |")
    lines += [
        "\nThe table begins with CUDA 11.8. Names that stand for archs, as torch has them:\n",
        "| name | archs |",
        "|---|---|",
        *(f"| `{name}` | `{archs}` |" for name, archs in gpu_families.names().items()),
        "\n## CUDA releases\n",
        "A driver runs machine code of every release of its CUDA major version; PTX wants the driver of the release",
        "that wrote it.\n",
        "| CUDA | driver | runs from driver | PTX | newest gcc | newest clang | archs |",
        "|---|---|---|---|---|---|---|",
    ]
    for release in cuda_releases.releases().values():
        archs = " ".join(name.removeprefix("sm_") for name in (*release.archs, *release.features))
        lines.append(
            f"| {release.version} | {release.driver or 'not known'} | {release.least_driver} | {release.ptx} "
            f"| {release.gcc} | {release.clang} | {archs} |"
        )
    lines += ["\n## What torch's own wheels have machine code for\n", "| CUDA | x86-64 | aarch64 |", "|---|---|---|"]
    for cuda in gpu_families.torch_wheels():
        row = (", ".join(gpu_families.torch_wheel(cuda, machine)) for machine in ("x86_64", "aarch64"))
        lines.append(f"| {cuda} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def checks() -> str:
    lines = [
        "# The checks of `xfdev doctor`\n",
        "Each says `ok`, `warning`, `error`, `not-applicable` or `unknown`; the last where it cannot be made here,",
        "with the reason. `xfdev doctor` exits with 33 when one says `error`. Those with ◦ use the network, and are",
        "made with `--network` only.\n",
    ]
    for group, entries in itertools.groupby(registry.CHECKS, key=lambda check: check.group):
        lines += [f"## {group}\n", "| check | looks at | can say, beside `unknown` | `--fix` |", "|---|---|---|---|"]
        for check in entries:
            says = ", ".join(check.says)
            lines.append(f"| `{check.id}`{' ◦' * check.network} | {check.looks_at} | {says} | {check.safe or '–'} |")
        lines.append("")
    numbers = {entry.name: getattr(wanted(), entry.name) for entry in dataclasses.fields(wanted())}
    lines += ["## What is compared with\n", "`src/xfdev/resources/doctor.toml` says where each number comes from.\n"]
    lines += ["| | |", "|---|---|"]
    for name, value in numbers.items():
        shown = ", ".join(value) if isinstance(value, tuple) else f"{value:,}" if isinstance(value, int) else value
        lines.append(f"| `{name}` | {shown} |")
    return "\n".join(lines) + "\n"


PAGES = {
    "reference/command-line.md": verbs,
    "reference/options.md": option_table,
    "reference/exit-codes.md": exit_codes,
    "reference/toolchains.md": toolchains,
    "reference/gpus.md": gpus,
    "reference/doctor.md": checks,
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
