# Runs in front of the compiler in an environment: standard library only, and as little of it as possible.
"""``ccache COMPILER ARGS...`` in the only mode in which it is right for nvcc.

ccache in its default mode gives wrong objects for nvcc: it looks at one device pass only. In depend mode it is
right but for what is mended here (each shown with ccache 4.14.2 and nvcc 13.0 in tests/integration/test_launcher_*):

- ``-dc`` and ``-c`` share a key: ``-dc`` is given as ``-rdc=true -c``;
- variables that nvcc reads are not part of the key: flags in them are given as arguments, or nothing is cached;
- cicc, ptxas and the other tools behind nvcc are not looked at: their contents are part of the key;
- a new header that shadows another is not noticed: a hit is checked, and compiled anew where it is in doubt;
- a file saved while it is compiled may be stored as if it had been read so: guard.py keeps such a compile out,
  and runs nvcc's commands side by side where a CPU is free (phases.py);
- the user's own settings and configuration files of ccache can loosen it: those that could are not passed on.

What cannot be told from the command line (files of options, wrapper scripts, ``native``) is compiled, not cached.
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
#: Settings of ccache that do not change which object comes back; those of a user that are not here are left out.
KEPT = (
    *("BASEDIR", "COMPRESS", "COMPRESSLEVEL", "DEBUG", "DEBUGDIR", "DEBUGLEVEL", "DIR", "INODECACHE", "LOGFILE"),
    *("MAXFILES", "MAXSIZE", "NOCOMPRESS", "NOINODECACHE", "READONLY", "RECACHE", "REMOTE_ONLY", "REMOTE_STORAGE"),
    *("RESHARE", "TEMPDIR", "UMASK"),
)
#: The same, by their names in a configuration file (``ccache --max-size`` writes one).
CONFIGURED = {"max_size": "MAXSIZE", "max_files": "MAXFILES", "compression_level": "COMPRESSLEVEL", "umask": "UMASK"}
#: Variables that decide what a compiler does and that ccache does not know: the assignments with += in nvcc.profile
#: add to what is set, and gcc looks for its own parts there.
UNKNOWN = (
    *("INCLUDES", "SYSTEM_INCLUDES", "CUDAFE_FLAGS", "PTXAS_FLAGS", "NVVM_FLAGS", "CICC_PATH", "NVVMIR_LIBRARY_DIR"),
    *("COMPILER_PATH", "GCC_EXEC_PREFIX"),
)
#: Options with other results than an object, in files that a hit would not bring back, or known to no ccache.
UNCACHED = (
    "--keep",
    "-keep",
    "-save-temps",
    "--save-temps",
    "-optf",
    "--options-file",
    "--generate-dep",
    "--generate-nonsys",
    "--dependency-",
)
WRAPPERS = ("ccache", "sccache", "distcc", "icecc")
SYSTEM = ("/usr/include", "/usr/lib", "/usr/lib64", "/usr/share", "/usr/local/include", "/usr/local/cuda")
MOST_FILES = 50_000  # a walk through more takes longer than many a compile


def main(argv: list) -> int:
    if not argv or argv[0].startswith("-"):
        os.execv(REAL, ["ccache", *argv])
    compiler = which(argv[0])
    nvcc = any(os.path.basename(path).startswith("nvcc") for path in (compiler, os.path.realpath(compiler)))
    environ = dict(os.environ)
    given = [compiler, *argv[1:]]
    argv = rewrite(with_variables(given, environ) if nvcc else given, nvcc)
    if argv.count("-c") != 1 or argv.count("-o") != 1:
        os.execv(compiler, given + timed(nvcc, environ))  # nothing to cache
    output = argv[argv.index("-o") + 1]
    argv, dependencies = with_dependencies(argv, output)
    if not dependencies or environ.get("CCACHE_DISABLE") or not cacheable(argv, nvcc, environ):
        if nvcc and dependencies and environ.get("XFDEV_NVCC_PHASES") == "1":
            import phases

            status = phases.side_by_side(argv, environ)
            if status is not None:
                return status
        os.execve(compiler, argv + timed(nvcc, environ), environ)
    from guard import marked, remove

    mark, log = os.path.abspath(output) + ".compiling", output + ".ccache-log"
    if not marked(mark):
        os.execve(compiler, argv + timed(nvcc, environ), environ)  # it says why it cannot write there
    environ = settings(argv, nvcc, environ)
    environ["XFDEV_MARK"] = mark
    environ["CCACHE_STATSLOG"] = log
    remove(log)
    status = through_ccache(argv, environ, output)
    said = read(log)
    remove(log)
    hit = status == 0 and "cache_hit" in said
    if status == 0 and "cache_miss" not in said and doubtful(argv, compiler, read(dependencies)):
        environ["CCACHE_RECACHE"] = "1"
        environ.pop("CCACHE_STATSLOG")
        remove(output)  # should it not compile, the object in doubt must not stay behind
        remove(dependencies)
        status, hit = through_ccache(argv, environ, output), False
    remove(mark)
    note = os.environ.get("XFDEV_LAUNCH_LOG")
    if note and status == 0:
        with open(note, "a") as stream:
            stream.write(("hit " if hit else "miss ") + os.path.abspath(output) + "\n")
    return status


def through_ccache(argv: list, environ: dict, output: str) -> int:
    from guard import run

    status = run(REAL, ["ccache", *argv], environ)
    # Without the mark: compiled, and on purpose not stored.
    return status if os.path.exists(environ["XFDEV_MARK"]) or not os.path.exists(output) else 0


def timed(nvcc: bool, environ: dict) -> list:
    """The option with which nvcc notes its phases, where that is asked for."""
    folder = environ.get("XFDEV_NVCC_TIMES")
    return ["--time", os.path.join(folder, str(os.getpid()))] if nvcc and folder else []


def with_variables(argv: list, environ: dict) -> list:
    """The command with the flags that nvcc takes from variables, which are removed from *environ*.

    Quotes and backslashes are for nvcc alone to understand: such flags stay where they are (see ``cacheable``).
    """
    for name in ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"):
        flags = environ.get(name, "")
        if not set(flags) & set("\"'\\"):
            environ.pop(name, None)
            words = flags.split()
            argv = [argv[0], *words, *argv[1:]] if "PREPEND" in name else [*argv, *words]
    return argv


def rewrite(argv: list, nvcc: bool) -> list:
    words = []
    for word in argv:
        if word == "-MMD":
            words.append("-MD")  # headers of the system count too, and both ways of building share entries
        elif nvcc and word in ("-dc", "--device-c"):
            words += ["-rdc=true", "-c"]
        elif word != "-c" or "-c" not in words:  # torch gives it twice
            words.append(word)
    return words


def with_dependencies(argv: list, output: str) -> tuple:
    """The command with a dependency file, and its path; None for one that is asked for in an unusual way."""
    asked = [word for word in argv if word.startswith(("-M", "-Wp,-M"))]
    if not asked:
        return [argv[0], "-MD", "-MF", output + ".d", *argv[1:]], output + ".d"
    if "-MD" not in asked or any(word not in ("-MD", "-MF", "-MP", "-MT", "-MQ") for word in asked):
        return argv, None
    if "-MF" in asked:
        return argv, argv[argv.index("-MF") + 1] if asked.count("-MF") == 1 else None
    place = os.path.splitext(output)[0] + ".d"
    return [argv[0], "-MF", place, *argv[1:]], place


def cacheable(argv: list, nvcc: bool, environ: dict) -> bool:
    unknown = (*UNKNOWN, "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS") if nvcc else UNKNOWN[-2:]
    if any(environ.get(name) for name in unknown):
        return False
    for word in argv[1:]:
        if word.startswith(("@", *UNCACHED)) or ",@" in word or word == "native" or "=native" in word:
            return False
    return not any(is_script(path) for path in (argv[0], *(host_compilers(argv, environ) if nvcc else ())))


def host_compilers(argv: list, environ: dict) -> list:
    """What nvcc compiles the host's part with, where it is a file."""
    named = [environ.get("NVCC_CCBIN", "")]
    for index, word in enumerate(argv):
        if word in ("-ccbin", "--compiler-bindir"):
            named.append(argv[index + 1] if index + 1 < len(argv) else "")
        elif word.startswith(("-ccbin=", "--compiler-bindir=")):
            named.append(word.partition("=")[2])
    named = [name for name in named if name] or ["gcc", "g++"]
    found = []
    for name in named:
        paths = [os.path.join(name, part) for part in ("gcc", "g++")] if os.path.isdir(name) else [which(name, name)]
        found += [path for path in paths if os.path.isfile(path)]
    return found


def is_script(path: str) -> bool:
    """Whether *path* is a wrapper: what stands behind it may change while it stays as it is."""
    try:
        with open(path, "rb") as stream:
            return stream.read(2) == b"#!"
    except OSError:
        return True


def settings(argv: list, nvcc: bool, environ: dict) -> dict:
    """The variables to run ccache with: the user's, less those that could make it less exact."""
    kept = {"CCACHE_" + name for name in KEPT}
    result = {name: value for name, value in environ.items() if not name.startswith("CCACHE_") or name in kept}
    place, _, below = os.getcwd().partition(os.sep + ".xfdev" + os.sep)
    if below:
        result["CCACHE_BASEDIR"] = place  # an environment may serve several checkouts
    for line in read(os.path.join(environ.get("CCACHE_DIR") or HERE, "ccache.conf")).splitlines():
        key, _, value = line.partition("=")
        name = CONFIGURED.get(key.strip())
        if name and value.strip():
            result.setdefault("CCACHE_" + name, value.strip())
    shared = read(os.path.join(os.path.dirname(HERE), "compile-cache")).strip()
    if shared:
        result.setdefault("CCACHE_REMOTE_STORAGE", shared)  # a build typed by hand; xfdev itself sets it
    compiler = argv[0]
    files = [compiler]
    prefix = ["guard"]
    if nvcc:
        folders = (os.path.dirname(compiler), os.path.dirname(os.path.realpath(compiler)))
        files += [os.path.join(folder, tool) for folder in folders for tool in TOOLS]
        files += host_compilers(argv, environ)
        result["CCACHE_COMPILERTYPE"] = "nvcc"  # whatever a link to it is called
        if environ.get("XFDEV_NVCC_TIMES"):
            prefix.append("timed")
    if " " in HERE:  # where ccache would see two programs, they are looked for by their names
        result["PATH"] = HERE + os.pathsep + environ.get("PATH", os.defpath)
    else:
        prefix = [os.path.join(HERE, name) for name in prefix]
    namespace = [environ.get(name, "") for name in ("CCACHE_NAMESPACE", "NVCC_CCBIN")]
    result.update({
        "CCACHE_CONFIGPATH": os.devnull,
        "CCACHE_DEPEND": "1",
        "CCACHE_DIRECT": "1",
        "CCACHE_COMPILERCHECK": "string:" + contents(files),
        "CCACHE_NOHASHDIR": "1",
        "CCACHE_SLOPPINESS": "",
        "CCACHE_NAMESPACE": "|".join(["xfdev-2", *namespace]),
        "CCACHE_PREFIX": " ".join(prefix),  # no part of the key, as an option would be
        "CCACHE_EXTRAFILES": environ.get("CCACHE_EXTRAFILES", ""),
    })  # fmt: skip
    return result


def contents(paths: list) -> str:
    """The digests of the files that are there, in order; the 260 MB of an nvcc are read once, not at every call."""
    import time

    place = os.path.join(HERE, "digests")
    memory = dict(line.rpartition(" ")[::2] for line in read(place).splitlines())
    found, fresh = [], False
    for path in dict.fromkeys(os.path.realpath(path) for path in paths):
        try:
            stat = os.stat(path)
        except OSError:
            continue
        identity = f"{stat.st_dev} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {path}"
        digest = memory.get(identity)
        if digest is None:
            import hashlib

            with open(path, "rb") as stream:
                digest = hashlib.blake2b(stream.read(), digest_size=16).hexdigest()
            # What is being written now may change again within the same tick of the file system's clock.
            if abs(time.time() - stat.st_ctime) > 2 and os.stat(path).st_ctime_ns == stat.st_ctime_ns:
                memory[identity] = digest
                fresh = True
        found.append(digest)
    if fresh:
        try:
            with open(f"{place}.{os.getpid()}", "w", errors="surrogateescape") as stream:
                stream.writelines(f"{identity} {digest}\n" for identity, digest in memory.items())
            os.replace(f"{place}.{os.getpid()}", place)
        except OSError:
            pass  # a folder that cannot be written: slower, and right
    return " ".join(found)


def doubtful(argv: list, compiler: str, rule: str) -> bool:
    """Whether the object that came from the cache might be another one with the files that are there now."""
    import shadows

    cwd = os.getcwd()
    dependencies = shadows.parse_depfile(rule, cwd)
    if not dependencies:
        return True
    folders = shadows.search_path(argv, cwd)
    names = ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH")
    given = [path for name in names if name in os.environ for path in os.environ[name].split(":")]
    given = [os.path.normpath(os.path.join(cwd, path)) for path in given]
    folders = [*given, *folders, *given]  # searched between the others: what lies there may shadow, and be shadowed
    # Where the toolchain's headers are; in all other places a header may come or go without it being changed.
    toolchain = [*SYSTEM, os.path.dirname(os.path.dirname(HERE)), sys.base_prefix]
    compilers = [compiler, *host_compilers(argv, os.environ)]
    toolchain += [os.path.dirname(os.path.dirname(p)) for path in compilers for p in (path, os.path.realpath(path))]
    # One that holds the source itself (~/bin/g++ and ~/project, <venv>/src) is none.
    toolchain = tuple(folder + os.sep for folder in toolchain if folder not in ("/", "/usr", "/usr/local"))
    toolchain = tuple(folder for folder in toolchain if not dependencies[0].startswith(folder))
    own = [path for path in dependencies if not path.startswith(toolchain)]
    scanned = shadows.scan(own, folders)
    if scanned.opaque:
        return True
    # Asked for and not read: whether it was there when the object was made, no dependency file tells.
    if any(not any(path.endswith("/" + probe) for path in dependencies) for probe in scanned.probes):
        return True
    places = {os.path.dirname(path) for path in own}
    places.update(folder for folder in folders if not (folder + os.sep).startswith(toolchain))
    candidates = shadows.files_below(shadows.topmost(places), follow=True, limit=MOST_FILES)
    if len(candidates) >= MOST_FILES:
        return True
    found = shadows.find(dependencies, folders, candidates, scanned)
    if found:  # a second reading of the files tells more, and is seldom needed
        found = shadows.find(dependencies, folders, candidates, scanned, shadows.quoted(own))
    checkout, baseline = os.environ.get("CCACHE_BASEDIR", ""), os.environ.get("XFDEV_BASELINE")
    known = set()
    if found and baseline:
        # One line a unit and file: seen beside this very unit when it was last compiled, and not taken.
        for line in read(baseline).splitlines():
            unit, _, path = line.partition("\t")
            if os.path.join(checkout, unit) == own[0]:
                known.add(os.path.join(checkout, path))
    return not known.issuperset(found)


def which(name: str, missing: str = "") -> str:
    """The path of a compiler, less the wrappers that have its name (``/usr/lib/ccache/g++``)."""
    if os.sep in name:
        if os.path.basename(os.path.realpath(name)) not in WRAPPERS:
            return name
        name = os.path.basename(name)
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder, name)
        if (
            os.path.isfile(path)
            and os.access(path, os.X_OK)
            and os.path.basename(os.path.realpath(path)) not in WRAPPERS
        ):
            return path
    return missing or sys.exit(f"ccache: {name} is not on PATH")


def read(path: str) -> str:
    try:
        with open(path, errors="surrogateescape") as stream:
            return stream.read()
    except OSError:
        return ""


if __name__ == "__main__":
    sys.path.insert(0, HERE)
    code = main(sys.argv[1:])
    from guard import leave

    leave(code)
