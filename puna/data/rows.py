"""What a reader yields: a page, or a row that could not be read, with the place it came from.

A broken record never ends a run and never disappears: it becomes a `BadRow`, is written to `bad_rows.jsonl` and counted.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PageRow:
    """One page before any processing.

    Attributes:
        url: the page's address, or `file:NAME#POSITION` for rows of local files.
        content: bytes of the page in its own encoding.
        format: "html" or "text".
        charset: encoding declared by the transport, empty when there was none.
        date: ISO date, empty when unknown.
        group: "general", "maths", "code" or "multilingual"; empty lets curation decide.
    """

    url: str
    content: bytes
    format: str
    charset: str = ""
    date: str = ""
    group: str = ""


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read: file (its name inside the source), position in it, and why."""

    file: str
    position: str
    reason: str


@dataclass(frozen=True)
class Skipped:
    """A sound record that is no page (a picture, a redirect, a request): counted, not listed."""

    reason: str
