"""Documents cut at line ends: nothing is lost, every piece is framed, and no piece crosses a document."""

import numpy as np

from puna.train.corpus import Pieces, cut_at_lines

BOS, EOS, NEWLINE, STOP, STOP_NEWLINE = 98, 99, 1, 60, 61
LINE_ENDS = {NEWLINE: [], STOP_NEWLINE: [STOP]}


def cut(documents, least):
    whole = [[BOS, *d, EOS] for d in documents]
    shard = Pieces(np.concatenate(whole), np.cumsum([len(d) for d in whole]))
    found = cut_at_lines(shard, LINE_ENDS, least, BOS, EOS)
    starts = [0, *found.ends[:-1]]
    return [found.tokens[a:b].tolist() for a, b in zip(starts, found.ends, strict=True)]


def test_every_line_becomes_a_framed_piece():
    assert cut([[5, 6, NEWLINE, 7, NEWLINE, 8], [9]], 1) == [[BOS, 5, 6, EOS], [BOS, 7, EOS], [BOS, 8, EOS], [BOS, 9, EOS]]


def test_punctuation_joined_to_a_line_break_is_kept():
    assert cut([[5, STOP_NEWLINE, 6, STOP_NEWLINE]], 1) == [[BOS, 5, STOP, EOS], [BOS, 6, STOP, EOS]]


def test_short_lines_are_joined_until_they_are_long_enough():
    assert cut([[5, NEWLINE, 6, NEWLINE, 7, 8]], 3) == [[BOS, 5, NEWLINE, 6, EOS], [BOS, 7, 8, EOS]]


def test_no_text_is_lost_and_no_piece_crosses_a_document():
    rng = np.random.default_rng(0)
    documents = [rng.integers(2, 50, rng.integers(2, 30)).tolist() for _ in range(20)]
    for document in documents:
        for place in rng.integers(1, len(document), 3):
            document[place] = NEWLINE
    for least in (1, 4, 1000):
        pieces = cut(documents, least)
        kept = [i for piece in pieces for i in piece if i not in (BOS, EOS, NEWLINE)]
        assert kept == [i for d in documents for i in d if i != NEWLINE]
        assert all(piece[0] == BOS and piece[-1] == EOS for piece in pieces)
    assert len(cut(documents, 1000)) == len(documents)
