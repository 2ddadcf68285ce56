"""Exact duplicates: same address (the newest version stays), same text, and lines that come again and again (paper section
3.1.1).

Lines are compared as ccNet does: lower case, without accents and punctuation, digits folded to 0. Where digits are the
content (maths and code groups) they are kept. A line found in more than six documents of a bucket of 30 million, within one
language, is removed wherever it stands; the paper notes that this also removes some good frequent text and gained strongly
all the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np
import xxhash

from puna.data.kernels.tables import case_fold, line_fold, tables
from puna.data.words import strings_of, utf8_of

if TYPE_CHECKING:
    import pyarrow as pa

TRACKING = re.compile(r"^(?:utm_\w+|fbclid|gclid|msclkid|mc_[ce]id|ref_src|phpsessid|jsessionid|sessionid|sid)$", re.I)


def url_key(url: str) -> str:
    """An address without what does not change the page: scheme, case of the host, fragment, tracking parameters, last slash."""
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").removeprefix("www.")
    except ValueError:
        return url.strip()
    if parts.scheme not in ("http", "https"):
        return url.strip()
    kept = [(key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if not TRACKING.match(key)]
    query = "?" + urlencode(kept) if kept else ""
    return f"{host}{parts.path.rstrip('/')}{query}"


def text_keys(texts: pa.Array | pa.ChunkedArray | Sequence[str]) -> np.ndarray:
    """64-bit hashes of texts that ignore case and white space; 0 for a text without anything else. Returns uint64 [texts]."""
    from puna.data.kernels.folding import keys_of_texts

    data, offsets = utf8_of(texts)
    keys = np.zeros(len(offsets) - 1, dtype=np.uint64)
    fold = case_fold()
    keys_of_texts(data, offsets, tables().kind, fold.one, fold.starts, fold.extra, keys)
    return keys


def line_keys_batch(
    texts: pa.Array | pa.ChunkedArray | Sequence[str],
    langs: pa.Array | pa.ChunkedArray | Sequence[str],
    fold_digits: np.ndarray,
    min_letters: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the normalised lines of many texts; 0 for lines too short to count.

    Args:
        texts: the documents; lines end at line feeds, and an empty text is one empty line.
        langs: of every document; equal lines of two languages have different keys.
        fold_digits: bool [documents]; where false, a line with digits is compared with its digits and signs.
        min_letters: of a line that counts, after normalisation.

    Returns:
        uint64 [lines] and int64 [documents], the end of each document's lines.
    """
    from puna.data.kernels.folding import keys_of_lines

    data, offsets = utf8_of(texts)
    room = int(np.count_nonzero(data[offsets[0] : offsets[-1]] == ord("\n"))) + len(offsets) - 1
    keys, ends = np.zeros(room, dtype=np.uint64), np.zeros(len(offsets) - 1, dtype=np.int64)
    fold = line_fold()
    codes = strings_of(langs)
    names = {code: np.uint64(xxhash.xxh3_64_intdigest(code.encode())) for code in set(codes)}
    languages = np.array([names[code] for code in codes], dtype=np.uint64)
    folded = np.asarray(fold_digits, dtype=np.bool_)
    keys_of_lines(
        data, offsets, tables().kind, fold.one, fold.starts, fold.extra, languages, folded, min_letters, keys, ends
    )  # fmt: skip
    return keys, ends


def without_lines_batch(
    texts: pa.Array | pa.ChunkedArray | Sequence[str], drop: np.ndarray, line_ends: np.ndarray
) -> tuple[pa.LargeStringArray, np.ndarray]:
    """Texts without some of their lines.

    Args:
        drop: bool [lines], the lines to leave out.
        line_ends: int64 [documents], the end of each document's lines, as `line_keys_batch` returns it.

    Returns:
        The texts, and int64 [documents], how many lines each lost. A text that lost none is unchanged; in the others three or
        more line breaks become two, and none stay at the ends.
    """
    import pyarrow as pa

    from puna.data.kernels.folding import copy_without

    data, offsets = utf8_of(texts)
    out = np.empty(int(offsets[-1] - offsets[0]), dtype=np.uint8)
    out_offsets, removed = np.zeros(len(offsets), dtype=np.int64), np.zeros(len(offsets) - 1, dtype=np.int64)
    size = copy_without(data, offsets, np.asarray(drop, dtype=np.bool_), line_ends, out, out_offsets, removed)
    buffers = [None, pa.py_buffer(out_offsets), pa.py_buffer(out[:size])]
    return pa.Array.from_buffers(pa.large_string(), len(removed), buffers), removed
