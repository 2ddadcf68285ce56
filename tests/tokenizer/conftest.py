"""One small tokenizer for all tests of this folder, and the same one as transformers reads it."""

from __future__ import annotations

import pytest
from tricky_texts import corpus

from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import HEADER_END, ROLES
from puna.tokenizer.merging import train_ranks
from puna.tokenizer.pieces import count_texts
from puna.tokenizer.ranks import with_words


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    ranks = train_ranks(count_texts(corpus()), 1500).ranks
    return Tokenizer.from_ranks(with_words(ranks, [word.encode() for word in (*ROLES, HEADER_END)], 1500))


@pytest.fixture(scope="session")
def saved(tokenizer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(directory)
    return directory


@pytest.fixture(scope="session")
def hf(saved):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(str(saved))
