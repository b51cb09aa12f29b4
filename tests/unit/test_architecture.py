"""What may know what: facts know no decisions, decisions no actions, and each rule stands in one place."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import scheduler
import xfdev

ROOT = Path(xfdev.__file__).parent
#: Scripts that run in the user's environment, without xfdev.
RESOURCES = ROOT / "resources"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(ROOT.rglob("*.py"))
    if not path.is_relative_to(RESOURCES)
}

#: What is: read from the checkout, the machine, the binaries.
FACTS = {
    "checkout", "toolchain", "inputs", "settled", "elf", "fatbin", "needs", "arch", "limits", "shadows", "stamps",
    "bundle", "gpu", "nvml", "trees",
    "devices", "gpu_families", "cuda_releases", "arch_variables", "connections", "engine_login",
    "doctor.facts", "doctor.wanted", "doctor.look.ask", "doctor.look.certificate", "doctor.look.chain",
    "doctor.look.connect", "doctor.look.engine", "doctor.look.hardware", "doctor.look.host_compiler",
    "doctor.look.index", "doctor.look.place", "doctor.look.registry", "doctor.look.settings", "doctor.look.tree",
}  # fmt: skip
#: What follows from it.
DECISIONS = {
    "plan", "compat", "kernels", "trust", "history", "nightly.decide", "nightly.prune",
    "doctor.words", "doctor.compare", "doctor.checks.checkout", "doctor.checks.engine",
    "doctor.checks.gpu", "doctor.checks.machine", "doctor.checks.network", "doctor.checks.toolchain",
}  # fmt: skip
#: What changes something: files, environments, processes that compile.
ACTIONS = {
    "compile", "configure", "link", "venv", "make_venv", "launchers", "sources", "execute", "children", "orphans",
    "submodules", "clones", "live_view", "on_import", "cuda_tools",
    "arrivals", "sdist", "index", "record", "stores.local", "stores.release", "stores.afar",
    "stores.answers", "stores.artifact", "stores.oci", "stores.packing", "stores.reference", "stores.registry",
    "stores.transfer", "stores.signature", "stores.signing", "stores.keys", "lockfile", "compile_cache",
    "nightly.shelf", "nightly.lease", "libraries", "editable",
    "doctor.repair",
}  # fmt: skip


def imports(path: Path) -> set[str]:
    """The modules of xfdev that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name == "xfdev" or name.startswith("xfdev."):
                short = name.removeprefix("xfdev").removeprefix(".")
                if short in MODULES:
                    found.add(short)
                elif short in {"commands", "stores"}:
                    found.add(short + ".__init__")
    return found


def external(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def test_the_lists_name_modules_that_exist() -> None:
    for group in (FACTS, DECISIONS, ACTIONS):
        assert group <= set(MODULES), group - set(MODULES)
    assert not FACTS & ACTIONS
    assert IMPORTS["commands.build"] >= {"commands.apply", "commands.session", "cli"}, "imports are not seen"


@pytest.mark.parametrize("name", sorted(FACTS))
def test_facts_know_neither_decisions_nor_actions(name: str) -> None:
    assert not IMPORTS[name] & (DECISIONS | ACTIONS)


@pytest.mark.parametrize("name", sorted(DECISIONS))
def test_decisions_know_no_actions(name: str) -> None:
    assert not IMPORTS[name] & ACTIONS
    # Pure: nothing that could read a file or start a process.
    assert not external(MODULES[name]) & {"os", "subprocess", "pathlib", "shutil", "time", "socket"}
    assert not IMPORTS[name] & {"run", "files", "console"}


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_actions_do_not_decide(name: str) -> None:
    assert not IMPORTS[name] & DECISIONS


def test_only_the_command_line_knows_commands() -> None:
    for name, known in IMPORTS.items():
        if not name.startswith("commands.") and name not in ("cli", "__main__"):
            assert not {other for other in known if other.startswith("commands.")}, name


def test_errors_know_nothing() -> None:
    assert IMPORTS["errors"] == set()
    assert IMPORTS["console"] == set()


def test_no_cycles() -> None:
    # Between modules as they are loaded; imports inside of functions break some on purpose.
    top = {}
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text())
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        plain = path.parent / f".{path.name}"
        del plain
        found = set()
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xfdev"):
                base = (node.module or "").removeprefix("xfdev").removeprefix(".")
                names = [base, *(f"{base}.{alias.name}".removeprefix(".") for alias in node.names)]
                found |= {entry for entry in names if entry in MODULES}
        top[name] = found
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for other in sorted(top[name]):
                visit(other, (*above, name))
            done.add(name)

    for name in top:
        visit(name, ())


def test_only_run_starts_processes() -> None:
    """And the scripts in resources, which run without xfdev."""
    for name, path in MODULES.items():
        if name != "run":
            assert "subprocess" not in external(path), name
            calls = re.findall(r"\bos\.(system|popen|fork|exec\w+|spawn\w+|posix_spawn\w*)\b", path.read_text())
            assert calls == [], name


def test_only_the_command_line_prints_and_exits() -> None:
    for name, path in MODULES.items():
        called = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        if name not in ("cli", "start"):
            assert not called & {"print", "exit", "quit"}, name
        if name not in ("cli", "__main__"):
            assert not re.search(r"\bsys\.exit\b|\bSystemExit\b", path.read_text()), name


def test_no_process_gets_a_shell() -> None:
    for name, path in MODULES.items():
        assert "shell=" not in path.read_text(), name


PROJECTS = re.compile(r"xformers|flash", re.IGNORECASE)


def test_no_project_is_named_in_code() -> None:
    """Not in an example or a comment either: what is particular to a project belongs into resources/profiles."""
    for path in (*MODULES.values(), *RESOURCES.rglob("*.py")):
        assert not PROJECTS.search(path.read_text()), path


def test_names_of_modules() -> None:
    for name in MODULES:
        assert not set(name.split(".")) & {"utils", "util", "helpers", "misc", "common", "base", "core"}, name


def test_every_module_says_what_it_is_for() -> None:
    for name, path in MODULES.items():
        if path.read_text().strip():
            assert ast.get_docstring(ast.parse(path.read_text())), name


def test_what_runs_without_xfdev_does_not_import_it() -> None:
    for path in RESOURCES.rglob("*.py"):
        assert "xfdev" not in external(path), path
    # The launcher takes the one along, what runs on import the other.
    assert IMPORTS["shadows"] == IMPORTS["stamps"] == set()


def test_tests_that_share_the_cuda_environment_share_a_process() -> None:
    tests = Path(__file__).parents[1]
    users = {path.name for path in tests.glob("*/test_*.py") if re.search(r"\bcuda_prefix\b", path.read_text())}
    assert {path for path in users if path != Path(__file__).name} == set(scheduler.CUDA_FILES)
    assert scheduler.group("tests/container/test_engine.py::test_it[a::b]") == "engine"
    assert scheduler.group("tests/unit/test_arch.py::test_it") == "tests/unit/test_arch.py"
