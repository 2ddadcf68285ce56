"""What an engine is asked, and what it answers: whole samples, or token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from puna.core.errors import InputError
from puna.infer.shaping import NO_SHAPING, Shaping

Alternatives = tuple[tuple[int, float], ...]  # (token, log-probability), the likeliest first
LEAST_TEMPERATURE = 1e-3  # below it the likeliest token is all there is, and float32 overflows
MOST_ALTERNATIVES = 20  # as the OpenAI API has it


class Loaded(Protocol):
    """A medium ready to be looked at (`puna.vision.media.Loaded`); `key` names its content."""

    @property
    def key(self) -> bytes: ...


@dataclass(frozen=True)
class Shown:
    """A medium, and the place of its token in the prompt."""

    at: int
    medium: Loaded


@dataclass
class Request:
    """What to continue and how.

    `n` samples with seeds of their own; `temperature` 0 is greedy; `stop_ids` come on top of the engine's; `shaping` has rarer
    wishes. `logprobs` asks for so many likeliest tokens beside each written one, `prompt_logprobs` for the log-probability of
    every prompt token. `media` are what the prompt shows, in order, to a model that sees. An answer is cut where prompt and
    answer together reach the model's `max_seq_len`.
    """

    prompt_ids: Sequence[int]
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 64
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    shaping: Shaping = NO_SHAPING
    logprobs: int = 0
    prompt_logprobs: bool = False
    media: Sequence[Shown] = ()

    def check(self, vocab_size: int, max_seq_len: int) -> int:
        """Most tokens each sample may write; InputError for a request no engine with such a model could answer."""
        prompt = self.prompt_ids
        if not len(prompt):
            raise InputError("a request needs at least one prompt token", fix="start it with the tokenizer's bos_id")
        if min(prompt) < 0 or max(prompt) >= vocab_size:  # before numpy, which has no room for every integer
            raise InputError(
                f"a prompt token is outside the vocabulary of {vocab_size}",
                where=f"ids from {min(prompt)} to {max(prompt)}",
                fix="encode it with the model's own tokenizer",
            )
        if self.n < 1 or self.max_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise InputError(
                "a request needs n >= 1, max_tokens >= 1, temperature >= 0 and 0 < top_p <= 1",
                where=f"n={self.n} max_tokens={self.max_tokens} temperature={self.temperature} top_p={self.top_p}",
            )
        if self.temperature and not LEAST_TEMPERATURE <= self.temperature < math.inf:
            raise InputError(
                f"a temperature is 0 or at least {LEAST_TEMPERATURE}", where=f"temperature={self.temperature}", fix="0 is greedy"
            )
        if not 0 <= self.logprobs <= MOST_ALTERNATIVES:
            raise InputError(f"logprobs counts tokens, 0 to {MOST_ALTERNATIVES}", where=f"logprobs={self.logprobs}")
        places = [-1, *(shown.at for shown in self.media), len(prompt)]
        if places != sorted(set(places)):
            raise InputError("media stand in order at places of their own in the prompt", where=f"places {places[1:-1]}")
        self.shaping.check(vocab_size)
        limit = min(self.max_tokens, max_seq_len - len(prompt))
        if limit < 1:
            raise InputError(
                f"the prompt has {len(prompt)} tokens and the model reads {max_seq_len}, answer included",
                fix="shorten the prompt",
            )
        return limit


@dataclass
class Completion:
    """One sample. `ids` leaves the stop token out; `finished` tells that there was one, `stop_id` which.

    `logprob` sums the log-probabilities of all tokens, the stop token included, before temperature and top-p. Where asked for:
    `token_logprobs` and `alternatives` have one entry for each token, the stop token included, and `prompt_logprobs` one for each
    prompt token, None for the first.
    """

    ids: list[int]
    finished: bool
    stop_id: int | None
    logprob: float
    token_logprobs: list[float] | None = None
    alternatives: list[Alternatives] | None = None
    prompt_logprobs: list[float | None] | None = None

    @property
    def drawn(self) -> list[int]:
        """All ids that were drawn, the stop token included."""
        return self.ids + ([] if self.stop_id is None else [self.stop_id])


@dataclass
class Token:
    """One new token of one sample. `finished`: the sample's last; `stopped`: it is a stop token, so no text.

    `alternatives` are the likeliest tokens in its place, and `prompt_logprobs` come with a sample's first token, where asked for.
    """

    request_id: int
    index: int
    token_id: int
    finished: bool
    stopped: bool
    logprob: float
    alternatives: Alternatives = ()
    prompt_logprobs: list[float | None] | None = None
