"""The workflow is what its tool writes, is one that GitHub takes, and may do no more than it needs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xfdev.nightly import settings

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github/workflows/nightly.yml"


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    yaml = pytest.importorskip("ruamel.yaml", reason="comes with check-jsonschema")
    value: dict[str, Any] = yaml.YAML(typ="safe").load(WORKFLOW.read_text())
    return value


def test_it_is_as_generated() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/nightly_workflow.py", "--check"], stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == 0, done.stdout


def test_github_takes_it() -> None:
    pytest.importorskip("check_jsonschema", reason="pip install -e '.[test]'")
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*words, str(WORKFLOW)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_refuses_what_is_wrong(tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="pip install -e '.[test]'")
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(WORKFLOW.read_text().replace("runs-on:", "runs-with:"))
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    assert subprocess.run([*words, str(wrong)], capture_output=True).returncode != 0


def test_actions_are_taken_by_commit() -> None:
    used = re.findall(r"uses: (.*)", WORKFLOW.read_text())
    assert used
    for word in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", word), word


def test_jobs_may_do_no_more_than_they_need(workflow: dict[str, Any]) -> None:
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        allowed = (
            {"pages": "write", "id-token": "write"} if name == "page" else {"contents": "read", "packages": "write"}
        )
        assert job["permissions"] == allowed, name
        assert job["timeout-minutes"] < 360, "hosted runners stop a job after six hours"


def test_nothing_that_others_wrote_gets_into_a_script(workflow: dict[str, Any]) -> None:
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), step


def test_every_cell_has_its_job(workflow: dict[str, Any]) -> None:
    chosen = settings.read(ROOT / "nightly.toml")
    jobs = workflow["jobs"]
    assert jobs["image"]["strategy"]["matrix"]["variant"] == [variant.name for variant in chosen.variants]
    cells = jobs["bundle"]["strategy"]["matrix"]["cell"]
    assert cells == [f"{v.name}/{arch or 'none'}" for v in chosen.variants for arch in v.archs or ("",)]
    assert workflow[True if True in workflow else "on"]["schedule"] == [{"cron": "0 1 * * *"}]


def test_commands_of_the_workflow_are_ones_that_it_takes(workflow: dict[str, Any]) -> None:
    import shlex

    from xfdev import cli

    runs = [
        step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "xfdev " in step.get("run", "")
    ]
    lines = [line for run in runs for line in run.splitlines() if line.startswith("xfdev ")]
    assert len(lines) == 4
    for line in lines:
        words = shlex.split(line.partition(">")[0])
        assert cli.parser("nightly").parse_args(words[1:]).verb == "nightly"


def test_what_the_settings_name_is_there() -> None:
    chosen = settings.read(ROOT / "nightly.toml")
    for variant in chosen.variants:
        assert (ROOT / variant.lock).is_file()
    for name in chosen.watch:
        assert (ROOT / name).exists(), name
