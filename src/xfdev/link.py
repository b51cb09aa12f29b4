"""What is linked into a checkout: the outputs of a bundle or a build in their places, and a note of them.

Outputs are copied, not linked: a build typed by hand writes into the checkout, and must not write through a link
into a bundle; and pruning a store must not break a checkout. (Copying 12 MB takes about 10 ms.)
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from xfdev.bundle import Manifest, Output
from xfdev.checkout import Checkout
from xfdev.console import console
from xfdev.errors import BadBundle
from xfdev.files import explained, read_json, temporary, write_atomic, write_json

STATE = ".xfdev"
LINKED = f"{STATE}/linked.json"
_BEGIN, _END = "# >>> xfdev", "# <<< xfdev"


def state_folder(root: Path) -> Path:
    """The folder ``.xfdev`` of a checkout, invisible to git."""
    folder = root / STATE
    if not (folder / ".gitignore").exists():
        with explained(str(folder)):
            folder.mkdir(exist_ok=True)
            write_atomic(folder / ".gitignore", "*\n")
    return folder


def identity(path: Path) -> list[int] | None:
    """What tells, without a read, that a file is still the one that was written."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def place_outputs(
    checkout: Checkout, manifest: Manifest, source: Callable[[str], Path], label: str
) -> dict[str, dict[str, Any]]:
    """Put every output into the checkout, each checked against the manifest while it is copied.

    Raises BadBundle before anything of a bad file is visible. Returns what ``linked.json`` keeps of the outputs.
    """
    staged: list[tuple[Path, Path, Output]] = []
    placed: dict[str, dict[str, Any]] = {}
    # Where git and compilers do not look: a run that is killed leaves its copies there, and the next removes them.
    folder = state_folder(checkout.root) / "placing"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with explained(str(folder)):
            folder.mkdir()
        for name, output in manifest.outputs.items():
            target = checkout.root / output.place
            if checkout.tracked(output.place):
                console.warning(f"{output.place} is tracked by git; it stays as it is")
                continue
            with explained(str(target)):
                target.parent.mkdir(parents=True, exist_ok=True)
                # A copy can be moved into its place in one step only within a file system.
                near = folder if folder.stat().st_dev == target.parent.stat().st_dev else target.parent
                staged.append((_stage(source(name), near / target.name, output, label), target, output))
        for copy, target, output in staged:
            with explained(str(target)):
                os.replace(copy, target)
            placed[output.place] = {"sha256": output.sha256, "identity": identity(target)}
    finally:
        for copy, _, _ in staged:
            copy.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    return placed


def _stage(source: Path, target: Path, output: Output, label: str) -> Path:
    handle, name = temporary(target)
    digest = hashlib.sha256()
    try:
        with os.fdopen(handle, "wb") as writer:
            try:
                with source.open("rb") as reader:
                    while chunk := reader.read(1 << 20):
                        digest.update(chunk)
                        writer.write(chunk)
            except FileNotFoundError as error:
                raise BadBundle(f"{label} is truncated: {source.name} is missing", hint=_REMOVE) from error
        if digest.hexdigest() != output.sha256:
            raise BadBundle(f"{label} is corrupted: {source.name} is not what it was", hint=_REMOVE)
        os.chmod(name, output.mode)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


_REMOVE = "xfdev bundle verify --remove throws it away; then run the same command again"


def outputs_intact(root: Path, linked: Mapping[str, Any]) -> bool:
    """Whether the outputs in the checkout are still the ones that were linked."""
    places = linked.get("outputs", {})
    return bool(places) and all(identity(root / place) == entry["identity"] for place, entry in places.items())


def disturbed(root: Path, linked: Mapping[str, Any]) -> list[str]:
    """Outputs that were linked and are no longer what they were, by place."""
    problems = []
    for place, entry in linked.get("outputs", {}).items():
        if identity(root / place) != entry["identity"]:
            there = (root / place).exists()
            problems.append(f"{place} " + ("was replaced by another build" if there else "is gone") + ": xfdev link")
    return problems


def read_linked(root: Path) -> dict[str, Any] | None:
    value = read_json(root / LINKED)
    return value if isinstance(value, dict) else None


def write_linked(root: Path, value: Mapping[str, Any]) -> None:
    state_folder(root)
    write_json(root / LINKED, value)


def exclude(checkout: Checkout, places: list[str]) -> None:
    """Have git ignore the linked outputs, in the file of rules that is the repository's own and never committed."""
    path = checkout.git_path_exclude
    text = path.read_text() if path.exists() else ""
    before, _, rest = text.partition(f"{_BEGIN}\n")
    _, _, after = rest.partition(f"{_END}\n")
    # An existing block keeps the lines of other worktrees, whose outputs have the same places.
    lines = sorted({f"/{place}" for place in places} | {f"/{STATE}/"})
    new = before + "\n".join([_BEGIN, *lines, _END]) + "\n" + after if places else before + after
    if new != text:
        with explained(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, new)
