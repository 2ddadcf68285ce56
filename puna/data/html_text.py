"""The text of serialised HTML: the steps of `html_nodes`, `main_content` and `html_layout` one after another."""

from __future__ import annotations

import numpy as np
from numba import njit

from puna.data.html_layout import STATE, close_up, layout_rows, write_text
from puna.data.html_nodes import read_nodes
from puna.data.main_content import content_nodes, measure
from puna.data.markers import remove_markdown


def text_of_html(serialised: bytes, *, keep_markers: bool = False) -> tuple[str, int, int, int]:
    """Main content of a page.

    Args:
        serialised: the body as a parser wrote it out, in UTF-8.
        keep_markers: leave markdown markers alone.

    Returns:
        Text; links, characters inside links, and characters seen of the whole page.
    """
    written, size, closed, links, link_chars, seen = _extract(np.frombuffer(serialised, dtype=np.uint8), keep_markers)
    text = written[: size if closed < 0 else closed].tobytes().decode("utf-8", "replace")
    return (remove_markdown(text) if closed < 0 else text), links, link_chars, seen


@njit(cache=True, nogil=True)
def _extract(source, keep_markers):
    """All steps in one call, for a call from Python costs as much as a step.

    Returns:
        Buffer of the text (uint8), its size, its size without control characters (-1 where it may have markers, see `close_up`),
        links, characters inside links, characters seen.
    """
    kind, section, parent, last, start, end, flags = read_nodes(source)
    text, linked, own, own_linked, commas, block, seen, links, link_chars = measure(source, kind, parent, start, end, flags)
    sizes = (text, linked, own, own_linked, commas, block)
    kept = content_nodes(source, kind, section, parent, last, start, end, flags, sizes)
    layout = layout_rows(kind, parent, flags, text)
    out, state = np.empty(len(source) + 8 * len(kind) + 16, np.uint8), np.zeros(STATE, np.int64)
    size = write_text(source, kind, section, parent, last, start, end, flags, kept, layout, out, state)
    return out, size, close_up(out[:size], keep_markers), links, link_chars, seen
