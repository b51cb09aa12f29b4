# Every Python of the environment runs this at its start, by a .pth file, also those without bytecode: it is short.


class OnImport:
    """Tells the first import of a linked project; all else is in the module *look*."""

    def __init__(self, look, names):
        self.look, self.names, self.done = look, names, False

    def find_spec(self, name, path=None, target=None):
        if not self.done and path is None and name in self.names:
            self.done = __import__(self.look).HOOK.imported(name)
        return
