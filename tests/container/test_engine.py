"""The engine that other tests stand on does what they need: builds that reach package indexes, a registry whose images
serve as cache, dev containers; and it keeps nothing of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

import engine as engines
import workspaces
from engine import Engine

#: Installs with apt and with pip; what the network of this machine needs comes as secrets and stays out of the image.
DOCKERFILE = """\
FROM {base}
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip --mount=type=secret,id=apt \\
    set -eu; s=/run/secrets; \\
    if [ -s $s/apt ]; then set -- -o Dir::Etc::sourcelist=$s/apt -o Dir::Etc::sourceparts=/dev/null; fi; \\
    apt-get "$@" update -qq; \\
    DEBIAN_FRONTEND=noninteractive apt-get "$@" install -y -qq --no-install-recommends python3-pip ca-certificates \\
      >/dev/null; \\
    cat /etc/ssl/certs/ca-certificates.crt >/tmp/ca; if [ -s $s/ca ]; then cat $s/ca >>/tmp/ca; fi; \\
    if [ -s $s/pip ]; then export PIP_CONFIG_FILE=$s/pip; fi; \\
    PIP_CERT=/tmp/ca pip download --quiet --no-deps --dest /wheels iniconfig==2.0.0; \\
    rm -rf /tmp/ca /var/lib/apt/lists/*; : {word}; cat /proc/sys/kernel/random/uuid >/which
"""


def records(engine: Engine, word: str) -> list[str]:
    """What the builder keeps of steps with *word* in them."""
    known = engine.docker("buildx", "du", "--verbose").stdout.split("\n\n")
    return [match[1] for text in known if word in text and (match := re.search(r"^ID:\s+(\S+)", text, re.M))]


def forget(engine: Engine, word: str) -> None:
    """Remove those; the builder holds them for a moment after their image is gone."""
    deadline = time.monotonic() + 60
    while found := records(engine, word):
        assert time.monotonic() < deadline, engine.docker("buildx", "du", "--verbose").stdout
        for record in found:
            engine.docker("buildx", "prune", "--all", "--force", "--filter", f"id={record}", check=False)
        time.sleep(0.5)


@pytest.mark.parametrize("release", ["12", "13"])
def test_base_is_as_small_as_debians(engine: Engine, release: str) -> None:
    base = {"12": engine.base12, "13": engine.base13}[release]
    leftover = "find /usr/share/man /var/cache/apt/*.bin -type f 2>/dev/null | wc -l"
    script = f". /etc/os-release; echo $VERSION_ID; {leftover}; pwd; id -u"
    done = engine.docker("run", "--rm", "--init", "--name", engine.name("base"), base, "sh", "-c", script)
    assert done.stdout.split() == [release, "0", "/", "0"]
    layers = json.loads(engine.docker("image", "inspect", base).stdout)[0]["RootFS"]["Layers"]
    assert len(layers) == 1


def test_only_programs_of_the_tests_and_of_containers_are_counted(engine: Engine, tmp_path: Path) -> None:
    run = "for program in {}; do cp /bin/true /tmp/$program && /tmp/$program; done"
    with workspaces.counted(tmp_path) as programs:
        subprocess.run(["sh", "-c", run.format("cc1 ninja").replace("/tmp", str(tmp_path))], check=True)
        words = ("run", "--rm", "--name", engine.name("counted"), engine.base12, "sh", "-c", run.format("cicc"))
        engine.docker(*words)
        # One that another process has started: its parent is gone before it starts.
        away = f"setsid sh -c 'sleep 0.3; cp /bin/true {tmp_path}/ptxas; {tmp_path}/ptxas; : >{tmp_path}/ended' &"
        subprocess.run(["sh", "-c", away], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not (tmp_path / "ended").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert workspaces.compilers(programs) == {"cc1": 1, "ninja": 1, "cicc": 1}


def test_build_push_and_build_again_from_the_registrys_cache(engine: Engine, tmp_path: Path) -> None:
    # No earlier run has built this step, and what the builder keeps of it can be told from the rest.
    word, image = f"built-by-{os.getpid()}", engine.pushed("cached")
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.format(base=engine.base13, word=word))
    build = ("buildx", "build", *engine.secrets(), "--progress=plain", "--load")
    engine.docker(*build, "--cache-to", "type=inline", "--tag", image, tmp_path)
    which = engine.docker("run", "--rm", "--name", engine.name("first"), image, "cat", "/which").stdout
    assert records(engine, word)
    engine.docker("push", "--quiet", image)
    engine.docker("image", "rm", image)
    forget(engine, word)
    cache = ("--cache-from", f"type=registry,ref={image}")
    again = engine.docker(*build, *cache, "--tag", engine.name("again"), tmp_path)

    run = ("run", "--rm", "--name", engine.name("cached"), engine.name("again"))
    said = engine.docker(*run, "sh", "-c", "cat /which; ls /wheels; cat /etc/ssl/certs/ca-certificates.crt").stdout
    assert said.startswith(which), again.stderr
    assert "iniconfig-2.0.0" in said
    assert "BEGIN CERTIFICATE" in said
    own = engine.env.get("XFDEV_BUILD_CA", "").split("-----BEGIN CERTIFICATE-----\n")[1:]
    assert not [certificate for certificate in own if certificate.split()[0] in said]
    assert engine.docker(*run, "ls", "/run/secrets", check=False).returncode != 0


def test_dev_container_comes_up(engine: Engine, tmp_path: Path) -> None:
    folder = engine.folder(tmp_path, "trivial")
    settings = {"image": engine.base13, "init": True, "postCreateCommand": "cp greeting answer"}
    (folder / ".devcontainer.json").write_text(json.dumps(settings))
    (folder / "greeting").write_text("hello\n")
    up = engine.up(folder)
    assert up["outcome"] == "success"
    assert (folder / "answer").read_text() == "hello\n"
    said = engine.devcontainer("exec", "--workspace-folder", folder, "cat", "answer")
    assert said.stdout == "hello\n"


def test_nothing_stays(engine: Engine, tmp_path: Path) -> None:
    volume, image = engine.name("volume"), engine.pushed("kept")
    engine.docker("volume", "create", volume)
    engine.docker("tag", engine.base13, image)
    engine.docker("push", "--quiet", image)
    engine.docker("run", "--detach", "--label", engine.label, image, "sleep", "600")
    other = Engine(engine.env, engine.registry, engine.base12, engine.base13, owner=os.getppid())
    theirs = other.name("volume")
    engine.docker("volume", "create", theirs)
    engine.clean()
    assert theirs in engine.docker("volume", "ls", "--quiet").stdout, "other tests still need it"
    other.clean()
    for listing in (("ps", "-a"), ("image", "ls"), ("volume", "ls")):
        rest = engine.docker(*listing).stdout
        assert f"xfdev-test-p{engine.owner}" not in rest
        assert f"xfdev-test-p{other.owner}" not in rest
    assert not engine.docker("ps", "--quiet", "--filter", f"label={engine.label}").stdout
    assert engine.docker("pull", "--quiet", image, check=False).returncode != 0
    assert engine.docker("pull", "--quiet", engine.base13).returncode == 0


def test_pip_settings_that_a_container_cannot_use_stay_out() -> None:
    listed = [
        "global.index-url='https://packages.example.org/simple'",
        "global.extra-index-url='file:///opt/simple https://more.example.org/simple'",
        "global.cert='/etc/ssl/certs/ca-certificates.crt'",
        "global.find-links='/opt/wheels'",
        ":env:.default-timeout='180'",
        "list.format='columns'",
    ]
    assert engines.pip_conf(listed).split("\n") == [
        "[global]",
        "index-url = https://packages.example.org/simple",
        "extra-index-url = https://more.example.org/simple",
        "default-timeout = 180",
        "",
        "",
    ]
    assert engines.pip_conf(["global.cert='/etc/ssl/x'"]) == ""


def test_secrets_fit_into_an_environment(tmp_path: Path) -> None:
    assert engines.certificates(tmp_path) == ""
    (tmp_path / "own.crt").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----")
    assert engines.certificates(tmp_path).endswith("-----END CERTIFICATE-----\n")
    assert all(len(text) < 128 << 10 for text in engines.build_secrets(os.environ).values())
