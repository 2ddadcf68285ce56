"""Stage: a model as FP8 (section 6.2), in the `fbgemm_fp8` format that other engines load, and compared with its BF16 self.

Both run over held-out tokens (or, where none are given, over the model's own samples), and both continue the same openings
greedily: the summary holds divergence per token, agreement, perplexity, the error of every quantised matrix, and bytes. With a
reward model and tasks among the inputs it also holds the paper's check, the reward scores of both models' answers. Under
`random_model` it holds the same comparison for a random model of more width (`puna.infer.fp8_random`).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from puna.core.errors import InputError
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import Artifact, StageContext
from puna.infer.convert import directory_bytes, write_like
from puna.infer.engine import Engine, Request
from puna.infer.fp8 import batches, compare, layer_errors, quantize_model, round_weights
from puna.infer.fp8_random import RandomModel, compare_random, spread
from puna.infer.load import stop_ids
from puna.infer.reward_scores import compare_rewards, load_reward
from puna.model.checkpoint import load_model
from puna.model.fp8_linear import ACTIVATION_BOUND
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer

KIND = "model"
REVISION = 1
OPENING = 16  # tokens of a text given as prompt to both models


class Settings(BaseSettings):
    """activation_bound: largest absolute value of a token's activations before it saturates (paper: 1200).
    tokens: how many held-out tokens both models are compared on. seq_len: longest text, in tokens, of that comparison.
    continuations: openings continued greedily by both. continuation_tokens: length of each.
    reward_answers: answers of each model that a reward model scores (paper: 100,000). reward_tokens: longest of them.
    random_model: a random model compared likewise; null leaves it out."""

    activation_bound: PositiveFloat = ACTIVATION_BOUND
    tokens: PositiveInt = 20_000
    seq_len: PositiveInt = 256
    continuations: NonNegativeInt = 64
    continuation_tokens: PositiveInt = 32
    reward_answers: PositiveInt = 1000
    reward_tokens: PositiveInt = 48
    random_model: RandomModel | None = RandomModel()


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Quantise the input model into this artifact and return the comparison."""
    source = ctx.inputs.one("model")
    reference = load_model(source.path).eval()
    round_weights(reference, torch.bfloat16)
    model = copy.deepcopy(reference)
    names = quantize_model(model, activation_bound=settings.activation_bound)
    write_like(source.path, copy.deepcopy(model).to(torch.bfloat16), ctx.out)
    model = load_model(ctx.out).eval()  # what is compared is what was written

    ctx.progress(1, 6)
    length = min(settings.seq_len, model.config.max_seq_len)
    tokens = ctx.inputs.optional("tokens")
    if tokens is None:
        ctx.note("no tokens among the inputs: FP8 and BF16 are compared on the model's own samples")
        texts = own_samples(reference, source.path, settings.tokens, length, ctx.stream_seed("samples"))
    else:
        texts = held_out_texts(tokens, settings.tokens, length)
    comparison = compare(reference, model, texts)
    ctx.progress(2, 6)
    first = next(iter(batches(texts)))[0]
    errors = layer_errors(reference, names, first, activation_bound=settings.activation_bound)
    ctx.progress(3, 6)
    rewards = reward_scores(reference, model, settings, ctx)
    ctx.progress(4, 6)
    random = random_comparison(settings, texts, reference.config.vocab_size, ctx.stream_seed("random model"))
    ctx.progress(5, 6)
    return {
        "format": "fbgemm_fp8",
        "compared_on": tokens.name if tokens else "own samples",
        **comparison.summary(),
        "greedy": greedy_agreement(
            reference, model, texts, stop_ids(source.path), count=settings.continuations, length=settings.continuation_tokens
        ),
        **({} if rewards is None else {"rewards": rewards}),
        **({} if random is None else {"random_model": random}),
        "layers": errors,
        "bf16_bytes": sum(2 * weight.numel() for weight in reference.parameters()),
        "fp8_bytes": directory_bytes(ctx.out, "*.safetensors"),
    }


def reward_scores(reference: Llama, model: Llama, settings: Settings, ctx: StageContext) -> dict[str, Any] | None:
    """The reward model's scores of both models' answers compared; None without reward model and tasks among the inputs."""
    artifact, tasks = ctx.inputs.optional("reward"), ctx.inputs.optional("tasks")
    if artifact is None or tasks is None:
        return None
    reward = load_reward(artifact.path)
    if reward is None:
        ctx.note(f"{artifact.name} was not trained for want of pairs: reward scores are not compared")
        return None
    return compare_rewards(
        reward, {"bf16": reference, "fp8": model}, Tokenizer.load(ctx.inputs.one("model").path), tasks.path,
        answers=settings.reward_answers, max_tokens=settings.reward_tokens, seed=ctx.stream_seed("rewards"),
    )  # fmt: skip


def held_out_texts(tokens: Artifact, limit: int, length: int) -> list[list[int]]:
    """Pieces of at most `length` tokens from the held-out shards, every group in turn, about `limit` tokens in all."""
    from puna.data.shards import open_shard

    groups = sorted(path.with_suffix("") for path in tokens.path.glob("held-*.bin"))
    if not groups:
        raise InputError(
            "the token artifact has no held-out shard", where=str(tokens.path), fix="set a held-out share in data.shards"
        )
    texts: list[list[int]] = []
    for group in groups:
        shard = open_shard(group)
        left = limit // len(groups)
        for number in range(shard.documents):
            piece = np.asarray(shard.document(number))[: min(length, left)].tolist()
            texts.append(piece)
            left -= len(piece)
            if left < 2:
                break
    return texts


def own_samples(model: Llama, directory: Path, limit: int, length: int, seed: int) -> list[list[int]]:
    """Texts of `length` tokens drawn from the model at temperature 1, about `limit` tokens in all, from its BOS token or id 0."""
    from puna.model.checkpoint import read_config

    begin = read_config(directory).get("bos_token_id") or 0
    engine = Engine(model, stop_ids=())
    request = Request([begin], n=max(1, limit // length), temperature=1.0, max_tokens=length - 1, seed=seed)
    return [[begin, *sample.ids] for sample in engine.generate([request])[0]]


def random_comparison(settings: Settings, texts: list[list[int]], vocab_size: int, seed: int) -> dict[str, Any] | None:
    """What FP8 does to a random model that reads some of the texts; None where the settings ask for none."""
    chosen = settings.random_model
    if chosen is None:
        return None
    some = spread(texts, chosen.tokens)
    reference = chosen.build(vocab_size, max_seq_len=settings.seq_len + chosen.continuation_tokens, seed=seed)
    model = copy.deepcopy(reference)
    names = quantize_model(model, activation_bound=settings.activation_bound)
    return {
        "shape": {"parameters": reference.config.parameters(), "dim": chosen.dim, "layers": chosen.layers},
        **compare_random(reference, model, some, chosen.logit_stds),
        "greedy": greedy_agreement(reference, model, texts, (), count=chosen.continuations, length=chosen.continuation_tokens),
        "layers": layer_errors(reference, names, next(iter(batches(some)))[0], activation_bound=settings.activation_bound),
    }


def greedy_agreement(
    reference: Llama, model: Llama, texts: list[list[int]], ends: tuple[int, ...], *, count: int, length: int
) -> dict[str, Any]:
    """Continue `count` openings by up to `length` tokens with both models; how many are equal, and how long they stay so."""
    openings = [text[:OPENING] for text in texts if len(text) > 1][:count]
    requests = [Request(opening, max_tokens=length) for opening in openings]
    answers = [Engine(m, stop_ids=ends).generate(requests) for m in (reference, model)]
    pairs = [(a[0].ids, b[0].ids) for a, b in zip(*answers, strict=True)]
    same = [next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))) for a, b in pairs]
    longest = [max(len(a), len(b)) for a, b in pairs]
    return {
        "continuations": len(pairs),
        "equal": sum(a == b for a, b in pairs),
        "equal_prefix_share": sum(same) / max(1, sum(longest)),
    }
