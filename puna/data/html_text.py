"""The text of serialised HTML: the steps of `html_nodes`, `main_content` and `html_layout` one after another."""

from __future__ import annotations

import numpy as np

from puna.data.html_layout import layout_rows, write_text
from puna.data.html_nodes import read_nodes
from puna.data.main_content import content_nodes, measure


def text_of_html(serialised: bytes) -> tuple[str, int, int, int]:
    """Main content of a page.

    Args:
        serialised: the body as a parser wrote it out, in UTF-8.

    Returns:
        Text, with control characters around code and formulas (see `html_layout`); links, characters inside links, and
        characters seen of the whole page.
    """
    source = np.frombuffer(serialised, dtype=np.uint8)
    kind, section, parent, last, start, end, flags = read_nodes(source)
    *sizes, seen, links, link_chars = measure(source, kind, parent, start, end, flags)
    kept = content_nodes(source, kind, section, parent, last, start, end, flags, tuple(sizes))
    layout = layout_rows(kind, parent, flags, sizes[0])
    written = write_text(source, kind, section, parent, last, start, end, flags, kept, layout)
    return written.tobytes().decode("utf-8", "replace"), links, link_chars, seen
