# Runs in front of the compiler in an environment: standard library only, and as little of it as possible.
"""``ccache COMPILER ARGS...`` in the only mode in which it is right for nvcc.

ccache in its default mode gives wrong objects for nvcc: it looks at one device pass only. In depend mode it is
right but for four things, which are mended here (each reproduced with ccache 4.14.2 and nvcc 13.0):

- ``-dc`` and ``-c`` share a key: ``-dc`` is given as ``-rdc=true -c``;
- NVCC_PREPEND_FLAGS and NVCC_APPEND_FLAGS are not part of the key: they become part of the namespace;
- cicc, ptxas and the other tools behind nvcc are not looked at: they are hashed as extra files;
- a new header that shadows another is not noticed: a hit is checked, and compiled anew where it is in doubt.
"""

import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
REAL = os.path.join(HERE, "ccache.real")
TOOLS = (
    "ptxas",
    "cudafe++",
    "fatbinary",
    "nvlink",
    "nvcc.profile",
    "../nvvm/bin/cicc",
    "../nvvm/libdevice/libdevice.10.bc",
)


def main(argv: list) -> int:
    if not argv or argv[0].startswith("-"):
        os.execv(REAL, ["ccache", *argv])
    compiler = which(argv[0])
    nvcc = os.path.basename(compiler).startswith("nvcc")
    argv = rewrite([compiler, *argv[1:]], nvcc)
    if "-c" not in argv or "-o" not in argv:
        os.execv(compiler, argv)  # nothing to cache
    output = argv[argv.index("-o") + 1]
    if "-MF" not in argv:
        argv[1:1] = ["-MD", "-MF", output + ".d"]
    environ = dict(os.environ)
    environ.update(settings(compiler if nvcc else None, environ))
    log = output + ".ccache-log"
    environ["CCACHE_STATSLOG"] = log
    remove(log)
    status = run(argv, environ)
    hit = status == 0 and "cache_hit" in read(log)
    remove(log)
    if hit and doubtful(argv, output):
        environ["CCACHE_RECACHE"] = "1"
        environ.pop("CCACHE_STATSLOG")
        status, hit = run(argv, environ), False
    note = os.environ.get("XFDEV_LAUNCH_LOG")
    if note and status == 0:
        with open(note, "a") as stream:
            stream.write(("hit " if hit else "miss ") + os.path.abspath(output) + "\n")
    return status


def rewrite(argv: list, nvcc: bool) -> list:
    words = []
    for word in argv:
        if word == "-MMD":
            words.append("-MD")  # headers of the system count too, and both ways of building share entries
        elif nvcc and word in ("-dc", "--device-c"):
            words += ["-rdc=true", "-c"]
        else:
            words.append(word)
    return words


def settings(nvcc, environ) -> dict:
    extra = [path for path in environ.get("CCACHE_EXTRAFILES", "").split(":") if path]
    namespace = environ.get("CCACHE_NAMESPACE", "xfdev")
    if nvcc is not None:
        folder = os.path.dirname(os.path.realpath(nvcc))
        extra += [path for path in (os.path.join(folder, tool) for tool in TOOLS) if os.path.exists(path)]
        for name in ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"):
            namespace += "|" + environ.get(name, "")
    return {
        "CCACHE_DEPEND": "1",
        "CCACHE_DIRECT": "1",
        "CCACHE_COMPILERCHECK": "content",
        "CCACHE_NOHASHDIR": "1",
        "CCACHE_SLOPPINESS": "",
        "CCACHE_NAMESPACE": namespace,
        "CCACHE_EXTRAFILES": ":".join(extra),
    }


def doubtful(argv: list, output: str) -> bool:
    """Whether the object that came from the cache might be another one with the files that are there now."""
    checkout = os.environ.get("CCACHE_BASEDIR")
    if not checkout:
        return False
    import shadows

    cwd = os.getcwd()
    text = read(argv[argv.index("-MF") + 1])
    dependencies = shadows.parse_depfile(text, cwd)
    if not dependencies:
        return True
    folders = shadows.search_path(argv, cwd)
    own = [path for path in dependencies if shadows.is_source_path(path, checkout)]
    scanned = shadows.scan(own, folders)
    if scanned.opaque:
        return True
    candidates = shadows.files_below(shadows.roots(own, folders, checkout))
    found = shadows.find(dependencies, folders, candidates, scanned)
    known = set()
    if found and os.environ.get("XFDEV_BASELINE"):
        # One line a unit and file: seen beside this very unit when it was last compiled, and not taken.
        source = own[0] if own else ""
        for line in read(os.environ["XFDEV_BASELINE"]).splitlines():
            unit, _, path = line.partition("\t")
            if os.path.join(checkout, unit) == source:
                known.add(os.path.join(checkout, path))
    return not known.issuperset(found)


def which(name: str) -> str:
    if os.sep in name:
        return name
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    sys.exit(f"ccache: {name} is not on PATH")


def run(argv: list, environ: dict) -> int:
    pid = os.posix_spawn(REAL, ["ccache", *argv], environ)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def read(path: str) -> str:
    try:
        with open(path, errors="surrogateescape") as stream:
            return stream.read()
    except OSError:
        return ""


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


if __name__ == "__main__":
    sys.path.insert(0, HERE)
    code = main(sys.argv[1:])
    if code < 0:
        os.kill(os.getpid(), -code)  # die as the compiler died, so that a kill for memory is seen as one
    sys.exit(code)
