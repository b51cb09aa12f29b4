#!/usr/bin/env python3
"""Write ``.github/workflows/nightly.yml``: the cells of ``nightly.toml``, each in a job of its own.

    python tools/nightly_workflow.py [--check]

A hosted runner has 6 hours, 4 CPUs and about 14 GB free: one image, or the bundle of one arch, fits. The jobs share
nothing but the registry, where each cell's outcome is noted; a job that is run again does what is not done yet. With
``--check`` nothing is written, and it fails where something would change.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from xfdev.nightly import settings  # noqa: E402
from xfdev.profile import tomllib  # noqa: E402

TARGET = ROOT / ".github/workflows/nightly.yml"

TEMPLATE = """\
# Written by tools/nightly_workflow.py from nightly.toml; do not edit.
name: nightly

on:
  schedule:
    - cron: "0 1 * * *"
  workflow_dispatch:

# Nothing is allowed but what a job asks for.
permissions: {}

# A second night waits for the first one.
concurrency:
  group: nightly
  cancel-in-progress: false

defaults:
  run:
    shell: bash

jobs:
  begin:
    runs-on: ubuntu-24.04
    timeout-minutes: 30
    permissions:
      contents: read
      packages: write
    outputs:
      todo: ${{ steps.night.outputs.todo }}
    steps:
@setup@
      - name: What is new
        id: night
        run: |
          xfdev nightly --begin --json --image "ghcr.io/${GITHUB_REPOSITORY,,}" > night.json
          jq -r '"todo=" + .todo' night.json >> "$GITHUB_OUTPUT"
          jq -r '.lines[]' night.json >> "$GITHUB_STEP_SUMMARY"

  image:
    needs: begin
    if: needs.begin.outputs.todo == 'build'
    runs-on: ubuntu-24.04
    timeout-minutes: 350
    permissions:
      contents: read
      packages: write
    strategy:
      fail-fast: false
      matrix:
        variant: @variants@
    steps:
@setup@
@room@
      - name: Build, prove, push
        env:
          CELL: ${{ matrix.variant }}
        run: xfdev nightly --cell "$CELL" --image "ghcr.io/${GITHUB_REPOSITORY,,}"

  bundle:
    needs: [begin, image]
    # The variants whose image is there go on.
    if: ${{ !cancelled() && needs.begin.outputs.todo == 'build' }}
    runs-on: ubuntu-24.04
    timeout-minutes: 350
    permissions:
      contents: read
      packages: write
    strategy:
      fail-fast: false
      matrix:
        cell: @cells@
    steps:
@setup@
@room@
      - name: Compile, prove, push
        env:
          CELL: ${{ matrix.cell }}
        run: xfdev nightly --cell "$CELL" --image "ghcr.io/${GITHUB_REPOSITORY,,}"

  publish:
    needs: [begin, image, bundle]
    if: >-
      ${{ !cancelled() && needs.begin.result == 'success' && needs.begin.outputs.todo != 'nothing' }}
    runs-on: ubuntu-24.04
    timeout-minutes: 30
    permissions:
      contents: read
      packages: write
    steps:
@setup@
      - name: Move latest, if all cells passed
        run: xfdev nightly --publish --page site --image "ghcr.io/${GITHUB_REPOSITORY,,}"
      - name: The page
        if: ${{ !cancelled() }}
        uses: @upload@
        with:
          path: site

  page:
    needs: publish
    if: ${{ !cancelled() && needs.publish.result != 'skipped' }}
    runs-on: ubuntu-24.04
    timeout-minutes: 10
    permissions:
      pages: write
      id-token: write
    environment:
      name: github-pages
      url: ${{ steps.deployed.outputs.page_url }}
    steps:
      - id: deployed
        uses: @deploy@
"""

SETUP = """\
      - uses: @checkout@
        with:
          persist-credentials: false
      - uses: @python@
        with:
          python-version: "3.13"
      - run: python -m pip install --disable-pip-version-check .
      - uses: @login@
        with:
          registry: ghcr.io
          username: ${{ github.actor }}
          password: ${{ secrets.GITHUB_TOKEN }}"""

ROOM = """\
      - name: Room, and the image store that knows zstd
        run: |
          sudo rm -rf /usr/share/dotnet /usr/local/lib/android /opt/ghc /opt/hostedtoolcache/CodeQL
          echo '{"features": {"containerd-snapshotter": true}}' | sudo tee /etc/docker/daemon.json
          sudo systemctl restart docker
          df -h / | tail -n 1"""


def pins() -> dict[str, str]:
    """``OWNER/NAME@COMMIT # TAG`` by the name that the template has for it."""
    found = tomllib.loads((ROOT / "tools/actions.toml").read_text())
    return {name: f"{entry['uses']}@{entry['commit']} # {entry['tag']}" for name, entry in found.items()}


def text() -> str:
    chosen = settings.read(ROOT / "nightly.toml")
    cells = [f"{variant.name}/{arch or 'none'}" for variant in chosen.variants for arch in variant.archs or ("",)]
    marks = {
        "setup": SETUP,
        "room": ROOM,
        **pins(),
        "variants": json.dumps([variant.name for variant in chosen.variants]),
        "cells": json.dumps(cells),
    }
    made = TEMPLATE
    for name, value in marks.items():  # the first two have marks in them
        made = made.replace(f"@{name}@", value)
    return made


def main() -> int:
    made = text()
    if TARGET.exists() and TARGET.read_text() == made:
        return 0
    if "--check" in sys.argv:
        print(f"python tools/nightly_workflow.py has to be run: {TARGET.relative_to(ROOT)}")
        return 1
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(made)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
