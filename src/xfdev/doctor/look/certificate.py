"""Who signed a certificate; Python tells that only of one that it has verified."""

from __future__ import annotations

_COMMON_NAME = b"\x55\x04\x03"  # 2.5.4.3 (X.520)
_ORGANISATION = b"\x55\x04\x0a"  # 2.5.4.10
_CONTEXT = 0xA0  # [0] EXPLICIT, the version, which may be left out (RFC 5280, 4.1)


def issuer(der: bytes) -> str:
    """The issuer's name in a certificate (DER), "" where it cannot be read."""
    try:
        fields = _parts(_parts(_value(der))[0][1])  # Certificate, tbsCertificate
        if fields[0][0] == _CONTEXT:
            fields = fields[1:]
        names: dict[bytes, str] = {}
        for _, one in _parts(fields[2][1]):  # serial number, signature, issuer
            for _, pair in _parts(one):
                (_, kind), (_, text) = _parts(pair)[:2]
                names[kind] = text.decode("utf-8", "replace")
    except (IndexError, ValueError):
        return ""
    return names.get(_COMMON_NAME) or names.get(_ORGANISATION) or ""


def _value(data: bytes) -> bytes:
    return _parts(data)[0][1]


def _parts(data: bytes) -> list[tuple[int, bytes]]:
    """The elements of a DER sequence: tag and contents of each."""
    found = []
    place = 0
    while place < len(data):
        tag, length = data[place], data[place + 1]
        place += 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(data[place : place + count], "big")
            place += count
        if place + length > len(data):
            raise ValueError("an element is longer than what holds it")
        found.append((tag, data[place : place + length]))
        place += length
    return found
