"""Which part of the data mix a document of no declared group belongs to, by its language and its signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from puna.data.language import UNKNOWN
from puna.data.words import utf8_of

if TYPE_CHECKING:
    import pyarrow as pa

CODE_LINES = 0.25  # of the lines
MATHS_SHARE = 0.04  # of the characters; prose has under 0.01, worked school problems have 0.05 to 0.15


def guess_groups(texts: pa.Array | pa.ChunkedArray, langs: Sequence[str]) -> list[str]:
    """The group of every text: code, maths, multilingual or general.

    Args:
        langs: the language of each, as `identify_batch` gives it; what is in no English at all is multilingual.
    """
    from puna.data.kernels.prose import code_and_maths
    from puna.data.kernels.tables import tables

    data, bounds = utf8_of(texts)
    wanted = np.array([lang in ("en", UNKNOWN) for lang in langs], dtype=bool)
    code, maths = np.zeros(len(wanted)), np.zeros(len(wanted))
    code_and_maths(data, bounds, wanted, tables().kind, code, maths)
    groups = np.where(code > CODE_LINES, "code", np.where(maths > MATHS_SHARE, "maths", "general"))
    return np.where(wanted, groups, "multilingual").tolist()
