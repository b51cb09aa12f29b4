# Part of the launcher: standard library only, and as little of it as possible.
"""nvcc's commands for one unit, host and device side by side, where nvcc runs one after the other.

For one arch nvcc preprocesses twice, parses the host's half (cudafe++), compiles the device's (cicc, ptxas), and
compiles the host's: for units of templates cudafe++ and cicc take a third of the time each. ``nvcc --dryrun`` says the
commands; they are run as they are, but for three things:

- cicc would have to wait for an identifier that cudafe++ writes when it is done, to name what is local to the unit;
  one of the same form is there before both start;
- the dependency file, which nvcc puts together by itself, is put together here, of what the two preprocessors note;
- what they print is printed in nvcc's order, up to the first command that failed.

Whatever looks otherwise than expected is left to nvcc (tests/integration/test_launcher_phases.py compares the two).
"""

import os

#: In this order nvcc runs them; ptxas is left out where only PTX is asked for.
KINDS = (
    ["preprocess", "preprocess", "cudafe++", "cicc", "ptxas", "fatbinary", "compile"],
    ["preprocess", "preprocess", "cudafe++", "cicc", "fatbinary", "compile"],
)
SIGNALS = (1, 2, 15)  # SIGHUP, SIGINT, SIGTERM
#: Where the identifier is seen by other objects, or by whoever asked for a certain one; where nvcc says what it runs.
UNUSUAL = (
    *("-rdc", "--relocatable-device-code", "-dc", "--device-c", "-dw", "--device-w", "-dlto", "--dlink-time-opt"),
    *("-frandom-seed", "--frandom-seed", "@", "-optf", "--options-file", "-v", "--verbose"),
)
GENERATES = " --gen_module_id_file"
NAMED = ' --module_id_file_name "'
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+")


def side_by_side(argv: list, environ: dict):
    """Run what nvcc would run. Returns the exit status, or minus the signal that stopped it; None where nvcc has to do
    it itself, and nothing was done."""
    if argv.count("-MF") != 1 or "-MD" not in argv or {"-MT", "-MQ", "-MP"} & set(argv) or argv.count("-o") != 1:
        return None
    if any(word.startswith(UNUSUAL) for word in argv):
        return None
    folder = scratch(environ, argv[argv.index("-o") + 1])
    if folder is None:
        return None
    import _signal

    processes = Processes({**environ, "TMPDIR": folder})
    before = [_signal.signal(number, processes.stop) for number in SIGNALS]
    try:
        steps = plan(said_by_nvcc(argv, folder, processes), folder, processes.environ)
        if processes.stopped:
            return -processes.stopped
        if steps is None:
            return None
        with open(steps.identifier, "w") as stream:
            stream.write(identifier(argv))
        status = steps.run(processes)
        if processes.stopped:
            return -processes.stopped
        if status == 0:
            write_dependencies(argv, folder)
        return status
    except OSError:
        return None  # a full disk, say, of which nvcc tells in its own words
    finally:
        processes.end_all()
        clear(folder)
        for number, handler in zip(SIGNALS, before, strict=True):
            _signal.signal(number, handler)


class Processes:
    """Those that run now, by what they were started as; a signal to this process ends them, and starts no more."""

    def __init__(self, environ: dict) -> None:
        self.environ = environ
        self.running: dict = {}
        self.ended: set = set()
        self.stopped = 0

    def start(self, index: int, argv: list, out: str, err: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        actions = [(os.POSIX_SPAWN_OPEN, 1, out, flags, 0o600), (os.POSIX_SPAWN_OPEN, 2, err, flags, 0o600)]
        pid = os.posix_spawnp(argv[0], argv, self.environ, file_actions=actions)
        self.running[index] = pid
        if self.stopped:
            self.end(index)

    def next(self) -> tuple:
        """Wait for one to end: what it was started as, and its status."""
        pid, raw = os.wait()
        while pid not in self.running.values():
            pid, raw = os.wait()  # whose child it was is not known: it is not waited for
        index = next(index for index, other in self.running.items() if other == pid)
        del self.running[index]
        status = os.waitstatus_to_exitcode(raw)
        if -status in SIGNALS and not self.stopped and index not in self.ended:
            self.stop(-status, None)  # one to the whole group
        return index, status

    def end(self, index: int) -> None:
        self.ended.add(index)
        try:
            os.kill(self.running[index], 9)
        except ProcessLookupError:
            pass  # a signal came in the moment in which it was waited for

    def end_all(self) -> None:
        for index in list(self.running):
            self.end(index)
        while self.running:
            self.next()

    def stop(self, number: int, _) -> None:
        self.stopped = self.stopped or number
        for index in list(self.running):
            self.end(index)  # until it is waited for, its number is nobody else's


def scratch(environ: dict, output: str):
    """A folder for temporary files of its own: nvcc names them by the process that would have run, which is gone.

    The same one for each compile of *output*, so that what a SIGKILL leaves is removed by the next.
    """
    import zlib

    place = environ.get("TMPDIR") or "/tmp"
    name = f"xfdev-nvcc-{os.getuid()}-{zlib.crc32(os.fsencode(os.path.abspath(output))):08x}"
    folder = os.path.join(os.path.abspath(place), name)
    if not PLAIN.issuperset(folder):
        return None  # the commands are for a shell
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        there = os.lstat(folder)
        if there.st_uid != os.getuid() or not os.path.isdir(folder) or os.path.islink(folder):
            return None
        os.chmod(folder, 0o700)
        clear(folder)
        return scratch(environ, output) if not os.path.lexists(folder) else None
    except OSError:
        return None
    return folder


def clear(folder: str) -> None:
    try:
        for entry in os.scandir(folder):
            os.unlink(entry.path)
        os.rmdir(folder)
    except OSError:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


def said_by_nvcc(argv: list, folder: str, processes: Processes) -> str:
    said = os.path.join(folder, "dryrun")
    processes.start(0, [argv[0], "--dryrun", *argv[1:]], os.devnull, said)
    return read(said) if processes.next()[1] == 0 else ""


def plan(said: str, folder: str, environ: dict):
    """The commands in nvcc's order with what they need, None where they are not those that are expected. What nvcc
    sets for them is put into *environ*."""
    commands = []
    for line in said.splitlines():
        if not line.startswith("#$ "):
            return None
        line = line[3:]
        name, equals, value = line.partition("=")
        if equals and name.isidentifier():
            environ[name] = value.strip()
        elif not line.startswith(("rm ", "-- Filter Dependencies -- > ")):
            commands.append(without_redirection(line, folder))
    kinds = [kind(command) for command in commands]
    if kinds not in KINDS:
        return None
    host, device = commands[2], commands[3]
    name = between(host, GENERATES + NAMED, '"')
    first, second = (between(command, ' -o "', '"') for command in commands[:2])
    if f'{NAMED}{name}"' not in device or GENERATES in device:
        return None
    if not all(path.startswith(folder + "/") for path in (name, first, second)):
        return None  # they would be kept
    # Which of the two is for the host says the one that reads it.
    of = [[index for index, path in enumerate((first, second)) if f' "{path}"' in text] for text in (host, device)]
    if of not in ([[0], [1]], [[1], [0]]):
        return None
    commands[2] = host.replace(GENERATES, "")
    for index in (0, 1):
        commands[index] += f' -MD -MF "{folder}/{index}.d" -MT x'
    branches = [[of[0][0], 2], [of[1][0], *range(3, len(commands) - 1)]]
    return Steps(commands, kinds, branches, name, folder)


def without_redirection(command: str, folder: str) -> str:
    """Less ``> FILE 2>FILE`` at its end, if it is there."""
    words = command.rsplit(" ", 3)[-2:]
    tail = f"> {words[0]} {words[1]}" if len(words) == 2 else ""
    if tail.startswith(f"> {folder}/") and words[1].startswith(f"2>{folder}/") and command.endswith(tail):
        return command[: -len(tail)].rstrip()
    return command


def kind(command: str) -> str:
    program = command.split('" ', 1)[0].strip('"') if command.startswith('"') else command.split(" ", 1)[0]
    name = os.path.basename(program)
    if name in ("cudafe++", "cicc", "ptxas", "fatbinary"):
        return name
    if ">" in command or "|" in command:
        return "other"
    return "preprocess" if " -E " in command else "compile" if " -c " in command else "other"


def between(text: str, start: str, end: str) -> str:
    if text.count(start) != 1:
        return ""
    return text.partition(start)[2].partition(end)[0]


def identifier(argv: list) -> str:
    """As cudafe++ writes it, ``_HASH_LENGTH_NAME_HASH_NUMBER``, but the same for the same command in a folder."""
    import zlib

    source = next((word for word in argv if word.endswith((".cu", ".cpp", ".cc", ".cxx"))), "unit")
    name = "".join(char if char.isascii() and char.isalnum() else "_" for char in os.path.basename(source))
    text = "\0".join(argv).encode(errors="surrogateescape")
    first, second = zlib.crc32(text), zlib.crc32(text[::-1])
    number = 10000 + zlib.crc32(os.fsencode(os.getcwd())) % 90000  # there, a process
    return f"_{first:08x}_{len(name)}_{name}_{second:08x}_{number}"


class Steps:
    def __init__(self, commands: list, kinds: list, branches: list, identifier: str, folder: str) -> None:
        self.commands, self.kinds, self.branches = commands, kinds, branches
        self.identifier, self.folder = identifier, folder
        self.statuses: dict = {}
        self.failed = len(commands)

    def run(self, processes: Processes) -> int:
        """Run them, print what they print, and return the first status that is not 0."""
        rest = {branch[0]: branch[1:] for branch in self.branches}
        for index in rest:
            self.start(index, processes)
        while processes.running:
            index, status = processes.next()
            self.statuses[index] = status
            following = rest.pop(index)
            if status:
                self.failed = min(index, self.failed)
                for later in [other for other in processes.running if other > self.failed]:
                    processes.end(later)  # nvcc would not have come to it
            elif following and following[0] < self.failed and not processes.stopped:
                self.start(following[0], processes)
                rest[following[0]] = following[1:]
        if not any(self.statuses.values()) and not processes.stopped:
            self.start(len(self.commands) - 1, processes)
            last, status = processes.next()
            self.statuses[last] = status
        return 1 if processes.stopped else self.tell()

    def start(self, index: int, processes: Processes) -> None:
        out, err = (os.path.join(self.folder, f"{index}.{name}") for name in ("out", "err"))
        processes.start(index, ["/bin/sh", "-c", "exec " + self.commands[index]], out, err)

    def tell(self) -> int:
        for index in sorted(self.statuses):
            for name, stream in (("out", 1), ("err", 2)):
                with open(os.path.join(self.folder, f"{index}.{name}"), "rb") as said:
                    write(stream, said.read())
            status = self.statuses[index]
            if status < 0:
                write(2, f"nvcc error   : '{self.kinds[index]}' died due to signal {-status}\n".encode())
            if status:
                return abs(status)
        return 0


def write(stream: int, data: bytes) -> None:
    while data:
        data = data[os.write(stream, data) :]


def write_dependencies(argv: list, folder: str) -> None:
    """What either preprocessor read, as nvcc writes it."""
    names = {}
    for index in (0, 1):
        rule = read(os.path.join(folder, f"{index}.d")).partition(":")[2].replace("\\\n", " ")
        word = ""
        for part in rule.split():
            word += part
            if part.endswith("\\"):  # a space in a name
                word += " "
                continue
            names[word] = None
            word = ""
    place, target = argv[argv.index("-MF") + 1], argv[argv.index("-o") + 1]
    with open(f"{place}.partial", "w", errors="surrogateescape") as stream:
        stream.write(f"{target} : " + " \\\n    ".join(names) + "\n")
    os.replace(f"{place}.partial", place)


def read(path: str) -> str:
    with open(path, errors="surrogateescape") as stream:
        return stream.read()
