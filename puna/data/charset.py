"""Bytes of a page to text: which character set they are in, by what they are before what anyone says of them.

Servers name the wrong set often (a default of Latin-1 over UTF-8 pages), and pages put together from several sources hold two
sets at once; a page that is UTF-8 but for single bytes is read as UTF-8 with these bytes as Windows-1252.
"""

from __future__ import annotations

import codecs
from typing import cast

MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
OPENING = 256  # bytes looked at for the zeros of UTF-16 without a mark
MIXED = 4  # so many sound UTF-8 letters for each broken byte make a page UTF-8


def _windows_bytes(error: UnicodeError) -> tuple[str, int]:
    found = cast(UnicodeDecodeError, error)
    return found.object[found.start : found.end].decode("cp1252", "replace"), found.end


codecs.register_error("puna.windows", _windows_bytes)


def decode_page(content: bytes, charset: str = "", *, html: bool = True) -> str:
    """The text of a page's bytes.

    Args:
        content: as fetched, without transport coding.
        charset: what the transport declared; empty when nothing.
        html: look for a `meta` declaration too.
    """
    return _read(content, charset, html)[0]


def utf8_page(content: bytes, charset: str = "", *, max_chars: int) -> bytes:
    """An HTML page in UTF-8, no more than its first `max_chars` characters; a page in UTF-8 is handed on as it is."""
    text, as_it_is = _read(content, charset, html=True)
    return content if as_it_is and len(text) <= max_chars else text[:max_chars].encode("utf-8", "replace")


def _read(content: bytes, charset: str, html: bool) -> tuple[str, bool]:
    """The text, and whether the bytes are that text in UTF-8."""
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return content.decode(encoding, "replace"), False
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return _other(content, charset, html), False
    wide = _wide(content) if "\x00" in text[:OPENING] else None
    return (wide, False) if wide else (text, True)


def _wide(content: bytes) -> str | None:
    """UTF-16 without a mark, seen by its zeros; None when it is not."""
    opening = content[:OPENING]
    even, odd = opening[0::2].count(0), opening[1::2].count(0)
    if 4 * max(even, odd) < max(len(opening), 1):
        return None
    return content.decode("utf-16-le" if odd > even else "utf-16-be", "replace")


def _other(content: bytes, charset: str, html: bool) -> str:
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

    wide = _wide(content)
    if wide is not None:
        return wide
    replaced = content.decode("utf-8", "replace")
    broken = replaced.count("\ufffd")
    sound = len(replaced) - len(replaced.encode("ascii", "ignore")) - broken
    if sound >= MIXED * broken:
        return content.decode("utf-8", "puna.windows")
    declared = map_encoding_to_html5(charset, False) if charset else None
    if declared in (None, "utf-8"):
        declared = detect_encoding(content, from_html_meta=html)
    encoding = "cp1252" if declared in (None, "utf-8") else declared
    return bytes_to_str(content, encoding, errors="replace")
