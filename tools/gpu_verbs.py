"""xfdev's own verbs on a machine with a GPU: an environment of the torch that is there, which bundles are linked, what
is compiled when nobody names an arch, and the operators of a real project. A part of gpu_proof.py."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xfdev import arch, compat

if TYPE_CHECKING:
    from gpu_proof import Proof

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
FINISH = """
import os, sys
from pathlib import Path
from xfdev import make_venv, profile, toolchain

torch = toolchain.torch_in(Path(sys.argv[2]))
fits = [entry for entry in profile.toolchains().values() if entry.cuda and entry.cuda == torch.cuda]
assert fits, f"no toolchain of xfdev is of CUDA {torch.cuda}"
pinned = [entry for entry in fits if entry.torch == "torch==" + torch.version.partition("+")[0]]
made = make_venv.finish(Path(sys.argv[1]), (pinned or fits)[0], environ=os.environ, arch="", variables={})
assert made.cuda_home, "no nvcc of that CUDA"
print(f"toolchain {made.toolchain}, torch {made.torch}, nvcc of {made.cuda_home}")
"""


class Verbs:
    """xfdev as a user has it, in folders of its own below ``proof.work``."""

    def __init__(self, proof: Proof) -> None:
        self.proof, self.work, self.table = proof, proof.work, proof.table
        self.prefix = proof.work / "environment"
        self.options = ("--venv", self.prefix)
        self.python = proof.work / "tools" / "bin" / "python"

    # --- an environment

    def prepare(self) -> str:
        """An environment as `xfdev up` makes it, of the torch that is here; why there is none, "" if there is."""
        path = os.pathsep.join([str(Path(self.proof.python).parent), self.proof.environ.get("PATH", os.defpath)])
        for name in ("git", "ninja"):
            if not shutil.which(name, path=path):
                return f"no {name}"
        for folder, python in ((self.work / "tools", sys.executable), (self.prefix, self.proof.python)):
            made = self.proof.run(python, "-m", "venv", "--without-pip", folder)
            if made.returncode:
                return f"no virtual environment: {_last(made.stderr + made.stdout)}"
        return self._tools(path) or self._environment(str(shutil.which("ninja", path=path)))

    def _tools(self, path: str) -> str:
        """xfdev's own installation: its sources, what the wheels hold, and what the two Pythons have."""
        unpacked = self.work / "unpacked"
        for wheel in sorted(Path(self.proof.args.wheels).glob("*.whl")) if self.proof.args.wheels else ():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(unpacked)
        inside = [entry for entry in unpacked.rglob("ccache") if entry.is_file()]
        ccache = inside[0] if inside else shutil.which("ccache", path=path)
        if ccache is None:
            return "no ccache: give its wheel with --wheels"
        shutil.copy(ccache, self.python.parent / "ccache")
        (self.python.parent / "ccache").chmod(0o755)
        others = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
        lines = [str(SOURCE), str(unpacked), *others, *self._site_of_torch()]
        (_site(self.work / "tools") / "proof.pth").write_text("\n".join(lines) + "\n")
        tried = self.proof.run(self.python, "-c", "import xfdev.cli, installer, packaging, pip, pynvml")
        return _last(tried.stderr) if tried.returncode else ""

    def _environment(self, ninja: str) -> str:
        """Links to all that the Python with torch has, and on top what xfdev puts into an environment."""
        folders = self._site_of_torch()
        if not folders:
            return "no torch"
        mine = _site(self.prefix)
        foreign = re.compile(r"_?xfdev|xformers|kernels|_virtualenv|__editable__|distutils-precedence")
        for entry in Path(folders[0]).iterdir():
            if not foreign.match(entry.name) and not (mine / entry.name).exists():
                (mine / entry.name).symlink_to(entry)
        (self.prefix / "bin" / "ninja").symlink_to(ninja)
        (self.prefix / "xfdev").mkdir()
        done = self.proof.run(self.python, "-c", FINISH, self.prefix, mine)
        if done.returncode:
            return _last(done.stderr)
        self.table.note(f"xfdev's environment: {done.stdout.strip()}")
        return ""

    def _site_of_torch(self) -> list[str]:
        code = "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
        done = self.proof.run(self.proof.python, "-c", code)
        return [str(Path(done.stdout.strip()).parent)] if done.returncode == 0 else []

    # --- verbs

    def xfdev(self, *words: object, **variables: str) -> dict[str, Any]:
        """What a verb of xfdev says in JSON, with its exit status."""
        done = self.proof.run(self.python, "-m", "xfdev", *words, "--json", limit=500, **variables)
        try:
            said: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            said = {"message": (done.stderr or done.stdout).strip()[-300:]}
        return {**said, "status": done.returncode}

    def commit(self, root: Path) -> None:
        me = ("-c", "user.name=proof", "-c", "user.email=proof@example.org")
        for words in (("init", "-q"), ("add", "-A"), (*me, "commit", "-qm", "all")):
            self.proof.run("git", "-C", root, *words)

    def forget(self, root: Path, *, bundles: bool = False) -> None:
        """Remove what is kept of builds in the checkout, and the store's bundles."""
        shutil.rmtree(root / ".xfdev", ignore_errors=True)
        if bundles:
            shutil.rmtree(self.work / "cache" / "store", ignore_errors=True)

    def machine_code(self, root: Path) -> list[str]:
        """The archs of what is linked in a checkout, as `xfdev arch` reads them."""
        libraries = self.xfdev("arch", root).get("libraries", ())
        return sorted({name for entry in libraries for name in entry["sass"]})

    def bundles(self) -> None:
        """A small project: which of several bundles are linked here, each alone in the store."""
        root = self.work / "kernels"
        shutil.copytree(HERE.parent / "tests" / "projects" / "kernels", root)
        self.commit(root)
        device = self.proof.found.archs[-1]
        machine = compat.Machine(self.proof.found.archs, self.proof.found.driver, self.proof.found.cuda)
        for listed in ("12.0", "8.0", "8.0+PTX"):
            what = f"compiled for {listed}, on {device}"
            self.forget(root, bundles=True)
            made = self.xfdev("prebuild", root, *self.options, "--arch", listed)
            if made["status"]:
                self.table.skip("bundle", f"{listed}: {made.get('message')}")
                continue
            self.forget(root)
            archs = arch.parse(listed)
            code = compat.Code(archs, tuple(entry for entry in archs if entry.ptx))
            words = {"native": "linked", "jit": "linked, with a slow start", "no": "not linked"}
            predicted = words[compat.outcome(code, device, machine).how]
            plan = self.xfdev("plan", root, *self.options)
            how = "no" if plan.get("verdict") != "reuse" else "jit" if plan["notes"] else "native"
            link = self.xfdev("link", root, *self.options)
            seen = f"plan: {words[how]}, missing {plan.get('missing_archs')}; link: exit status {link['status']}"
            right = words[how] == predicted and link["status"] == (27 if how == "no" else 0)
            self.table.add("bundle", what, predicted, seen, right)
            self.xfdev("unlink", root, *self.options)
        self.nobody_names_an_arch(root, str(device))

    def nobody_names_an_arch(self, root: Path, device: str) -> None:
        ways: tuple[tuple[str, tuple[str, ...], dict[str, str]], ...] = (
            ("TORCH_CUDA_ARCH_LIST=auto", (), {"TORCH_CUDA_ARCH_LIST": "auto"}),
            ("--arch auto", ("--arch", "auto"), {}),
            ("no arch named", (), {}),
        )
        for how, words, variables in ways:
            self.forget(root, bundles=True)
            made = self.xfdev("prebuild", root, *self.options, *words, **variables)
            link = self.xfdev("link", root, *self.options)
            found = self.machine_code(root)
            seen = f"machine code for {', '.join(found) or 'nothing'} {made.get('message', '')}".strip()
            right = made["status"] == link["status"] == 0 and found == [device]
            self.table.add("bundle", f"prebuild and link, {how}", f"machine code for {device} alone", seen, right)
            self.xfdev("unlink", root, *self.options)

    # --- a real project

    def project(self) -> None:
        part = "xFormers"
        if not self.proof.args.sdist:
            self.table.skip(part, "no --sdist given")
            return
        with tarfile.open(self.proof.args.sdist) as archive:
            archive.extractall(self.work / "source", filter="data")
        (root,) = (self.work / "source").iterdir()
        self.commit(root)
        started = time.monotonic()
        made = self.xfdev("prebuild", root, *self.options, "--arch", "auto")
        if made["status"]:
            self.table.add(part, f"prebuild of {root.name}", "a bundle", str(made.get("message")), False)
            return
        units = len(made["compiled"]) + len(made["restored"])
        seen = f"{units} units in {time.monotonic() - started:.0f} s"
        self.table.add(part, f"prebuild of {root.name}, --arch auto", "a bundle", seen, True)
        self.forget(root)
        started = time.monotonic()
        link = self.xfdev("link", root, *self.options)
        compiled = len(link.get("compiled", ()))
        seen = f"{link.get('verdict')}, {compiled} compiled, {time.monotonic() - started:.1f} s"
        right = (link["status"], link.get("verdict"), compiled) == (0, "reuse", 0)
        self.table.add(part, "link, after the build was forgotten", "reuse, 0 compiled", seen, right)
        found, wanted = self.machine_code(root), [str(entry) for entry in self.proof.found.archs]
        self.table.add(part, "machine code of its library", ", ".join(wanted), ", ".join(found), found == wanted)
        if self.proof.args.dry_run:
            self.table.skip(part, "no GPU: its operators are not run")
            return
        for group in ("attention", "sparse", "cutlass", "cusparselt", "hopper"):
            self.operators(group, found)

    def operators(self, group: str, archs: list[str]) -> None:
        """The operators of one group, in a process of its own: after an error on the device nothing works there."""
        script = HERE / "gpu_operators.py"
        done = self.proof.run(self.prefix / "bin" / "python", script, group, *archs, limit=240)
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        for row in rows:
            self.table.add(row["part"], row["what"], row["predicted"], row["seen"], row["right"])
        if done.returncode or not rows:
            ended = f"exit status {done.returncode}" if done.returncode >= 0 else f"signal {-done.returncode}"
            # What wants another GPU, or the features of 9.0a, may end the process where it cannot run.
            certain = group not in ("hopper", "cutlass") or (group == "hopper" and "9.0a" in archs)
            said = (done.stderr.strip().splitlines() or [""])[0][:300]
            self.table.add(
                "operators",
                f"{group}: the process",
                "ends well" * certain,
                f"{ended}: {said}",
                False if certain else None,
            )


def _site(prefix: Path) -> Path:
    return next(prefix.glob("lib/python3*/site-packages"))


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1][:300]
