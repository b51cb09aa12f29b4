"""``xfdev image build`` and the bake file, on the real builder; the image is of two lines, its registry real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine import Engine
from support import git
from xfdev import devcontainer

ROOT = Path(__file__).parents[2]

#: What BuildKit asks of a generator: read what lies below BUILDKIT_SCAN_SOURCE, write statements into
#: BUILDKIT_SCAN_DESTINATION. Source: docs/attestations/sbom-protocol.md of moby/buildkit.
GENERATOR = """\
#!/bin/sh
set -eu
test -d "$BUILDKIT_SCAN_SOURCE"
cat > "$BUILDKIT_SCAN_DESTINATION/packages.spdx.json" <<END
{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document",
 "predicate": {"spdxVersion": "SPDX-2.3", "name": "$(cat "$BUILDKIT_SCAN_SOURCE/which")"}}
END
"""


@pytest.fixture
def folder(engine: Engine, tmp_path: Path) -> Path:
    made = engine.folder(tmp_path, "image")
    (made / ".devcontainer").mkdir()
    (made / ".devcontainer/Dockerfile").write_text(
        f"FROM {engine.base12}\nRUN cat /proc/sys/kernel/random/uuid > /which\n"
    )
    config = {"build": {"dockerfile": "Dockerfile", "context": ".."}}
    (made / ".devcontainer/devcontainer.json").write_text(json.dumps(config))
    git(made, "init", "-q")
    return made


def xfdev(engine: Engine, *words: str | Path) -> dict[str, Any]:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "xfdev"), *map(str, words), "--json"],
        env=engine.env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def statements(engine: Engine, name: str, tag: str) -> list[str]:
    """The types of what is attached to an image in the registry."""
    index = engine._ask(f"/v2/{name}/manifests/{tag}")[0]
    found = []
    for entry in index.get("manifests", ()):
        if entry.get("annotations", {}).get("vnd.docker.reference.type") == "attestation-manifest":
            manifest = engine._ask(f"/v2/{name}/manifests/{entry['digest']}")[0]
            found += [layer["annotations"]["in-toto.io/predicate-type"] for layer in manifest["layers"]]
    return found


def test_what_is_inside_and_how_it_was_built_go_with_the_image(engine: Engine, folder: Path, tmp_path: Path) -> None:
    generator = engine.pushed("generator")
    context = tmp_path / "generator"
    context.mkdir()
    (context / "scan").write_text(GENERATOR)
    (context / "scan").chmod(0o755)
    (context / "Dockerfile").write_text(f'FROM {engine.base12}\nCOPY scan /scan\nENTRYPOINT ["/scan"]\n')
    engine.docker("buildx", "build", "-q", "--push", "--provenance=false", "-t", generator, context)

    name = engine.pushed("attested")
    xfdev(engine, "image", "build", folder, "--tag", f"{name}:1", "--push", "--sbom", generator)
    said = statements(engine, name.partition("/")[2], "1")
    assert "https://spdx.dev/Document" in said
    assert any("slsa.dev/provenance" in kind for kind in said)
    xfdev(engine, "image", "build", folder, "--tag", f"{name}:2", "--push", "--no-provenance")
    assert statements(engine, name.partition("/")[2], "2") == []


def test_a_cache_of_its_own_serves_a_machine_that_has_nothing(engine: Engine, folder: Path) -> None:
    name = engine.pushed("cached")
    words = ("image", "build", folder, "--push", "--cache-to", f"{name}:cache", "--cache-from", f"{name}:cache")
    digests = []
    for tag in ("1", "2"):
        xfdev(engine, *words, "--tag", f"{name}-{tag}:x")
        manifest = engine._ask(f"/v2/{name.partition('/')[2]}-{tag}/manifests/x")[0]
        inner = manifest["manifests"][0]["digest"]
        digests.append(engine._ask(f"/v2/{name.partition('/')[2]}-{tag}/manifests/{inner}")[0]["layers"])
        engine.docker("image", "rm", "-f", f"{name}-{tag}:x", check=False)
        engine.docker("builder", "prune", "--all", "--force")
    assert digests[0] == digests[1], "the step that writes a random number ran again"


def test_bake_builds_what_the_dev_container_would(engine: Engine) -> None:
    """The same Dockerfile, context, secrets and arguments, so that the one is the other's cache."""
    done = engine.docker("buildx", "bake", "-f", ROOT / "docker-bake.hcl", "--print", cwd=ROOT)
    plan = json.loads(done.stdout)
    assert set(plan["group"]["default"]["targets"]) == {"cu130", "cu128", "cpu"}
    config = devcontainer.read((ROOT / ".devcontainer/devcontainer.json").read_text())
    options = {word.partition("=")[2] for word in config["build"]["options"] if word.startswith("--secret=")}
    for name, target in plan["target"].items():
        assert target["context"] == "."
        assert (ROOT / target["dockerfile"]).is_file()
        assert set(target["secret"]) == options
        assert target["args"]["XFORMERS_FIRST_BUILD_URL"] == config["build"]["args"]["XFORMERS_FIRST_BUILD_URL"]
        assert any(image.endswith(f":{name}") for image in target["tags"])
        assert (ROOT / f".devcontainer/requirements/{name}.txt").is_file()
