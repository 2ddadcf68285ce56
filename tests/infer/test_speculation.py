"""Speculative decoding writes what decoding alone writes, token for token, whoever guesses."""

import numpy as np
import pytest
import torch

from puna.core.errors import InputError
from puna.infer.engine import Engine, Request
from puna.infer.kernels import build
from puna.infer.load import load_engine
from puna.infer.shaping import Shaping
from puna.infer.speculate import LookupGuesser, PromptLookup
from puna.model.checkpoint import save_model
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer

STOPS = (3, 50)


def random_model(seed: int = 3, vocab: int = 96, layers: int = 2, dim: int = 32, sharp: float = 30) -> Llama:
    config = ModelConfig(vocab_size=vocab, dim=dim, layers=layers, heads=4, kv_heads=2, ffn_dim=64, max_seq_len=128)
    model = Llama(config, seed=seed).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(sharp)
    return model


def near(model: Llama) -> Llama:
    """A model that mostly agrees."""
    close = Llama(model.config, seed=None)
    close.load_state_dict(model.state_dict())
    with torch.no_grad():
        close.lm_head.weight.add_(torch.randn(close.lm_head.weight.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    return close.eval()


def requests(count: int, longest: int = 24) -> list[Request]:
    rng = np.random.default_rng(6)
    return [
        Request(
            np.tile(rng.integers(0, 96, rng.integers(1, 9)), 3).tolist(), n=int(rng.integers(1, 4)), seed=i,
            temperature=float(rng.choice([0.0, 0.7, 1.0])), top_p=float(rng.choice([1.0, 0.9])),
            max_tokens=int(rng.integers(1, longest)), logprobs=2 if i % 4 == 0 else 0,
            shaping=Shaping(top_k=20, frequency_penalty=0.6, repetition_penalty=1.1) if i % 3 == 0 else Shaping(),
        )
        for i in range(count)
    ]  # fmt: skip


DRAFTS = {"a draft model": near, "a stranger": lambda model: random_model(9, layers=1), "a look-up": lambda _: PromptLookup(2, 1)}
SETTINGS = [
    {"page_size": 4, "prefill_tokens": 9, "max_running": 5},
    {"page_size": 4, "pages": 22, "admission": "optimistic"},
    {"page_size": 4, "pages": 22, "admission": "optimistic", "prefix_cache": False, "guesses": 2},
]


def told(results: list) -> list:
    return [[(c.ids, c.stop_id) for c in samples] for samples in results]


@pytest.mark.parametrize("draft", DRAFTS)
def test_pytorchs_steps_write_the_same(draft):
    model = random_model()
    asked = requests(8, longest=18)
    expected = Engine(model, stop_ids=STOPS).generate(asked)
    for settings in SETTINGS:
        engine = Engine(model, stop_ids=STOPS, draft=DRAFTS[draft](model), **settings)
        assert told(engine.generate(asked)) == told(expected)
        assert engine.guessed > engine.accepted > 0 and (engine.preemptions > 0) == ("admission" in settings)
        assert engine.pool.free == engine.pool.pages - 1 and not engine.pool.references.any()
        assert told(engine.generate(asked[::-1])[::-1]) == told(expected)  # with pages found again


@pytest.mark.parametrize("draft", DRAFTS)
def test_native_steps_write_the_same_to_the_bit(draft):
    try:
        build.library()
    except build.Unavailable:
        pytest.skip("there is no C compiler")
    model = random_model()
    guesser = DRAFTS[draft](model)
    guesser = guesser.to(torch.bfloat16) if isinstance(guesser, Llama) else guesser
    model.to(torch.bfloat16)
    asked = requests(9, longest=18)
    expected = Engine(model, stop_ids=STOPS).generate(asked)
    for settings in SETTINGS:
        engine = Engine(model, stop_ids=STOPS, draft=guesser, **settings)
        assert engine.generate(asked) == expected
        assert engine.guessed > engine.accepted > 0 and (engine.preemptions > 0) == ("admission" in settings)
        assert engine.generate(asked[::-1])[::-1] == expected


@pytest.mark.parametrize("native", [False, True])
def test_a_model_agrees_with_itself(native):
    if native:
        try:
            build.library()
        except build.Unavailable:
            pytest.skip("there is no C compiler")
    model = random_model().to(torch.bfloat16 if native else torch.float32)
    engine = Engine(model, stop_ids=(), draft=model, guesses=3, page_size=4)
    asked = [Request([i, 2, 5], n=2, temperature=float(i % 2), max_tokens=21, seed=i, top_p=0.9) for i in range(6)]
    steps, calls = engine.steps.logits, []
    engine.steps.logits = lambda spans: (calls.append(len(spans.sizes)), steps(spans))[1]
    engine.generate(asked)
    assert engine.accepted == engine.guessed == 12 * 15  # five times three of twenty after the first
    assert len(calls) == 1 + 5
    again = [Request([*request.prompt_ids, 7], max_tokens=9) for request in asked]
    engine.generate(again)
    assert engine.accepted == engine.guessed  # pages found again are the draft's too


def test_a_draft_that_agrees_is_accepted_more_than_a_stranger():
    model, share = random_model(), {}
    for name, make in DRAFTS.items():
        engine = Engine(model, stop_ids=(), draft=make(model))
        engine.generate(requests(20))
        share[name] = engine.accepted / engine.guessed
    assert share["a draft model"] > 0.5 > 0.3 > share["a stranger"]


def test_a_sample_ends_where_it_should_within_a_guess():
    model = random_model()
    asked = Request([4, 4, 4], max_tokens=40)
    ids = Engine(model, stop_ids=()).generate([asked])[0][0].ids
    stop = next(token for place, token in enumerate(ids) if place > 1 and token not in ids[:place])
    engine = Engine(model, stop_ids=(stop,), draft=model, guesses=8)
    found = engine.generate([asked])[0][0]
    assert found.ids == ids[: ids.index(stop)] and found.stop_id == stop
    engine.add(asked)
    streamed = []
    while engine.busy:
        streamed += engine.step()
    assert [token.token_id for token in streamed] == [*found.ids, stop]
    assert [token.finished for token in streamed] == [False] * len(found.ids) + [True] == [t.stopped for t in streamed]


def test_what_a_look_up_finds():
    following = LookupGuesser(PromptLookup(3, 2))._following
    assert following(np.array([1, 2, 3, 4, 9, 2, 3])).tolist() == [4, 9, 2, 3]
    assert following(np.array([5, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3])).tolist() == [8, 1, 2, 3]  # three tokens before two
    assert following(np.array([1, 2, 3, 1])).tolist() == [] == following(np.array([4])).tolist()


def test_drafts_that_do_not_fit():
    model = random_model()
    with pytest.raises(InputError, match="the draft model has 100 tokens and the model 96"):
        Engine(model, stop_ids=(), draft=random_model(vocab=100))
    with pytest.raises(InputError, match="guessed at a time"):
        Engine(model, stop_ids=(), draft=model, guesses=0)
    with pytest.raises(InputError, match="shortest <= longest"):
        PromptLookup(1, 2)


def test_a_draft_of_the_same_herd_from_disk(tmp_path):
    tokenizer = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
    other = Tokenizer.from_ranks({bytes([byte]): 255 - byte for byte in range(256)})
    models = {"large": (random_model(vocab=512), tokenizer), "small": (random_model(9, 512, 1, 16), tokenizer),
              "stranger": (random_model(9, 512, 1, 16), other)}  # fmt: skip
    for name, (model, own) in models.items():
        save_model(model, tmp_path / name, tokenizer=own)
    asked = [Request([1, 2, 3], max_tokens=12)]
    engine, _ = load_engine(tmp_path / "large", draft=tmp_path / "small", guesses=2)
    assert told(engine.generate(asked)) == told(load_engine(tmp_path / "large")[0].generate(asked)) and engine.guessed > 0
    with pytest.raises(InputError, match="another tokenizer"):
        load_engine(tmp_path / "large", draft=tmp_path / "stranger")
