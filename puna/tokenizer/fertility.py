"""How many tokens a tokenizer spends on a language: per byte, per character and per word (paper 3.2 compares compression rates).

Words are runs of anything but white space, so tokens per word compare tokenizers, not languages that write without spaces.
"""

from __future__ import annotations

import numpy as np

from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.counts import PieceCounts, Totals


def tokens_of(tokenizer: Tokenizer, pieces: PieceCounts) -> int:
    """Tokens of the texts behind a table of counts; pieces that were pruned are taken to cost as much a byte as the others."""
    lengths = (len(tokenizer.encode(piece.decode())) for piece in pieces.pieces())
    tokens = int(pieces.counts @ np.fromiter(lengths, dtype=np.int64, count=len(pieces)))
    counted = int(pieces.counts @ np.diff(pieces.ends, prepend=0))
    return tokens if counted == pieces.totals.bytes else round(tokens * pieces.totals.bytes / max(counted, 1))


def fertility(tokens: int, of: Totals) -> dict[str, float]:
    """Tokens per byte, per character and per word of a text, and characters per token."""
    return {
        "tokens_per_byte": round(tokens / of.bytes, 4),
        "tokens_per_char": round(tokens / of.chars, 4),
        "tokens_per_word": round(tokens / max(of.words, 1), 4),
        "chars_per_token": round(of.chars / tokens, 4),
    }
