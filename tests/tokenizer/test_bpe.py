from __future__ import annotations

import base64
import pickle
import random
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tricky_texts import SENTENCES, random_text

from puna.core.errors import InputError
from puna.tokenizer import bpe, special
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.ranks import merges

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def byte_tokenizer(*more: bytes) -> Tokenizer:
    tokens = [bytes([b]) for b in range(256)] + list(more)
    return Tokenizer.from_ranks({token: rank for rank, token in enumerate(tokens)})


def slow_encode(ranks: dict[bytes, int], text: str) -> list[int]:
    """Textbook BPE: a piece that is a token is one; otherwise join the pair of lowest rank, leftmost first, as long as any."""
    import regex

    ids = []
    for piece in regex.findall(bpe.SPLIT_PATTERN, text):
        parts = [bytes([b]) for b in piece.encode()]
        if piece.encode() in ranks:
            parts = [piece.encode()]
        while True:
            pairs = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
            if not pairs:
                break
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids += [ranks[part] for part in parts]
    return ids


def test_special_ids_are_metas():
    tokenizer = byte_tokenizer()
    assert (tokenizer.base_size, tokenizer.vocab_size, len(set(special.SPECIAL_TOKENS))) == (256, 512, 256)
    offsets = {
        "<|begin_of_text|>": 0, "<|end_of_text|>": 1, "<|reserved_special_token_0|>": 2, "<|reserved_special_token_1|>": 3,
        "<|finetune_right_pad_id|>": 4, "<|step_id|>": 5, "<|start_header_id|>": 6, "<|end_header_id|>": 7, "<|eom_id|>": 8,
        "<|eot_id|>": 9, "<|python_tag|>": 10, "<|image|>": 11, "<|reserved_special_token_2|>": 12,
        "<|reserved_special_token_245|>": 255,
    }  # fmt: skip
    for name, offset in offsets.items():
        assert tokenizer.special_id(name) == 256 + offset
        assert tokenizer.decode([256 + offset]) == name
    assert tokenizer.stop_ids == (257, 264, 265)
    assert tokenizer.pad_id not in (*tokenizer.stop_ids, tokenizer.bos_id)


def test_special_strings_in_text_stay_text(tokenizer):
    for name in special.SPECIAL_TOKENS[:14]:
        ids = tokenizer.encode(f"a{name}b")
        assert max(ids) < tokenizer.base_size
        assert tokenizer.decode(ids) == f"a{name}b"


def test_encode_equals_textbook_bpe(tokenizer):
    rng = random.Random(1)
    for text in [*SENTENCES, *(random_text(rng) for _ in range(1500))]:
        assert tokenizer.encode(text) == slow_encode(tokenizer.ranks, text), repr(text)


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_decode_inverts_encode(text):
    tokenizer = byte_tokenizer(b"th", b"the")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_words_are_single_tokens(tokenizer):
    for word in ("system", "user", "assistant", "ipython", "\n\n"):
        assert len(tokenizer.encode(word)) == 1


def test_lone_surrogates_become_replacement_characters(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode("\udcff" + "x" * 30_000)) == "\ufffd" + "x" * 30_000


def test_invalid_utf8_and_skip_special():
    tokenizer = byte_tokenizer()
    ids = [tokenizer.bos_id, 0xE2, 0x82, ord("a"), tokenizer.eot_id]
    assert tokenizer.decode(ids) == "<|begin_of_text|>\ufffda<|eot_id|>"
    assert tokenizer.decode(ids, skip_special=True) == "\ufffda"
    assert tokenizer.decode_bytes(ids[1:4]) == b"\xe2\x82a"
    with pytest.raises(InputError, match="outside the vocabulary of 512"):
        tokenizer.decode([512])
    with pytest.raises(InputError):
        tokenizer.decode([-1])


LONG_RUNS = {
    "spaces": " " * 30_000,
    "spaces before a word": "a " + " " * 30_000 + "word  and more",
    "no-break spaces": "x\u00a0" + "\u00a0" * 60_000 + "y",
    "line breaks": "!!\n" + "\n" * 40_000 + "x",
    "mixed": ("  \t\r\n" * 9_000 + "\u3000" * 30_000 + "'s 123") * 2,
    "words around": "The end. " * 3_000 + "\t" * 51_000 + " of the 1234 story\n" * 3_000,
    "lone surrogate": "\ud800" + " " * 40_000 + "\udcff!",
    "letters": "see " + "".join(random.Random(6).choice("etaoinshrdlu") for _ in range(300_000)) + " end",
    "one letter": "a" * 300_001,
    "three letters": "abc" * 100_001,
    "punctuation": "...!" * 50_000 + "\n",
}


@pytest.mark.parametrize("name", list(LONG_RUNS))
def test_long_runs_are_split_by_another_engine_to_the_same_ids(tokenizer, name):
    text = LONG_RUNS[name]
    assert bpe.has_long_run(text)
    assert tokenizer.encode(text) == tokenizer._tiktoken().encode_ordinary(text)


def test_a_long_run_is_found_wherever_it_lies(monkeypatch):
    monkeypatch.setattr(bpe, "RUN_CHARS", 4)
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choice("ab \n\u3000") * rng.randrange(1, 9) for _ in range(rng.randrange(1, 12)))
        blank, full = (max(map(len, re.findall(kind, text))) for kind in (r"\s*", r"\S*"))
        if max(blank, full) >= 8:
            assert bpe.has_long_run(text)


def test_prose_has_no_long_run():
    assert not bpe.has_long_run("\n".join(SENTENCES) * 300)


@pytest.mark.parametrize("window", [8, 64, 1024])
def test_windows_give_the_ids_of_the_whole_piece(tokenizer, monkeypatch, window):
    monkeypatch.setattr(bpe, "RUN_CHARS", 20)
    monkeypatch.setattr(bpe, "WINDOW_BYTES", window)
    monkeypatch.setattr(bpe, "SEAM_TOKENS", 1)
    rng = random.Random(window)
    words = ["self", "return", "assistant", "ipython", "a", "aa", "ab", "abc", "tion", "ing", "漢字", "é"]
    for _ in range(400):
        text = "".join(rng.choice(words[: rng.randrange(1, 13)]) * rng.randrange(1, 30) for _ in range(rng.randrange(1, 30)))
        text += rng.choice(["", " ", "!" * 90, " " * 90, "\n \n" * 40])
        assert tokenizer.encode(text) == tokenizer._tiktoken().encode_ordinary(text)


@pytest.mark.parametrize("unit", ["a", "x1", "漢字", "é", "😀", "...", "1", "\n", " ", "\u2003"])
def test_a_million_characters_without_a_break(tokenizer, unit):
    text = (unit * 1_000_000)[:1_000_000]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_save_load_same_digest_and_bytes(tokenizer, saved, tmp_path):
    again = Tokenizer.load(saved)
    assert again.digest == tokenizer.digest == Tokenizer.load(saved / "tokenizer.model").digest
    again.save(tmp_path)
    names = ["special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()
    assert pickle.loads(pickle.dumps(tokenizer)).encode("Hello there") == tokenizer.encode("Hello there")


def test_model_file_is_read_by_tiktoken(saved, tokenizer):
    from tiktoken.load import load_tiktoken_bpe

    assert load_tiktoken_bpe(str(saved / "tokenizer.model")) == tokenizer.ranks


def line(token: bytes, rank: int) -> bytes:
    return base64.b64encode(token) + b" %d\n" % rank


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        (lambda lines: [*lines[:7], b"not base64 at all\n", *lines[8:]], ":8", "base64 rank"),
        (lambda lines: [*lines[:7], b"@@@ 7\n", *lines[8:]], ":8", "not valid base64"),
        (lambda lines: [*lines[:7], line(b"\x00", 7), *lines[8:]], ":8", "twice"),
        (lambda lines: [*lines[:7], line(b"zz", 9), *lines[8:]], ":8", "rank 9 where 7"),
        (lambda lines: lines[:100], "tokenizer.model", "156 of the 256"),
        (lambda lines: [], "tokenizer.model", "empty"),
        (lambda lines: [b"\xff\xfe\x00 0\n"], ":1", "base64"),
    ],
)
def test_malformed_file_names_the_line(tmp_path, change, where, what):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(b"".join(change([line(bytes([b]), b) for b in range(256)])))
    with pytest.raises(InputError, match=what) as caught:
        Tokenizer.load(tmp_path)
    assert caught.value.where.endswith(where)


def test_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no tokenizer here"):
        Tokenizer.load(tmp_path)


def test_merges_from_ranks_are_the_training_merges(tokenizer):
    found = merges(tokenizer.ranks)
    trained = [token for token in tokenizer.ranks if len(token) > 1]
    assert len(trained) - len(found) <= 5  # the added words have no merge of their own
    for left, right in found:
        assert max(tokenizer.ranks[left], tokenizer.ranks[right]) < tokenizer.ranks[left + right]


def test_import_is_light():
    code = (
        "import sys, puna.tokenizer.bpe, puna.tokenizer.chat, puna.tokenizer.dialog\n"
        "print(sorted({'tiktoken', 'regex', 'rustbpe', 'pyarrow', 'transformers', 'torch', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_real_texts_round_trip(tokenizer):
    texts = sorted(SHARED.glob("udhr/*.xml"))
    if not texts:
        pytest.skip("../shared/data/udhr is not here")
    for file in texts:
        text = file.read_text(encoding="utf-8")
        assert tokenizer.decode(tokenizer.encode(text)) == text
