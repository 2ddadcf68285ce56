"""What one step writes: tokens chosen for rows of logits, and what is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from puna.infer.request import MOST_ALTERNATIVES, Alternatives, Completion, Token
from puna.infer.rows import Rows
from puna.infer.sampler import choose, own_logprobs, uniforms
from puna.infer.scheduler import Chunk
from puna.infer.shaping import shaped


@dataclass
class Written:
    """One new token of each of some rows, as columns; `at` says which rows."""

    rows: Rows
    at: np.ndarray
    tokens: np.ndarray
    logprobs: np.ndarray
    stopped: np.ndarray
    finished: np.ndarray
    details: dict[int, tuple[Alternatives, list[float | None] | None]] = field(default_factory=dict)  # by place in `at`


@dataclass
class _Details:
    """What is told of one sample beyond its tokens."""

    prompt: list[float | None] | None
    logprobs: list[float] = field(default_factory=list)
    alternatives: list[Alternatives] = field(default_factory=list)


@dataclass
class Choice:
    """A token for each row (int64 [R]), the model's log-probability of it (float32 [R]), and whether its answer is cut there,
    because the form it is held to knows no way on (bool [R])."""

    tokens: np.ndarray
    logprobs: np.ndarray
    cut: np.ndarray

    def at(self, places: np.ndarray) -> Choice:
        """Some of them."""
        return Choice(self.tokens[places], self.logprobs[places], self.cut[places])


def chosen(rows: Rows, logits: Tensor) -> Choice:
    """What each row writes next."""
    wanted, cut = shaped(logits, rows.shaper, rows.output, rows.count, rows.temperature)
    tokens, logprobs = choose(wanted, rows.temperature, rows.top_p, uniforms(rows.key, rows.count))
    if wanted is not logits:
        logprobs = own_logprobs(logits.float(), tokens)
    return Choice(tokens.cpu().numpy(), logprobs.cpu().numpy(), cut)


def judge_prompts(chunks: Sequence[Chunk], logits: Tensor) -> Tensor:
    """Note the log-probabilities of the tokens of judged prompts; the logits [G, V] at the ends of complete ones are left."""
    if not any(chunk.group.prompt_logprobs for chunk in chunks):
        return logits
    ends, place = [], 0
    for chunk in chunks:
        group = chunk.group
        if group.prompt_logprobs:
            following = torch.from_numpy(group.prompt[chunk.start + 1 : chunk.stop + 1]).to(logits.device)
            found = own_logprobs(logits[place : place + len(following)].float(), following).tolist()
            group.prompt_values = [*(group.prompt_values or [None])[: chunk.start + 1], *found]
        place += chunk.stop - chunk.start if group.prompt_logprobs else int(chunk.complete)
        if chunk.complete:
            ends.append(place - 1)
    return logits[torch.tensor(ends, dtype=torch.int64, device=logits.device)]


class Details:
    """What is told of the tokens of samples that ask for it."""

    def __init__(self) -> None:
        self._samples: dict[tuple[int, int], _Details] = {}

    def note(self, written: Written, logits: Tensor) -> None:
        """Keep the likeliest tokens beside the written ones; `logits` [len(at), V] are the model's own."""
        judged = np.flatnonzero(written.rows.judged[written.at])
        if not len(judged):
            return
        logprobs = logits[torch.from_numpy(judged).to(logits.device)].float().log_softmax(-1)
        likely = logprobs.topk(min(MOST_ALTERNATIVES, logprobs.shape[-1]))
        for place, values, tokens in zip(judged.tolist(), likely.values.tolist(), likely.indices.tolist(), strict=True):
            row = written.at[place]
            group = written.rows.group[row]
            key = int(written.rows.request[row]), int(written.rows.index[row])
            sample = self._samples.setdefault(key, _Details(group.prompt_values if group.prompt_logprobs else None))
            sample.logprobs.append(float(written.logprobs[place]))
            sample.alternatives.append(tuple(zip(tokens, values, strict=True))[: group.alternatives])
            written.details[place] = sample.alternatives[-1], sample.prompt if len(sample.logprobs) == 1 else None

    def completions(self, written: Written) -> list[tuple[int, int, Completion]]:
        """(request id, sample index, completion) of the rows that ended with these tokens."""
        rows, ended = written.rows, written.at[written.finished]
        out = []
        for row, stopped in zip(ended.tolist(), written.stopped[written.finished].tolist(), strict=True):
            ids = rows.output[row, : rows.count[row]].tolist()
            stop_id = ids.pop() if stopped else None
            completion = Completion(ids, stop_id is not None, stop_id, float(rows.logprob[row]))
            key = int(rows.request[row]), int(rows.index[row])
            if sample := self._samples.pop(key, None):
                completion.prompt_logprobs = sample.prompt
                if rows.group[row].alternatives:
                    completion.token_logprobs, completion.alternatives = sample.logprobs, sample.alternatives
            out.append((*key, completion))
        return out

    def tokens(self, written: Written) -> list[Token]:
        """The same as a stream."""
        rows, at = written.rows, written.at
        columns = (rows.request[at], rows.index[at], written.tokens, written.finished, written.stopped, written.logprobs)
        tokens = [Token(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]
        for place, (alternatives, prompt) in written.details.items():
            tokens[place].alternatives, tokens[place].prompt_logprobs = alternatives, prompt
        for token in tokens if self._samples else ():
            if token.finished:
                self._samples.pop((token.request_id, token.index), None)
        return tokens

    def drop(self, request: int) -> None:
        """Forget the samples of a request."""
        for key in [key for key in self._samples if key[0] == request]:
            del self._samples[key]
