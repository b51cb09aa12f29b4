"""A small line plot as inline SVG: one series, its colours those of the page. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

_WIDTH, _HEIGHT = 320, 130
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 8, 22, 24


def line(points: Sequence[tuple[str, float]], said: Callable[[float], str], about: str) -> str:
    """*points* (a label and a value each) from left to right, the axis from zero; *said* writes a value as people read
    it, *about* is what a screen reader says."""
    most = max(value for _, value in points) or 1.0
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    step = wide / max(len(points) - 1, 1)
    places = [
        (_LEFT + (step * number if len(points) > 1 else wide / 2), _TOP + high * (1 - value / most))
        for number, (_, value) in enumerate(points)
    ]
    floor = _TOP + high
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    area = f"{places[0][0]:.1f},{floor} {path} {places[-1][0]:.1f},{floor}"
    radius = 3.0 if len(points) <= 40 else 1.5
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}"><title>{escape(label)}: {escape(said(value))}</title></circle>'
        for (x, y), (label, value) in zip(places, points, strict=True)
    )
    text = 'font-size="11" fill="var(--quiet)"'
    labels = [f'<text x="{_LEFT}" y="14" {text}>{escape(said(most))}</text>']
    labels.append(f'<text x="{_LEFT}" y="{_HEIGHT - 8}" {text}>{escape(points[0][0])}</text>')
    if len(points) > 1:
        end = f'x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end"'
        labels.append(f"<text {end} {text}>{escape(points[-1][0])}</text>")
    return "\n".join([
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(about)}">',
        f'<line x1="{_LEFT}" y1="{floor}" x2="{_WIDTH - _RIGHT}" y2="{floor}" stroke="var(--line)"/>',
        f'<line x1="{_LEFT}" y1="{_TOP}" x2="{_WIDTH - _RIGHT}" y2="{_TOP}" stroke="var(--line)" '
        'stroke-dasharray="2 4"/>',
        f'<polygon points="{area}" fill="var(--series)" opacity="0.12"/>',
        f'<polyline points="{path}" fill="none" stroke="var(--series)" stroke-width="2" stroke-linejoin="round"/>',
        f'<g fill="var(--series)">{dots}</g>',
        *labels,
        "</svg>",
    ])  # fmt: skip
