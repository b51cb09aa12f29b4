# ccache starts it in front of the compiler, as its prefix command: standard library only, and as little as possible.
"""``guard COMPILER ARGS...``: a compile during which a file was saved that it read is not stored.

ccache 4.14 hashes headers after the compile, and takes one for unchanged that was saved within 0.1 s of its own start:
what was compiled from a header as it was is stored under the contents that it has since then, and comes back for them.
"""

import os
import sys
import time

HERE = os.path.dirname(os.path.realpath(__file__))
BLIND = 0.12  # seconds from ccache's start, and some more, until it notices what is saved
COARSE = 50_000_000  # nanoseconds that a file's time may be behind the clock
MOVED = 75  # the exit status with which ccache takes the compile for failed


def main(argv: list) -> int:
    started = time.monotonic()
    status = None
    if os.environ.get("XFDEV_NVCC_PHASES") == "1":
        sys.path.insert(0, HERE)
        import phases

        status = phases.side_by_side(argv, dict(os.environ))
    if status is None:
        status = run(argv[0], argv, os.environ)
    mark = os.environ.get("XFDEV_MARK", "")
    if status or not mark:
        return status
    rest = BLIND - (time.monotonic() - started)
    if rest > 0:
        time.sleep(rest)
    if not moved(argv, mark):
        return 0
    os.unlink(mark)
    return MOVED


def marked(path: str) -> bool:
    """Note at *path* when a compile began, in the time of its file system; False where that cannot be."""
    try:
        remove(path)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError:
        return False
    return True


def moved(argv: list, mark: str) -> bool:
    """Whether a file that the compile read was written, or replaced, since *mark* was made."""
    sys.path.insert(0, HERE)
    import shadows

    try:
        since = os.stat(mark)
        with open(argv[argv.index("-MF") + 1], errors="surrogateescape") as stream:
            read = shadows.parse_depfile(stream.read(), os.getcwd())
        for path in read:
            file = os.stat(path)
            # Another file system may have another clock; and this machine's is ahead of the times it gives to files.
            margin = 0 if file.st_dev == since.st_dev else COARSE
            if file.st_ctime_ns >= since.st_ctime_ns - margin:
                return True
    except (OSError, ValueError, IndexError):
        return True
    return not read


def run(program: str, argv: list, environ: dict) -> int:
    """Run a program; its exit status, minus the signal that ended it. Signals to this process end it, too."""
    import _signal  # the module signal takes milliseconds to import

    pid = os.posix_spawnp(program, argv, environ)
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)  # the terminal tells the program too; it ends, and so does this
    for number in (_signal.SIGTERM, _signal.SIGHUP):
        _signal.signal(number, lambda signum, _: os.kill(pid, signum))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for number in (_signal.SIGTERM, _signal.SIGHUP, _signal.SIGINT):
        _signal.signal(number, _signal.SIG_DFL)
    return status


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def leave(code: int) -> None:
    """End as the program ended that was run, so that a kill for memory is seen as one."""
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
