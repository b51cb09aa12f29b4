"""What the compiled library says of itself."""

import ctypes
from pathlib import Path

_library = ctypes.CDLL(str(next(Path(__file__).parent.glob("_C*.so"))))


def values() -> dict[str, int]:
    return {name: getattr(_library, name)() for name in ("first", "second", "third", "module")}
