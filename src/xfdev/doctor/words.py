"""Numbers as a person says them; without console, which writes."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes in powers of 1000, short: ``68 GB``, ``1.2 MB``."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB" if count < 10 else f"{count:.0f} GB"


def span(seconds: float) -> str:
    """A time: ``0.3 s``, ``4 min``, ``3 h``, ``2 days``."""
    seconds = abs(seconds)
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    for unit, count in (("min", 60), ("h", 3600)):
        if seconds < count * 120:
            return f"{seconds / count:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
