"""The tagger and the prosody model: what they may see, that they learn what the states alone tell, and their directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from puna.core.errors import InputError
from puna.core.modules import load_stage
from puna.core.stage import local_artifact, local_context
from puna.model.checkpoint import save_model
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.speech.out.examples import KINDS, examples, split_words
from puna.speech.out.files import load_speech_out
from puna.speech.out.prosody_model import ProsodyModel, ProsodyShape, delayed, features, scaled, undelayed, unscaled
from puna.speech.out.speaker import Speaker
from puna.speech.out.states import Known, MiddleStates
from puna.speech.out.tagger import Tagger, TaggerShape, init_weights, looks
from puna.tokenizer.bpe import Tokenizer

DIM = 16


def tokenizer() -> Tokenizer:
    return Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})


def text_model(layers: int = 4) -> Llama:
    config = ModelConfig(tokenizer().vocab_size, dim=DIM, layers=layers, heads=2, kv_heads=1, ffn_dim=32, max_seq_len=256)
    return Llama(config, seed=1).eval()


def test_states_are_those_of_the_middle_layer_and_causal() -> None:
    model, words = text_model(), tokenizer()
    states = MiddleStates(model, words)
    assert states.layer == 2
    known = states.of([["Ana", "has", "12"], ["a"]])
    assert known.pieces_BS[0].tolist() == [0] * 3 + [1] * 4 + [2] * 3 and known.pieces_BS[1].tolist() == [0] + [-1] * 9
    ids = torch.tensor([[*states.prompt, *words.encode("Ana has 12")]])
    x = model.model.embed_tokens(ids)
    for layer in model.model.layers[:2]:
        x = layer(x, model.model.rope(ids.shape[1], None, x.device), None, None)
    wanted = torch.nn.functional.rms_norm(x[:, len(states.prompt) :], (DIM,))
    assert torch.allclose(known.states_BSD[:1], wanted, atol=1e-5)
    longer = states.of([["Ana", "has", "12", "pens"]])
    assert torch.allclose(longer.states_BSD[:, :10], known.states_BSD[:1], atol=1e-5)
    lower = MiddleStates(states.lower(), words, states.layer)
    assert lower.text.config.layers == 3
    assert torch.equal(lower.of([["Ana", "has", "12"]]).states_BSD, states.of([["Ana", "has", "12"]]).states_BSD)


@pytest.mark.parametrize("ahead", [0, 2])
def test_the_tagger_sees_so_far_ahead_and_no_further(ahead: int) -> None:
    tagger, states = Tagger(TaggerShape(DIM, ahead=ahead)), MiddleStates(text_model(), tokenizer())
    init_weights(tagger, 0)
    pieces = ["Ana", "12", "and", "bus", "4", "and", "Leo"]

    def logits(own: list[str]) -> torch.Tensor:
        words, styles = looks([own], tagger.shape.buckets)
        return tagger(words, styles, states.of([own]))[0].detach()

    plain, other = logits(pieces), logits([*pieces[:4], "house", *pieces[5:]])
    first = 4 - ahead  # the first piece that may know of the change
    assert torch.allclose(plain[:first], other[:first], atol=1e-5)
    assert (plain[first:5] - other[first:5]).abs().amax(-1).min() > 1e-3


def test_the_prosody_model_sees_its_phones_and_its_chunk_and_no_further() -> None:
    model = ProsodyModel(ProsodyShape(DIM, ahead=3, chunk=2)).eval()
    init_weights(model, 0)
    row = examples(dict(KINDS), 1, 3, "x")[0]
    table, count = features([row.phrase.phones], [0]), len(row.phrase.phones)
    pieces = torch.arange(6)[None]
    states = torch.randn(1, 6, DIM, generator=torch.Generator().manual_seed(0))
    before = torch.zeros(1, count + 2, 3)
    plain = model(table, before, Known(states, pieces)).detach()
    changed = table.clone()
    changed[0, 8, 0] = (changed[0, 8, 0] + 1) % 20
    other = model(changed, before, Known(states, pieces)).detach()
    assert torch.allclose(plain[:, :5], other[:, :5], atol=1e-5) and not torch.allclose(plain[:, 5], other[:, 5], atol=1e-4)
    last_of_chunk = max(i for i, phone in enumerate(row.phrase.phones) if phone.word < 2)
    moved = states.clone()
    moved[0, 2:] += 1.0
    other = model(table, before, Known(moved, pieces)).detach()
    assert torch.allclose(plain[:, : last_of_chunk + 1], other[:, : last_of_chunk + 1], atol=1e-5)


def test_delay_and_scale_are_undone() -> None:
    values = torch.arange(24.0).reshape(2, 4, 3)
    late = delayed(values)
    assert late.shape == (2, 6, 3) and late[0, :, 1].tolist() == [0, 1, 4, 7, 10, 0]
    assert torch.equal(undelayed(late), values)
    meant = examples(dict(KINDS), 1, 0, "y")[0].meant
    back = unscaled(scaled(meant))
    for name in ("durations_s", "semitones", "power_db"):
        assert np.allclose(getattr(back, name), getattr(meant, name), atol=1e-5)


def test_writing_a_phrase_at_a_time_equals_a_padded_batch() -> None:
    model = ProsodyModel(ProsodyShape(DIM)).eval()
    init_weights(model, 0)
    rows = examples(dict(KINDS), 3, 5, "z")
    states = MiddleStates(text_model(), tokenizer())
    both = model.write(features([r.phrase.phones for r in rows], [0] * 3), states.of([r.pieces for r in rows]))
    for own, row in zip(both, rows, strict=True):
        alone = model.write(features([row.phrase.phones], [0]), states.of([row.pieces]))[0]
        assert torch.allclose(own[: len(alone)], alone, atol=1e-4)


def test_words_held_out_are_in_no_sentence_of_training() -> None:
    train, held = split_words(7)
    for kind, words in KINDS.items():
        assert set(train[kind]) | set(held[kind]) == set(words) and not set(train[kind]) & set(held[kind])
    used = {piece.rstrip(".?") for row in examples(train, 200, 7, "train") for piece in row.pieces}
    assert not used & {word for words in held.values() for word in words}
    row = next(r for r in examples(held, 50, 7, "held") if "ordinal" in r.rules)
    assert row.pieces[row.beside(row.rules.index("ordinal"))].rstrip(".?") in held["ordinal"]


def test_the_stage_learns_and_its_directory_speaks(tmp_path: Path) -> None:
    save_model(text_model(2), tmp_path / "text", tokenizer=tokenizer())
    stage = load_stage("speech.speak")
    settings = stage.Settings(steps=6, sentences=30, held=4, batch=4, dim=16, log_every=3, lr=1e-2)
    summaries = []
    for name in ("one", "two"):
        ctx = local_context(tmp_path / name, inputs=[local_artifact(tmp_path / "text", "model")])
        summaries.append(stage.run(settings, ctx))
    assert summaries[0] == summaries[1]
    found = summaries[0]["normalisation"]
    assert found["states"]["n"] == found["blind"]["n"] > 0
    rows = [line for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines() if "tagger.states" in line]
    assert len(rows) == 2
    models = load_speech_out(tmp_path / "one")
    assert models.tagger.shape == TaggerShape(DIM, 16)
    assert (tmp_path / "one" / "speech_out.safetensors").read_bytes() == (
        tmp_path / "two" / "speech_out.safetensors"
    ).read_bytes()
    learnt, rules = (list(Speaker.open(d, "formant").say("Ana 12, Leo.")) for d in (tmp_path / "one", None))
    assert len(learnt) == len(rules) == 2 and len(learnt[1]) != len(rules[1])
    german = (list(Speaker.open(d, "formant").say("Haus 12", lang="de")) for d in (tmp_path / "one", None))
    assert all(np.array_equal(a, b) for a, b in zip(*german, strict=True))


def test_a_directory_without_models(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no speech-out model"):
        Speaker.open(tmp_path, "formant")


def test_states_decide_where_words_cannot() -> None:
    """Trained on states that name the kind of a word, the tagger reads words it never saw; the blind one cannot."""
    from puna.speech.out.tagger import Tagging, tagging_batch

    train, held = split_words(1)
    kind_of = {word: i for i, words in enumerate(KINDS.values()) for word in words}

    def known(rows: list[list[str]], shown: bool) -> Known:
        longest = max(map(len, rows))
        states, pieces = torch.zeros(len(rows), longest, 4), torch.full((len(rows), longest), -1)
        for row, own in enumerate(rows):
            pieces[row, : len(own)] = torch.arange(len(own))
            for i, piece in enumerate(own):
                states[row, i, kind_of.get(piece.rstrip(".?"), 3)] = 2.0 * shown
        return Known(states, pieces)

    accuracy = {}
    for shown in (True, False):
        tagger = Tagger(replace(TaggerShape(4), dim=24))
        init_weights(tagger, 2)
        optimizer = torch.optim.AdamW(tagger.parameters(), 1e-2)
        for step in range(45):
            rows = examples(train, 16, step, "rows")
            texts = [row.pieces for row in rows]
            batch = tagging_batch(texts, [row.rules for row in rows], known(texts, shown), tagger.shape.buckets)
            loss = Tagging().sums(tagger, batch)[0]["tag"] / Tagging().counts(batch)["tag"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        right = [
            told == true
            for row in examples(held, 60, 9, "test")
            for told, true in zip(tagger.rules(row.pieces, known([row.pieces], shown)), row.rules, strict=True)
            if true != "as_is"
        ]
        accuracy[shown] = sum(right) / len(right)
    assert accuracy[True] > 0.9 and accuracy[False] < 0.65
