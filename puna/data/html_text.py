"""The text of serialised HTML: the steps of `html_nodes`, `main_content` and `html_layout` one after another."""

from __future__ import annotations

import numpy as np

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
    source = np.frombuffer(serialised, dtype=np.uint8)
    kind, section, parent, last, start, end, flags = read_nodes(source)
    *sizes, seen, links, link_chars = measure(source, kind, parent, start, end, flags)
    kept = content_nodes(source, kind, section, parent, last, start, end, flags, tuple(sizes))
    layout = layout_rows(kind, parent, flags, sizes[0])
    out, state = np.empty(len(source) + 8 * len(kind) + 16, np.uint8), np.zeros(STATE, np.int64)
    written = out[: write_text(source, kind, section, parent, last, start, end, flags, kept, layout, out, state)]
    size = close_up(written, keep_markers)
    if size >= 0:
        text = written[:size].tobytes().decode("utf-8", "replace")
    else:
        text = remove_markdown(written.tobytes().decode("utf-8", "replace"))
    return text, links, link_chars, seen
