"""Every failure a user can meet, each with an exit code of its own.

``XfdevError`` is the root. ``str(error)`` says what failed; ``why`` what usually causes it; ``hint`` what to do
next; ``details`` is shown only with ``--verbose``. ``cli.main`` alone turns them into output: nothing below it
prints an error or exits.
"""

from __future__ import annotations

from typing import ClassVar


class XfdevError(Exception):
    """Something the user can act on."""

    exit_code: ClassVar[int] = 1
    meaning: ClassVar[str] = "any other failure"

    def __init__(self, message: str, *, why: str = "", hint: str = "", details: str = "") -> None:
        super().__init__(message)
        self.why = why
        self.hint = hint
        self.details = details


class UsageError(XfdevError):
    exit_code = 2
    meaning = "the command line, a configuration file or a variable is wrong"


class NoSuchPath(XfdevError):
    exit_code = 10
    meaning = "the path does not exist"


class NotAGitTree(XfdevError):
    exit_code = 11
    meaning = "the path is not inside a git working tree"


class NotAnExtensionProject(XfdevError):
    exit_code = 12
    meaning = "the checkout does not build a native extension with setuptools"


class SourceUnreachable(XfdevError):
    exit_code = 13
    meaning = "a URL or a package index does not answer"


class RequirementNotFound(XfdevError):
    exit_code = 14
    meaning = "no package index has that requirement, or that git reference does not exist"


class NoCompiler(XfdevError):
    exit_code = 15
    meaning = "no C++ compiler"


class NoNvcc(XfdevError):
    exit_code = 16
    meaning = "a CUDA arch is to be compiled and this toolchain has no nvcc"


class UnknownArch(XfdevError):
    exit_code = 17
    meaning = "an arch that nvcc, torch or nobody knows, or none named where one is needed"


class MissingSubmodule(XfdevError):
    exit_code = 18
    meaning = "a submodule that the compile needs is not checked out"


class DubiousOwnership(XfdevError):
    exit_code = 19
    meaning = "git refuses a checkout that belongs to another user"


class ReadOnlyCheckout(XfdevError):
    exit_code = 20
    meaning = "the checkout cannot be written, or belongs to another user"


class DiskFull(XfdevError):
    exit_code = 21
    meaning = "no space left where something had to be written"


class BadBundle(XfdevError):
    exit_code = 22
    meaning = "a bundle is corrupted, truncated, foreign, or not there"


class Busy(XfdevError):
    exit_code = 23
    meaning = "another xfdev works on the same checkout"


class OutOfMemory(XfdevError):
    exit_code = 24
    meaning = "the compiler was killed for memory, even when it ran alone"


class CompileFailed(XfdevError):
    exit_code = 25
    meaning = "a unit does not compile, or the library does not link"


class ConfigureFailed(XfdevError):
    exit_code = 26
    meaning = "the project's own build script failed"


class NothingFits(XfdevError):
    exit_code = 27
    meaning = "no bundle can be linked and compiling was not allowed"


class BadEnvironment(XfdevError):
    exit_code = 28
    meaning = "the environment is missing, incomplete, or its torch was swapped"


class CheckFailed(XfdevError):
    exit_code = 29
    meaning = "the project does not import, or what is linked is stale or foreign"


class CommandFailed(XfdevError):
    """Another program failed where no better explanation is known."""

    exit_code = 30
    meaning = "another program (git, pip, ...) failed"


class FilesInTheWay(XfdevError):
    exit_code = 31
    meaning = "files that are there would have to change, and nobody agreed to it"


class NoEngine(XfdevError):
    exit_code = 32
    meaning = "no container engine answers"


class Unhealthy(XfdevError):
    exit_code = 33
    meaning = "xfdev doctor found an error, or would have, before long work"


class StoreUnreachable(XfdevError):
    """*after* is how long the server asks to be left alone, in seconds."""

    exit_code = 34
    meaning = "a store of bundles does not answer, denies access, or fails"

    def __init__(self, message: str, *, why: str = "", hint: str = "", details: str = "", after: float = 0.0) -> None:
        super().__init__(message, why=why, hint=hint, details=details)
        self.after = after


class Untrusted(XfdevError):
    exit_code = 36
    meaning = "a bundle is not signed as it has to be, or not in the lock file"


class StaleLock(XfdevError):
    exit_code = 37
    meaning = "the lock file is missing, or does not fit what is asked for"


class NightFailed(XfdevError):
    exit_code = 38
    meaning = "a cell of the nightly failed; what people use stays as it was"


INTERRUPTED = 130  # 128 + SIGINT, as shells have it
INTERNAL = 70  # EX_SOFTWARE of sysexits.h: a bug in xfdev


def by_exit_code() -> dict[int, type[XfdevError]]:
    """All error classes by exit code, for the documentation and for a test that codes are unique."""
    classes: list[type[XfdevError]] = [XfdevError, *XfdevError.__subclasses__()]
    return {cls.exit_code: cls for cls in classes}
