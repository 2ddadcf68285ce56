from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tricky_texts import SENTENCES, corpus, random_text

from puna.core.errors import InputError
from puna.tokenizer.bpe import SPLIT_PATTERN, Tokenizer
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
        (lambda d: d.update(normalizer={"type": "NFC"}), "normalizer"),
        (lambda d: d["pre_tokenizer"]["pretokenizers"][2].update(add_prefix_space=True), "add_prefix_space"),
        (lambda d: d["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (lambda d: d["model"]["merges"].reverse(), "not in the order"),
        (lambda d: d["model"]["merges"].pop(3), "do not follow"),
        (lambda d: d["model"]["merges"].append(["a", "b", "c"]), "not in the order"),
        (lambda d: d["model"].update(ignore_merges=False), "come out of no merge"),
        (lambda d: d["model"].update(merges=[["漢", "字"]]), "no byte-level BPE"),
    ],
)
def test_other_tokenizers_are_refused(saved, tmp_path, change, what):
    described = json.loads((saved / "tokenizer.json").read_text())
    change(described)
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=what):
        Tokenizer.load(tmp_path)


def test_files_that_list_every_pair_of_each_token_are_read(saved, tokenizer, tmp_path):
    """Conversions of Meta's file list, for every token, each way to cut it into two tokens."""
    described = json.loads((saved / "tokenizer.json").read_text())
    vocab = described["model"]["vocab"]
    pairs = [
        (vocab[left], vocab[right], vocab[token], f"{left} {right}")
        for token in vocab
        for left, right in ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        if left in vocab and right in vocab
    ]
    described["model"]["merges"] = [text for *_, text in sorted(pairs, key=lambda pair: (pair[2], pair[0], pair[1]))]
    assert len(described["model"]["merges"]) > 1.2 * (len(tokenizer.ranks) - 256)
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    assert Tokenizer.load(tmp_path).digest == tokenizer.digest
    other = pytest.importorskip("tokenizers").Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    rng = random.Random(8)
    for text in [*SENTENCES, *(random_text(rng) for _ in range(300))]:
        if not reserved(text):
            assert other.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)


def test_a_vocabulary_trained_by_hugging_face_is_taken_over(tmp_path):
    """Without special tokens of its own, its ids stay and the special slots follow them."""
    tokenizers = pytest.importorskip("tokenizers")
    pre = tokenizers.pre_tokenizers
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = pre.Sequence(
        [pre.Split(tokenizers.Regex(SPLIT_PATTERN), "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(corpus(), trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    taken = Tokenizer.load(tmp_path / "tokenizer.json")
    assert taken.base_size == 700
    rng = random.Random(9)
    for text in [*SENTENCES, *(random_text(rng) for _ in range(300))]:
        assert made.encode(text).ids == taken.encode(text)


def fuzz_corpus() -> dict[str, str]:
    """What encoders have been caught on, long enough to reach their limits."""
    rng = random.Random(12)
    marks = "".join(rng.choice("aeiou") + "".join(chr(rng.randrange(0x300, 0x370)) for _ in range(3)) for _ in range(2000))
    octets = bytes(rng.randrange(256) for _ in range(20_000))
    return {
        "white space runs": "".join(rng.choice(" \t\n\r\u00a0\u3000\x0b") * rng.randrange(1, 40) + "x" for _ in range(2000)),
        "digits": "".join(rng.choice("0123456789٣४½") for _ in range(30_000)),
        "emoji": "".join(rng.choice(["😀", "👩‍👩‍👧", "🇨🇭", "👍🏽", "❤️", " "]) for _ in range(5000)),
        "CJK": "".join(chr(rng.randrange(0x3040, 0x9FFF)) for _ in range(20_000)),
        "combining marks": marks,
        "invalid UTF-8, replaced": octets.decode("utf-8", errors="replace"),
        "special strings in pieces": "<|eot_id| > <|begin_of_text <| end_of_text|>" * 300,
        "1 MB without spaces": "".join(rng.choice("abcdefghijklmnop") for _ in range(1_000_000)),
        "1 MB of one letter": "a" * 1_000_000,
        "1 MB of CJK": "".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(333_000)),
        "300 kB of spaces": " " * 300_000 + "x",
    }


@pytest.mark.parametrize("name", list(fuzz_corpus()))
def test_three_encoders_agree_on_the_fuzz_corpus(tokenizer, saved, name):
    tokenizers, tiktoken = pytest.importorskip("tokenizers"), pytest.importorskip("tiktoken")
    text = fuzz_corpus()[name]
    ids = tokenizer.encode(text)
    plain = tiktoken.Encoding("plain", pat_str=SPLIT_PATTERN, mergeable_ranks=tokenizer.ranks, special_tokens={})
    assert plain.encode_ordinary(text) == ids
    assert tokenizers.Tokenizer.from_file(str(saved / "tokenizer.json")).encode(text, add_special_tokens=False).ids == ids
    assert tokenizer.decode(ids) == text


def test_special_strings_inside_text_are_text_in_all_three(tokenizer, hf):
    import tiktoken

    plain = tiktoken.Encoding("plain", pat_str=SPLIT_PATTERN, mergeable_ranks=tokenizer.ranks, special_tokens={})
    text = "a <|eot_id|> b<|begin_of_text|>\n\n<|python_tag|>c"
    ids = tokenizer.encode(text)
    assert plain.encode_ordinary(text) == ids
    assert max(ids) < tokenizer.base_size
    assert hf.encode(text, add_special_tokens=False, split_special_tokens=True) == ids


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
