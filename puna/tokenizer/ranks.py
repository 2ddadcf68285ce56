"""What follows from ranks alone: the merges behind them, and how words are added to them (paper 3.2).

A rank file names tokens and no merges. Byte-pair encoding joins by rank, so replaying it inside a token, with the lower ranks
only, ends in the two parts that its merge joins. A token that does not end in two parts (a reserved word) has no merge and is
found only as a whole piece.
"""

from __future__ import annotations


def merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pairs that BPE joins, in order of rank, recovered from ranks alone."""
    found = []
    for token in ranks:
        if len(token) > 1:
            parts = _parts_below(token, ranks)
            if len(parts) == 2:
                found.append((parts[0], parts[1]))
    return found


def with_words(ranks: dict[bytes, int], words: list[bytes], room: int) -> dict[bytes, int]:
    """Add each word as a token of its own, in place of the last merges where there is no room left.

    An added word is found when it is a whole piece of the split pattern, which is how the chat format uses it.
    """
    size = min(len(ranks), room)
    while True:
        kept = {token: rank for token, rank in ranks.items() if rank < size}
        missing = [word for word in words if word not in kept]
        if size + len(missing) <= room:
            return kept | {word: size + i for i, word in enumerate(missing)}
        size -= 1


def _parts_below(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """BPE of one token by the ranks below its own: lowest rank first, leftmost first among equals."""
    parts, limit = [bytes([byte]) for byte in token], ranks[token]
    while True:
        best, at = limit, -1
        for i in range(len(parts) - 1):
            rank = ranks.get(parts[i] + parts[i + 1], limit)
            if rank < best:
                best, at = rank, i
        if at < 0:
            return parts
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
