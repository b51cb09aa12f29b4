"""What registries answer, and what it means."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from xfdev.engine_login import Credentials


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


def read(answer: http.client.HTTPResponse, most: int, deadline: float) -> bytes:
    """A body of at most *most* bytes, by *deadline*."""
    parts, size = [], 0
    while chunk := answer.read1(1 << 16):
        size += len(chunk)
        if size > most:
            raise http.client.HTTPException(f"it sends more than {most} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
        parts.append(chunk)
    if answer.length:  # of what was announced; a cut connection is not told otherwise
        raise http.client.IncompleteRead(b"", answer.length)
    return b"".join(parts)


def origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def basic(known: Credentials) -> str:
    import base64

    return "Basic " + base64.b64encode(f"{known.user}:{known.secret}".encode()).decode()


def refusal(answer: Answer) -> str:
    """A refusal in a few words: the status, and the first reason of the registry's."""
    name = http.client.responses.get(answer.status, "")
    try:
        first = json.loads(answer.body)["errors"][0]
        text = str(first.get("message") or first.get("code") or "")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        text = ""
    text = re.sub(r"[^\x20-\x7e]", " ", text)[:120]
    return f"{answer.status} {name}" + (f" ({text})" if text else "")


def seconds(text: str) -> float:
    """A Retry-After in seconds; dates are rare there and count as a minute."""
    if re.fullmatch(r"\d{1,6}", text.strip()):
        return float(text)
    return 60.0 if text.strip() else 0.0
