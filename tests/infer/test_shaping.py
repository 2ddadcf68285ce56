"""What requests ask of the distribution: equal to transformers' processors, per row, and the same in any company."""

import numpy as np
import pytest
import torch
from transformers import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TopKLogitsWarper

from puna.core.errors import InputError
from puna.infer.engine import Engine, Request
from puna.infer.shaping import Shaper, Shaping, shaped
from puna.model.config import ModelConfig
from puna.model.llama import Llama

PROMPT, ANSWER = np.array([3, 5, 5, 9]), np.array([7, 7, 2])


def logits(size=40, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3


def changed(temperature=1.0, **wishes):
    return Shaper(Shaping(**wishes), PROMPT)(logits(), ANSWER, temperature)


def test_top_k_min_p_and_repetition_are_those_of_transformers():
    ids = torch.from_numpy(np.concatenate((PROMPT, ANSWER)))[None]
    torch.testing.assert_close(changed(top_k=7), TopKLogitsWarper(7)(ids, logits()[None])[0])
    torch.testing.assert_close(changed(min_p=0.2), MinPLogitsWarper(0.2)(ids, logits()[None])[0])
    warm = MinPLogitsWarper(0.2)(ids, logits()[None] / 0.5)[0] * 0.5
    torch.testing.assert_close(changed(temperature=0.5, min_p=0.2), warm)
    torch.testing.assert_close(changed(repetition_penalty=1.3), RepetitionPenaltyLogitsProcessor(1.3)(ids, logits()[None])[0])


def test_penalties_count_the_answer_and_a_bias_forbids():
    found = logits() - changed(presence_penalty=0.5, frequency_penalty=0.25)
    expected = torch.zeros(40)
    expected[7], expected[2] = 0.5 + 2 * 0.25, 0.5 + 0.25  # the prompt's tokens are not counted
    torch.testing.assert_close(found, expected)
    biased = changed(logit_bias={4: 2.0, 6: -100.0})
    assert biased[4] == logits()[4] + 2 and biased[6] == -torch.inf and biased[8] == logits()[8]


def test_top_k_keeps_k_of_equal_tokens():
    assert int((Shaper(Shaping(top_k=3), PROMPT)(torch.zeros(10), ANSWER, 1.0) == 0).sum()) == 3


def test_other_rows_are_not_touched():
    both = torch.stack([logits(), logits(seed=1)])
    shapers = np.array([None, Shaper(Shaping(top_k=1), PROMPT)], dtype=object)
    output = np.array([[1, -1], [2, 3]])
    found, cut = shaped(both, shapers, output, np.array([1, 2]), np.float32([1, 1]))
    assert torch.equal(found[0], both[0]) and int(torch.isfinite(found[1]).sum()) == 1
    assert shaped(both, np.array([None, None]), output, np.array([1, 2]), np.float32([1, 1]))[0] is both and not cut.any()


@pytest.fixture(scope="module")
def engine():
    config = ModelConfig(vocab_size=60, dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=64, max_seq_len=64)
    return Engine(Llama(config, seed=3), stop_ids=[59], pages=400)


def wishes(index):
    """A request with wishes of its own for each index."""
    rng = np.random.default_rng(index)
    shaping = Shaping(
        top_k=int(rng.integers(0, 6)) if index % 2 else 0, min_p=float(rng.random() / 5) if index % 3 else 0.0,
        presence_penalty=float(rng.random()), frequency_penalty=float(rng.random()),
        repetition_penalty=1 + float(rng.random()), logit_bias={int(rng.integers(0, 59)): 3.0},
    )  # fmt: skip
    plain = index % 4 == 0
    prompt = rng.integers(0, 59, int(rng.integers(1, 20))).tolist()
    return Request(prompt, n=2, temperature=float(index % 3) / 2, top_p=0.9, max_tokens=12, seed=index,
                   shaping=Shaping() if plain else shaping)  # fmt: skip


def test_tokens_do_not_depend_on_neighbours(engine):
    requests = [wishes(index) for index in range(40)]
    together = engine.generate(requests)
    alone = [engine.generate([request])[0] for request in requests]
    assert [[c.ids for c in found] for found in together] == [[c.ids for c in found] for found in alone]
    for one, other in zip(together, alone, strict=True):
        assert [c.logprob for c in one] == pytest.approx([c.logprob for c in other], abs=1e-4)


def test_what_is_forbidden_never_comes_and_repetition_ends(engine):
    banned = dict.fromkeys(range(30), -100.0)
    answer = engine.generate([Request([1, 2], temperature=1.0, max_tokens=40, seed=1, shaping=Shaping(logit_bias=banned))])[0][0]
    assert answer.ids and min(answer.ids) >= 30
    hard = Request([1, 2], max_tokens=30, shaping=Shaping(frequency_penalty=1e6))
    ids = engine.generate([hard])[0][0].ids
    assert len(set(ids)) == len(ids)


SENSELESS = [
    {"top_k": -1},
    {"min_p": 1.5},
    {"repetition_penalty": 0.0},
    {"logit_bias": {60: 1.0}},
    {"presence_penalty": float("nan")},
]


@pytest.mark.parametrize("wish", SENSELESS)
def test_wishes_without_a_meaning_are_refused(engine, wish):
    with pytest.raises(InputError):
        engine.add(Request([1], shaping=Shaping(**wish)))
    assert not engine.busy


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"temperature": 1e-40}, "a temperature is 0 or at least"),
        ({"temperature": float("inf")}, "a temperature is 0 or at least"),
        ({"temperature": float("nan")}, "temperature"),
        ({"prompt_ids": [1 << 70]}, "outside the vocabulary"),
        ({"prompt_ids": [-1]}, "outside the vocabulary"),
        ({"shaping": Shaping(repetition_penalty=1e-320)}, "repetition_penalty"),
    ],
)
def test_numbers_that_would_end_the_whole_batch_are_refused(wishes, message):
    with pytest.raises(InputError, match=message):
        Request(**{"prompt_ids": [1, 2], **wishes}).check(40, 64)


def test_a_bias_against_every_token_is_passed_over():
    logits = torch.arange(5.0)
    shaper = Shaper(Shaping(logit_bias=dict.fromkeys(range(5), -100.0)), np.array([1]))
    assert shaper(logits, np.zeros(0, np.int64), 1.0).tolist() == logits.tolist()
