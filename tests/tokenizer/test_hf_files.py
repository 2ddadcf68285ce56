from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tricky_texts import SENTENCES, random_text

from puna.core.errors import InputError
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import PIECE_BREAK
from puna.tokenizer.special import SPECIAL_TOKENS

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def reserved(text: str) -> bool:
    """Strings that the Hugging Face side always takes as control: names of special tokens, and the template's piece break."""
    return PIECE_BREAK in text or any(name in text for name in SPECIAL_TOKENS)


def same(tokenizer, hf, text: str) -> None:
    ids = tokenizer.encode(text)
    assert hf.encode(text, add_special_tokens=False) == ids, repr(text)
    assert hf.decode(ids) == tokenizer.decode(ids)


def test_same_ids_on_provoking_texts(tokenizer, hf):
    rng = random.Random(2)
    for text in [*SENTENCES, *(random_text(rng) for _ in range(3000))]:
        if not reserved(text):
            same(tokenizer, hf, text)


def test_same_ids_on_any_text(tokenizer, hf):
    @settings(max_examples=1000, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"])))
    def check(text):
        if not reserved(text):
            same(tokenizer, hf, text)

    check()


def test_same_ids_on_real_texts(tokenizer, hf):
    files = [*sorted(SHARED.glob("udhr/*.xml")), SHARED / "text_en" / "tinyshakespeare.txt"]
    if not all(file.exists() for file in files) or len(files) < 2:
        pytest.skip("../shared/data is not here")
    for file in files:
        same(tokenizer, hf, file.read_text(encoding="utf-8")[:20_000])


def test_same_text_from_any_ids(tokenizer, hf):
    rng = random.Random(3)
    for _ in range(1000):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randrange(12))]
        assert hf.decode(ids) == tokenizer.decode(ids)
        assert hf.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special=True)


def test_bos_and_named_tokens(tokenizer, hf):
    assert hf.encode("Hi there") == [tokenizer.bos_id, *tokenizer.encode("Hi there")]
    pair = hf("a", "b")["input_ids"]
    assert pair == [tokenizer.bos_id, *tokenizer.encode("a"), tokenizer.bos_id, *tokenizer.encode("b")]
    assert (hf.bos_token_id, hf.eos_token_id, hf.pad_token_id) == (tokenizer.bos_id, tokenizer.eot_id, tokenizer.pad_id)
    assert len(hf) == tokenizer.vocab_size
    assert hf.convert_tokens_to_ids("<|reserved_special_token_245|>") == tokenizer.vocab_size - 1


def test_tokenizer_json_alone_is_enough(saved, tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((saved / "tokenizer.json").read_bytes())
    assert Tokenizer.load(tmp_path).digest == tokenizer.digest


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda d: d["model"]["vocab"].update({"漢": 1}), "no byte-level BPE"),
        (lambda d: d.pop("model"), "no byte-level BPE"),
        (lambda d: d["pre_tokenizer"]["pretokenizers"].pop(1), "another pattern"),
        (lambda d: d["added_tokens"].pop(9), "eot_id"),
        (lambda d: d["model"]["vocab"].pop("!"), "begin_of_text"),
    ],
)
def test_other_tokenizers_are_refused(saved, tmp_path, change, what):
    described = json.loads((saved / "tokenizer.json").read_text())
    change(described)
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=what):
        Tokenizer.load(tmp_path)


def test_loads_beside_a_llama_config(saved, tokenizer, tmp_path):
    """A model directory has a config.json that names Llama; the tokenizer must not be rebuilt by another class because of it."""
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    transformers.LlamaConfig(vocab_size=tokenizer.vocab_size, hidden_size=32, num_attention_heads=2).save_pretrained(tmp_path)
    hf = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    for text in SENTENCES:
        same(tokenizer, hf, text)
    hf.save_pretrained(tmp_path / "again")
    again = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "again"))
    assert again.encode(SENTENCES[0]) == hf.encode(SENTENCES[0])
    assert again.chat_template == hf.chat_template
