#!/usr/bin/env python3
"""Write this repository's own ``.devcontainer/``: what ``xfdev init`` writes, for a workspace that is not the project.

    python tools/own_devcontainer.py [--check]

The project is cloned into the workspace, and xfdev comes from the sources here. With ``--check`` nothing is written,
and it fails where something would change.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from xfdev import __version__, devcontainer, profile  # noqa: E402

PROJECT = "xformers"
#: Where the published image is; XFDEV_IMAGE names another.
PUBLISHED = "ghcr.io/alexchesser/xformers-devcontainer"
IMAGE = f"${{localEnv:XFDEV_IMAGE:{PUBLISHED}}}"


def files() -> dict[str, bytes]:
    facts = profile.profiles()[PROJECT]
    rendered = devcontainer.render({
        "name": "xFormers DevContainer",
        "version": __version__,
        "wheel": None,
        "base_image": devcontainer.base_image(),
        "toolchain": facts.toolchain_for("compile", None),
        "arch": "",
        "image": IMAGE,
        "stores": devcontainer.stores(PUBLISHED),
        "first_build": facts.repository,
        "first_build_variable": facts.first_build_variable,
        "fork_variable": facts.fork_variable,
    })  # fmt: skip
    ours = {
        "build": {"args": {"XFDEV": "."}},
        "remoteEnv": {facts.fork_variable: facts.repository},
        "customizations": {
            "vscode": {
                "settings": {
                    "clangd.arguments": [f"--compile-commands-dir=${{containerWorkspaceFolder}}/{PROJECT}/.xfdev"]
                }
            }
        },
    }
    name = devcontainer.CONFIG
    text = rendered[name].decode().replace(
        '["--compile-commands-dir=${containerWorkspaceFolder}/.xfdev"]', "[]"
    )  # fmt: skip
    rendered[name] = devcontainer.merged(text, ours).encode()
    made = {f".devcontainer/{name}": data for name, data in rendered.items()}
    # The devcontainer CLI builds from a copy of the Dockerfile elsewhere, which loses what lies beside it.
    made[".dockerignore"] = rendered["Dockerfile.dockerignore"]
    return made


def main() -> int:
    stale = []
    for name, data in files().items():
        path = ROOT / name
        if path.exists() and path.read_bytes() == data:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    if "--check" in sys.argv and stale:
        print(f"python tools/own_devcontainer.py has to be run: {', '.join(stale)}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
