"""The nightly's page in a real browser: on a phone, in the light and in the dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import support
from nightly_sample import result
from xfdev.nightly import page

#: Looks at the page in a frame as wide as a phone, and writes what it saw into its own document.
_LOOK = """<!DOCTYPE html><meta charset="utf-8"><pre id="seen"></pre>
<iframe id="frame" src="index.html" width="{width}" height="800" style="border: 0"></iframe>
<script>
const frame = document.getElementById("frame");
frame.onload = () => {{
  const page = frame.contentDocument, style = (name) => getComputedStyle(page.querySelector(name));
  const boxes = [...page.querySelectorAll(".cell, figure, pre, h2, p")].map((one) => one.getBoundingClientRect());
  document.getElementById("seen").textContent = JSON.stringify({{
    scrolls: page.documentElement.scrollWidth,
    widest: Math.max(...boxes.map((box) => box.right)),
    page: style("body").backgroundColor, ink: style("body").color,
    size: parseFloat(style("body").fontSize),
    dots: [...page.querySelectorAll("circle")].filter((dot) => dot.getBoundingClientRect().width > 0).length,
    text: page.body.innerText,
  }});
}};
</script>
"""


def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    support.missing("no browser is installed (apt-get install chromium)")
    return ""


def seen(folder: Path, width: int, *, dark: bool) -> dict[str, Any]:
    (folder / "look.html").write_text(_LOOK.format(width=width))
    done = subprocess.run(
        [
            browser(), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
            f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--virtual-time-budget=5000", "--dump-dom", (folder / "look.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    value: dict[str, Any] = json.loads(unescape(found[1]))
    return value


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    parts = [int(word) / 255 for word in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_it_is_read_on_a_phone_in_light_and_dark(tmp_path: Path) -> None:
    value = page.shown(result(), {"commits": ["c" * 40]})
    (tmp_path / "index.html").write_text(page.html(value))
    pages = set()
    for dark in (False, True):
        found = seen(tmp_path, 360, dark=dark)
        assert found["scrolls"] <= 360, "it has to be pushed sideways"
        assert found["widest"] <= 360
        assert found["size"] >= 16
        assert found["dots"] == 38
        lighter, darker = sorted((luminance(found["page"]), luminance(found["ink"])), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 7, "text that is hard to read"
        assert (luminance(found["page"]) < 0.2) == dark
        pages.add(found["page"])
        assert '<script>alert("x")</script>' in found["text"], "what others wrote is shown as it is"
    assert len(pages) == 2
