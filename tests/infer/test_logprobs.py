"""Log-probabilities of prompts and of alternatives against the network's own logits, computed at once."""

import pytest
import torch

from puna.core.errors import InputError
from puna.infer.engine import Engine, Request
from puna.infer.kernels import build
from puna.infer.shaping import Shaping
from puna.model.config import ModelConfig
from puna.model.llama import Llama

PROMPT = [5, 17, 3, 88, 41, 2, 9, 60, 33, 21, 7]


@pytest.fixture(scope="module")
def model() -> Llama:
    made = Llama(ModelConfig(vocab_size=96, dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=64, max_seq_len=512), seed=3).eval()
    with torch.no_grad():
        made.lm_head.weight.mul_(40)
    return made


def table(model: Llama, ids: list[int]) -> torch.Tensor:
    """Row i: log-probabilities of what follows token i."""
    with torch.no_grad():
        return model(torch.tensor([ids]))[0].log_softmax(-1)


@pytest.mark.parametrize("shaping", [Shaping(), Shaping(frequency_penalty=2.0)])
def test_values_are_the_models_own_whatever_is_asked_of_the_distribution(model, shaping):
    request = Request(PROMPT, n=2, temperature=0.7, top_p=0.9, max_tokens=12, seed=4, logprobs=4, prompt_logprobs=True,
                      shaping=shaping)  # fmt: skip
    for sample in Engine(model, stop_ids=(1, 8, 30)).generate([request])[0]:
        written = sample.ids + ([] if sample.stop_id is None else [sample.stop_id])
        own = table(model, PROMPT + written)
        expected = own[:-1].gather(1, torch.tensor(PROMPT + written)[1:, None])[:, 0].tolist()
        assert sample.prompt_logprobs[0] is None
        assert sample.prompt_logprobs[1:] == pytest.approx(expected[: len(PROMPT) - 1], abs=1e-4)
        assert sample.token_logprobs == pytest.approx(expected[len(PROMPT) - 1 :], abs=1e-4)
        assert sample.logprob == pytest.approx(sum(sample.token_logprobs), abs=1e-4)
        likely = own[len(PROMPT) - 1 : -1].topk(4)
        assert [[token for token, _ in place] for place in sample.alternatives] == likely.indices.tolist()
        assert [v for place in sample.alternatives for _, v in place] == pytest.approx(likely.values.flatten().tolist(), abs=1e-4)


def test_nobody_gets_what_was_not_asked_for(model):
    plain, judged = Engine(model, stop_ids=()).generate(
        [Request(PROMPT, max_tokens=3), Request(PROMPT, logprobs=1, max_tokens=3)]
    )
    assert plain[0].token_logprobs is plain[0].alternatives is plain[0].prompt_logprobs is judged[0].prompt_logprobs is None
    assert [place[0][0] for place in judged[0].alternatives] == judged[0].ids == plain[0].ids


@pytest.mark.parametrize("tokens", [1, 3, 7, 64])
def test_chunks_neighbours_and_known_pages_do_not_matter(model, tokens):
    engine = Engine(model, stop_ids=(), page_size=4, prefill_tokens=tokens)
    engine.generate([Request(PROMPT, max_tokens=2)])  # its pages are known now
    requests = [Request(PROMPT[:count], max_tokens=2, prompt_logprobs=count % 2 == 1) for count in range(1, 12)]
    for request, samples in zip(requests, engine.generate(requests), strict=True):
        if request.prompt_logprobs:
            ids = list(request.prompt_ids)
            expected = table(model, ids)[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0].tolist()
            assert samples[0].prompt_logprobs[0] is None and samples[0].prompt_logprobs[1:] == pytest.approx(expected, abs=1e-4)


def test_a_prompt_longer_than_one_piece_of_logits(model):
    ids = [(7 * i * i + i) % 96 for i in range(400)]
    found = Engine(model, stop_ids=()).generate([Request(ids, max_tokens=1, prompt_logprobs=True), Request([1], max_tokens=3)])
    expected = table(model, ids)[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0].tolist()
    assert found[0][0].prompt_logprobs[1:] == pytest.approx(expected, abs=2e-4)


def test_the_stream_tells_the_same(model):
    request = Request(PROMPT, n=2, temperature=1.0, max_tokens=5, seed=2, logprobs=2, prompt_logprobs=True)
    whole = Engine(model, stop_ids=()).generate([request])[0]
    engine = Engine(model, stop_ids=())
    engine.add(request)
    tokens = [token for _ in range(5) for token in engine.step()]
    for index, sample in enumerate(whole):
        own = [token for token in tokens if token.index == index]
        assert [token.logprob for token in own] == sample.token_logprobs
        assert [token.alternatives for token in own] == sample.alternatives
        assert own[0].prompt_logprobs == sample.prompt_logprobs and not any(token.prompt_logprobs for token in own[1:])
    assert not engine.busy and not engine.details._samples


def test_native_values_are_the_same_to_the_bit_in_any_company(model):
    try:
        build.library()
    except build.Unavailable:
        pytest.skip("there is no C compiler")
    half = Llama(model.config, seed=3).to(torch.bfloat16).eval()
    requests = [Request(PROMPT[: 1 + i % 11], max_tokens=4, temperature=i % 2, seed=i, logprobs=3, prompt_logprobs=i % 3 == 0)
                for i in range(30)]  # fmt: skip
    together = Engine(half, stop_ids=()).generate(requests)
    small = Engine(half, stop_ids=(), prefill_tokens=4, max_running=3, page_size=4)
    assert small.generate(requests) == together == [small.generate([request])[0] for request in requests]


@pytest.mark.parametrize("count", [-1, 21])
def test_a_senseless_count(model, count):
    with pytest.raises(InputError, match="logprobs counts tokens"):
        Engine(model, stop_ids=()).add(Request(PROMPT, logprobs=count))
