# Comes after the text of stamps.py in an environment; imported with the project for the first time. Standard library
# only.

import os
import sys


class Hook:
    """Looks, when the project is first imported, whether its libraries are those of its sources."""

    def __init__(self, changed, stamp, root, mode, command):
        self.changed = changed
        self.stamp = stamp
        self.root = root
        self.mode = mode
        self.command = command
        self.warned = False
        self.failure = ("", "")  # what was changed when a build failed here, and what it said

    def imported(self, name):
        """What happens before the import of *name*; whether that was all, and the next import is none of our concern.
        Raises ImportError."""
        mode = os.environ.get("XFDEV_IMPORT") or self.mode
        if mode not in ("warn", "rebuild") or not self.is_ours(name):
            return False
        if mode == "rebuild":
            self.rebuild(name)
        elif not self.warned:
            self.warned = True  # before the warning, which may be an error
            self.warn(name)
        return True

    def is_ours(self, name):
        """Whether *name* would come from the checkout, and not from another one that is first on the path."""
        if not os.path.isdir(os.path.join(self.root, ".xfdev")):
            return False
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name)
        if spec is None:
            return True  # a library that is still to be built
        places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
        root = os.path.realpath(self.root) + os.sep
        return any(os.path.realpath(place).startswith(root) for place in places)

    def place(self, name):
        return os.path.join(self.root, ".xfdev", name)

    def look(self):
        """What changed, and what may have; None where that cannot be told."""
        try:
            with open(self.place("stamps"), "rb") as stream:
                return self.changed(self.root, stream.read().decode("utf-8", "surrogateescape"))
        except OSError:
            return None

    def warn(self, name):
        found = self.look()
        if found and found[0]:
            import warnings

            reasons = list(found[0].values())
            more = f", and {len(reasons) - 3} more" if len(reasons) > 3 else ""
            warnings.warn(
                f"the libraries of {name} are not those of its sources ({', '.join(reasons[:3])}{more}): "
                f"xfdev build {self.root}",
                stacklevel=4,
            )

    def rebuild(self, name):
        """Have ``xfdev build`` bring the libraries up to date. Of several processes one does, the others wait for it.
        Raises ImportError where that fails: what is there is not what the sources say."""
        found = self.look()
        if found is not None and not found[0] and not found[1]:
            return
        state = self.state(found)
        if self.failure[0] == state:
            raise ImportError(self.failure[1])
        import fcntl

        before = self.stamp(self.place("import.failed"))
        try:
            lock = open(self.place("import.lock"), "w")
        except OSError as error:
            raise ImportError(f"{name} was edited and cannot be built here: {error}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.say("waiting for the build of another process")
                fcntl.flock(lock, fcntl.LOCK_EX)
            for _ in range(5):  # edited again and again while it is built
                found = self.look()
                if found is not None and not found[0] and not found[1]:
                    break
                state = self.state(found)
                if self.stamp(self.place("import.failed")) != before:
                    said = self.failed_with(state)  # while we waited: the same again would fail again
                    if said:
                        self.fail(state, said)
                reasons = list((found[0] or found[1]).values()) if found else ["nothing is known of what is linked"]
                if found is None or found[0]:
                    self.say(f"building, because {reasons[0]} (XFDEV_IMPORT=off imports without)")
                said = self.build()
                if said:
                    self.note_failure(state, said)
                    self.fail(state, said)
                now = self.look()
                if now is not None and not now[0]:
                    break  # what may have changed was looked at, too
        import importlib

        importlib.invalidate_caches()

    def fail(self, state, said):
        text = f"{self.root}: what was edited cannot be built\n{said}\nXFDEV_IMPORT=off imports what was linked last"
        self.failure = (state, text)
        raise ImportError(text)

    def build(self):
        """Run ``xfdev build``; returns what it says where it fails, else nothing."""
        import fcntl, json, subprocess

        output = os.environ.get("XFDEV_IMPORT_OUTPUT")
        argv = [*self.command, "--json"]
        if output in ("quiet", "verbose"):
            argv.append("--" + output)
        while True:
            environ = {**os.environ, "XFDEV_IMPORT": "off"}
            direct = self.stderr_is_real() and output != "quiet"
            pipe = None if direct else subprocess.PIPE
            try:
                child = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=pipe, env=environ
                )
            except OSError as error:
                return f"{argv[0]} cannot be run: {error}"
            try:
                out, err = child.communicate()
            except KeyboardInterrupt:
                # Ctrl-C reached it, too; it ends its compilers and keeps what is finished.
                try:
                    child.wait(10)
                except subprocess.TimeoutExpired:
                    child.kill()
                raise
            if err and output != "quiet" and sys.stderr is not None:
                sys.stderr.write(err.decode(errors="replace"))
            if child.returncode != 23:
                break
            self.say(f"waiting for another xfdev that works on {self.root}")
            with open(self.place("lock"), "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
        if child.returncode == 0:
            return ""
        try:
            said = json.loads(out)
            return "\n".join(text for text in (said["message"], said.get("hint") and "do: " + said["hint"]) if text)
        except (ValueError, KeyError, TypeError):
            return f"xfdev build ended with exit status {child.returncode}"

    @staticmethod
    def stderr_is_real():
        try:
            return sys.stderr.fileno() == 2
        except (AttributeError, OSError, ValueError):
            return False

    def state(self, found):
        """What is changed, by path and stamp: the same again means that nobody edited meanwhile."""
        if found is None:
            return "unknown"
        return " ".join(path + "=" + self.stamp(os.path.join(self.root, path)) for path in {**found[0], **found[1]})

    def note_failure(self, state, said):
        try:
            with open(self.place("import.failed"), "w", encoding="utf-8", errors="surrogateescape") as stream:
                stream.write(state + "\n" + said)
        except OSError:
            pass

    def failed_with(self, state):
        try:
            with open(self.place("import.failed"), encoding="utf-8", errors="surrogateescape") as stream:
                first, _, said = stream.read().partition("\n")
        except OSError:
            return ""
        return said if first == state else ""

    def say(self, text):
        if os.environ.get("XFDEV_IMPORT_OUTPUT") != "quiet" and sys.stderr is not None:
            sys.stderr.write("xfdev: " + text + "\n")
            sys.stderr.flush()
