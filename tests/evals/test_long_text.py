"""Perplexity and needles: closed forms, brute force, and oracles whose reach is known."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from puna.core.errors import InputError
from puna.core.stage import local_artifact, local_context
from puna.data.shards import write_shard
from puna.evals import needle, perplexity
from puna.evals.comparison import Comparison
from puna.model.checkpoint import save_model
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer
from puna.world.needle import KEYS, VALUES


def word_tokenizer() -> Tokenizer:
    """Bytes, and one token for each key and value of the needles (with every prefix, so that merging gets there)."""
    ranks = {bytes([i]): i for i in range(256)}
    for word in (*KEYS, *VALUES):
        text = f" {word}".encode()
        for end in range(2, len(text) + 1):
            ranks.setdefault(text[:end], len(ranks))
    return Tokenizer.from_ranks(ranks)


TOKENIZER = word_tokenizer()


def tiny_model(seed: int, **changes) -> Llama:
    shape = {"vocab_size": TOKENIZER.vocab_size, "dim": 16, "layers": 1, "heads": 2, "kv_heads": 1, "ffn_dim": 32}
    return Llama(ModelConfig(**{**shape, **changes}), seed=seed)


@pytest.fixture
def tokens(tmp_path):
    """A tokens artifact of two groups; `maths` has held-out text, `code` has a single held-out document."""
    path = tmp_path / "tokens"
    path.mkdir()
    TOKENIZER.save(path)
    rng = np.random.default_rng(0)
    for name, documents in (("train-maths", 60), ("held-maths", 40), ("train-code", 5), ("held-code", 1)):
        texts = ["\n".join("".join(rng.choice(list("xyz uv.")) for _ in range(30)) for _ in range(12)) for _ in range(documents)]
        rows = [[TOKENIZER.bos_id, *TOKENIZER.encode(text), TOKENIZER.eos_id] for text in texts]
        write_shard(path / name, rows, {"tokenizer": TOKENIZER.digest})
    return local_artifact(path, "tokens")


def saved(model: Llama, path, name: str):
    save_model(model, path / name, tokenizer=TOKENIZER)
    return local_artifact(path / name, "model")


def test_document_losses_equal_one_document_at_a_time():
    model = tiny_model(1)
    rng = np.random.default_rng(2)
    documents = [rng.integers(0, 256, n) for n in (2, 9, 31, 32, 33, 64, 65, 100)]
    losses = perplexity.document_losses(model, documents, length=32)
    for document, loss in zip(documents, losses, strict=True):
        ids, expected = torch.from_numpy(document)[None], 0.0
        for at in range(0, len(document) - 1, 32):
            window = ids[:, at : at + 33]
            with torch.no_grad():
                expected += F.cross_entropy(model(window[:, :-1])[0], window[0, 1:], reduction="sum").item()
        assert loss == pytest.approx(expected, rel=1e-5)


def test_a_uniform_model_has_the_vocabularys_perplexity(tokens, tmp_path):
    model = tiny_model(3)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    ctx = local_context(tmp_path / "out", inputs=[tokens, saved(model, tmp_path, "flat")])
    perplexity.run(perplexity.Settings(tokens=3000), ctx)
    result = json.loads((tmp_path / "out" / "perplexity.json").read_text())["models"]["flat"]
    maths = result["maths"]
    assert maths["perplexity"] == pytest.approx(TOKENIZER.vocab_size, rel=1e-5)
    assert maths["low"] == pytest.approx(maths["loss"]) == maths["high"]
    bits = maths["tokens"] * math.log2(TOKENIZER.vocab_size) / maths["bytes"]
    assert maths["bits_per_byte"] == pytest.approx(bits, rel=1e-5) and 2900 < maths["tokens"] < 3000
    assert result["code"]["documents"] == 1 and result["code"]["low"] is None


def test_perplexity_refuses_another_vocabulary(tokens, tmp_path):
    save_model(tiny_model(0, vocab_size=300), tmp_path / "other")
    with pytest.raises(InputError, match="another vocabulary"):
        perplexity.run(
            perplexity.Settings(), local_context(tmp_path / "out", inputs=[tokens, local_artifact(tmp_path / "other", "model")])
        )


class Recall:
    """Says what followed the current token the last time it stood within the last `reach` positions."""

    def __init__(self, reach: int):
        self.reach = reach
        self.lm_head = torch.nn.Identity()

    def hidden(self, ids_BT: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(*ids_BT.shape, TOKENIZER.vocab_size)
        for row, ids in enumerate(ids_BT.tolist()):
            last: dict[int, int] = {}
            for at, token in enumerate(ids):
                if token in last and at - last[token] <= self.reach:
                    out[row, at, ids[last[token] + 1]] = 1.0
                last[token] = at
        return out


def test_rows_have_their_length_and_oracles_find_what_they_reach(tokens, tmp_path):
    settings = needle.Settings(lengths=(64, 200), depths=(0.0, 0.5, 1.0), n=12, queries=1)
    rows = needle.draw_rows(settings, local_context(tmp_path / "out", inputs=[tokens]))
    assert {len(row.ids) for row in rows[64]} == {64} and len(rows[200]) == 36
    assert all(needle.find(Recall(reach=10_000), rows[200]))
    assert not any(needle.find(Recall(reach=0), rows[200]))
    short = needle._map(settings, rows, {n: needle.find(Recall(reach=60), rows[n]) for n in settings.lengths})
    far, middle, near = (cell["accuracy"] for cell in short["cells"][1])
    assert (far, middle) == (0.0, 0.0) and near == 1.0
    assert [cell["accuracy"] for cell in short["cells"][0][1:]] == [1.0, 1.0] and short["by_length"]["200"]["n"] == 36


def test_rows_may_differ_by_length_and_every_length_must_be_named(tokens, tmp_path):
    settings = needle.Settings(lengths=(64, 96), depths=(0.0, 1.0), n={64: 3, 96: 5}, queries=1)
    rows = needle.draw_rows(settings, local_context(tmp_path / "out", inputs=[tokens]))
    assert {length: len(found) for length, found in rows.items()} == {64: 6, 96: 10}
    with pytest.raises(ValueError, match="every length: 64, 96"):
        needle.Settings(lengths=(64, 96), n={64: 3})


def test_answers_of_several_tokens_must_match_whole():
    first, second = needle.Row([5, 6, 7, 8, 5, 6, 7], [(5, 7)], [0]), needle.Row([5, 6, 9, 8, 5, 6, 7], [(5, 7)], [0])
    assert needle.find(Recall(reach=99), [first]) == [True]
    assert needle.find(Recall(reach=99), [second, first]) == [False, True]


def test_needle_stage_compares_models_on_the_same_rows(tokens, tmp_path):
    models = [saved(tiny_model(seed, max_seq_len=64), tmp_path, f"m{seed}") for seed in (1, 2)]
    settings = needle.Settings(lengths=(64, 96), n=4, compare=[Comparison(name="longer", better="m2", control="m1")])
    outputs = []
    for name in ("one", "two"):
        needle.run(settings, local_context(tmp_path / name, inputs=[tokens, *models], seed=5))
        outputs.append((tmp_path / name / "needle.json").read_bytes())
    assert outputs[0] == outputs[1]
    result = json.loads(outputs[0])
    assert [c["length"] for c in result["comparisons"]] == [64, 96] and result["comparisons"][0]["n"] == 5 * 4 * 2
    assert result["models"]["m1"]["max_seq_len"] == 64 and sum(c["n"] for c in result["models"]["m1"]["cells"][0]) == 40
    with pytest.raises(InputError, match="too short"):
        needle.run(needle.Settings(lengths=(8,)), local_context(tmp_path / "three", inputs=[tokens, *models]))


def test_too_little_held_out_text_is_filled_up_with_a_note(tokens, tmp_path):
    for file in tokens.path.glob("held-maths.*"):
        file.unlink()
    notes = []
    ctx = local_context(tmp_path / "out", inputs=[tokens])
    ctx.report = notes.append
    rows = needle.draw_rows(needle.Settings(lengths=(64,), n=1), ctx)
    assert len(rows[64]) == 5 and "training text" in notes[0]["text"]
