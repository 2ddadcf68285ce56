"""What a request asks of the distribution beyond temperature and top-p: a grammar, top-k, min-p, penalties, a bias on tokens.

It is done to the logits of the rows that ask for it, before temperature, in vLLM's order: what the grammar forbids, penalties and
bias, min-p, top-k; top-p is taken of what is left (`puna.infer.sampler`). Other rows of the batch are not touched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from puna.core.errors import InputError
from puna.infer.grammar import Follower, Grammar


@dataclass(frozen=True)
class Shaping:
    """Wishes of one request; the defaults change nothing.

    Attributes:
        top_k: only so many most likely tokens stay (0: all).
        min_p: only tokens stay that are at least this times as likely as the likeliest, at the temperature (Nguyen 2024).
        presence_penalty, frequency_penalty: taken off the logit of a token that the answer has, once, and once for each time.
        repetition_penalty: divides the logit of every token of prompt and answer (multiplies a negative one; Keskar 2019).
        logit_bias: added to the logits of single tokens; -100 or less forbids one.
        grammar: what the answer must be (`puna.infer.grammar`); the other wishes choose among what it allows.
    """

    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    grammar: Grammar | None = None

    @property
    def plain(self) -> bool:
        """Whether nothing is asked for."""
        return self == NO_SHAPING

    def check(self, vocab_size: int) -> None:
        """InputError for a wish that has no meaning."""
        if self.top_k < 0 or not 0 <= self.min_p <= 1 or not 0.01 <= self.repetition_penalty <= 100:
            raise InputError(
                "a request needs top_k >= 0, 0 <= min_p <= 1 and 0.01 <= repetition_penalty <= 100",
                where=f"top_k={self.top_k} min_p={self.min_p} repetition_penalty={self.repetition_penalty}",
            )
        numbers = (self.presence_penalty, self.frequency_penalty, self.repetition_penalty, *self.logit_bias.values())
        if not all(math.isfinite(number) for number in numbers):
            raise InputError("penalties and biases must be finite numbers", where="a request")
        outside = [token for token in self.logit_bias if not 0 <= token < vocab_size]
        if outside:
            fix = f"the vocabulary has the tokens 0 to {vocab_size - 1}"
            raise InputError(f"logit_bias names token {outside[0]}", where="a request", fix=fix)
        if self.grammar is not None and self.grammar.text_tokens > vocab_size:
            raise InputError("the grammar was made for another tokenizer", where="a request", fix="give it the model's own")


NO_SHAPING = Shaping()


@dataclass(frozen=True, eq=False)
class Shaper:
    """The wishes of a request with its prompt, which penalties look at, and the tokens that end its answers.

    `follower` is where in the grammar the newest answer was: each sample has one of its own.
    """

    shaping: Shaping
    prompt: np.ndarray
    stops: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    follower: Follower | None = None

    def for_sample(self) -> Shaper:
        """This for one more sample."""
        grammar = self.shaping.grammar
        return self if grammar is None else replace(self, follower=grammar.follow())

    @property
    def stuck(self) -> bool:
        """Whether the grammar knew no way on after the newest answer: it is to be cut there."""
        return self.follower is not None and self.follower.stuck

    def __call__(self, logits_V: Tensor, answer: np.ndarray, temperature: float) -> Tensor:
        """Logits [V], float32, as the request wants them after `answer`; what must not come is -inf."""
        logits_V = logits_V.clone()
        if self.follower is not None:
            self._forbid(self.follower, logits_V, answer)
        possible_V = logits_V.clone() if self.shaping.logit_bias else logits_V
        wished_V = self._wished(logits_V, answer, temperature)
        if self.shaping.logit_bias and bool(torch.isneginf(wished_V).all()):
            return possible_V  # a bias against all there is (all that the grammar allows) is passed over
        return wished_V

    def _forbid(self, follower: Follower, logits_V: Tensor, answer: np.ndarray) -> None:
        """Leave the tokens that the grammar allows; the stop tokens where it allows none, for the answer is cut there."""
        allowed, ends = follower.allowed(answer)
        forbidden_V = np.ones(len(logits_V), dtype=bool)
        np.logical_not(allowed, out=forbidden_V[: len(allowed)])
        forbidden_V[self.stops] = not (ends or follower.stuck)
        logits_V.masked_fill_(torch.from_numpy(forbidden_V).to(logits_V.device), -math.inf)

    def _wished(self, logits_V: Tensor, answer: np.ndarray, temperature: float) -> Tensor:
        """`logits_V`, changed in place or anew, by all wishes but the grammar."""
        wish = self.shaping
        self._penalise(logits_V, answer)
        for token, bias in wish.logit_bias.items():
            logits_V[token] += bias if bias > -100 else -math.inf
        if wish.min_p > 0:
            reach = math.log(wish.min_p) * (temperature or 1.0)
            logits_V[logits_V < logits_V.max() + reach] = -math.inf
        if 0 < wish.top_k < len(logits_V):
            kept = torch.sort(logits_V, descending=True, stable=True).indices[: wish.top_k]
            logits_V = torch.full_like(logits_V, -math.inf).index_copy_(0, kept, logits_V[kept])
        return logits_V

    def _penalise(self, logits_V: Tensor, answer: np.ndarray) -> None:
        wish = self.shaping
        if wish.repetition_penalty != 1:
            seen = torch.from_numpy(np.unique(np.concatenate((self.prompt, answer)))).to(logits_V.device)
            values = logits_V[seen]
            logits_V[seen] = torch.where(values > 0, values / wish.repetition_penalty, values * wish.repetition_penalty)
        if len(answer) and (wish.presence_penalty or wish.frequency_penalty):
            tokens, times = (torch.from_numpy(part).to(logits_V.device) for part in np.unique(answer, return_counts=True))
            logits_V[tokens] -= wish.presence_penalty + wish.frequency_penalty * times.to(logits_V.dtype)


def shaped(
    logits_RV: Tensor, shapers: np.ndarray, output: np.ndarray, count: np.ndarray, temperature: np.ndarray
) -> tuple[Tensor, np.ndarray]:
    """Logits of a batch, float32, with the rows changed that have a shaper; and bool [R], the rows that are to be cut because the
    grammar of their answers knows no way on.

    Args:
        shapers: object [R], a `Shaper` or None. output: int64 [R, L], the answers so far; count: how many tokens of them.
    """
    rows, cut = [row for row, shaper in enumerate(shapers) if shaper is not None], np.zeros(len(shapers), dtype=bool)
    if not rows:
        return logits_RV, cut
    logits_RV, changed = logits_RV.float(), []
    for row in rows:
        changed.append(shapers[row](logits_RV[row], output[row, : count[row]], float(temperature[row])))
        cut[row] = shapers[row].stuck
    return logits_RV.index_copy(0, torch.tensor(rows, device=logits_RV.device), torch.stack(changed)), cut
