# Stands in front of ninja in an environment: standard library only.
"""Two duties beside running ninja.

``XFDEV_NINJA_LOG`` set: a build is being recorded. The commands of the ``build.ninja`` in this folder are written
there, one JSON object a line, instead of being run; objects are created empty, so that the build script goes on.

Otherwise, in a build folder of xfdev: ninja forgets what it knows first. It decides by file times, which a branch
switch, an archive or a clock can set back; ccache, behind every command, decides by contents.
"""

import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
REAL = os.path.join(HERE, "ninja.real")


def record(arguments: list, log_path: str) -> None:
    import json
    import shlex
    import subprocess

    folder = arguments[arguments.index("-C") + 1] if "-C" in arguments else "."
    folder = os.path.abspath(folder)
    done = subprocess.run([REAL, "-C", folder, "-t", "compdb"], stdout=subprocess.PIPE, text=True, check=True)
    with open(log_path, "a") as log:
        # ninja prints "Entering directory" first when -C is given
        for entry in json.loads(done.stdout[done.stdout.index("[") :]):
            argv = shlex.split(entry["command"])
            output = os.path.join(folder, entry["output"])
            log.write(
                json.dumps(
                    {
                        "kind": "compile" if "-c" in argv or "-dc" in argv else "step",
                        "cwd": folder,
                        "argv": argv,
                        "source": os.path.join(folder, entry["file"]),
                        "output": output,
                    }
                )
                + "\n"
            )
            os.makedirs(os.path.dirname(output), exist_ok=True)
            with open(output, "wb"):
                pass


def main(arguments: list) -> None:
    asks = "--version" in arguments or "-t" in arguments
    if not asks and "XFDEV_NINJA_LOG" in os.environ:
        record(arguments, os.environ["XFDEV_NINJA_LOG"])
        return
    if not asks and os.sep + ".xfdev" + os.sep in os.getcwd() + os.sep:
        for name in (".ninja_log", ".ninja_deps"):
            if os.path.exists(name):
                os.unlink(name)
    os.execv(REAL, ["ninja", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
