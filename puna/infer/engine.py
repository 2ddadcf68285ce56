"""The one engine behind chat, server, rejection sampling, synthesis and evaluation: paged KV, continuous batching, own seeds.

Each `step` lets waiting requests in, computes one batch of prompt chunks, and gives every running sample one more token, so new
requests join while old ones are being answered. All samples of a request share its prompt pages (paper section 4.2.2). What a
request says depends on the request alone: its random numbers are a hash of its seed, and rows do not mix anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from puna.core.errors import InputError, RunError
from puna.infer.native import Kernels
from puna.infer.pages import BlockPool
from puna.infer.rows import Rows, empty_rows, started
from puna.infer.sampler import choose, own_logprobs, sample_keys, uniforms
from puna.infer.scheduler import Chunk, Group, Scheduler, pages_needed
from puna.infer.shaping import NO_SHAPING, Shaper, Shaping, shaped
from puna.infer.spans import spans_of_chunks, spans_of_rows
from puna.infer.steps import open_steps
from puna.model.llama import Llama

CACHE_BYTES = 256 << 20  # default size of the KV cache; on CPU, pages that are never used cost nothing


@dataclass
class Request:
    """What to continue and how.

    `n` samples with seeds of their own; `temperature` 0 is greedy; `stop_ids` come on top of the engine's; `shaping` has rarer
    wishes. An answer is cut where prompt and answer together reach the model's `max_seq_len`.
    """

    prompt_ids: Sequence[int]
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 64
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    shaping: Shaping = NO_SHAPING


@dataclass
class Completion:
    """One sample. `ids` leaves the stop token out; `finished` tells that there was one, `stop_id` which.

    `logprob` sums the log-probabilities of all tokens, the stop token included, before temperature and top-p.
    """

    ids: list[int]
    finished: bool
    stop_id: int | None
    logprob: float


@dataclass
class Token:
    """One new token of one sample. `finished`: the sample's last; `stopped`: it is a stop token, so no text."""

    request_id: int
    index: int
    token_id: int
    finished: bool
    stopped: bool
    logprob: float


@dataclass
class _Written:
    """What one step wrote: a row each, as columns."""

    rows: Rows
    tokens: np.ndarray
    logprobs: np.ndarray
    stopped: np.ndarray
    finished: np.ndarray


class Engine:
    """Continuous batching over one model.

    Args:
        model: any dtype and device; no gradients are kept, and the model can go on training afterwards.
        stop_ids: tokens that end every answer.
        page_size: tokens per KV page.
        pages: size of the KV cache; None takes 256 MiB worth, or what one full-length sequence needs if that is more.
        max_running: most samples in the batch at once.
        prefill_tokens: most prompt positions computed per step, padding included.
        kernels: `native` for the compiled steps of `puna.infer.kernels`, `torch` for PyTorch's, `auto` for the native ones where
            the model is in bfloat16 on a CPU, Triton's on a GPU. The native ones keep a copy of the weights as they are now.
    """

    def __init__(
        self, model: Llama, *, stop_ids: Sequence[int], page_size: int = 16, pages: int | None = None,
        max_running: int = 256, prefill_tokens: int = 2048, kernels: Kernels = "auto",
    ):  # fmt: skip
        config = model.config
        weight = model.model.embed_tokens.weight
        self.model, self.device, self.page_size = model, weight.device, page_size
        self.vocab_size, self.max_seq_len, self.max_running = config.vocab_size, config.max_seq_len, max_running
        if pages is None:
            page_bytes = page_size * config.kv_bytes_per_token(weight.element_size())
            pages = 1 + max(CACHE_BYTES // page_bytes, -(-config.max_seq_len // page_size))
        self.cache, self.steps = open_steps(model, pages=pages, page_size=page_size, kernels=kernels)
        self.pool = BlockPool(pages)
        self.scheduler = Scheduler(self.pool, page_size=page_size, max_running=max_running, prefill_tokens=prefill_tokens)
        self.running = empty_rows()
        self._is_stop = np.zeros(config.vocab_size, dtype=bool)
        self._is_stop[[i for i in stop_ids if i < config.vocab_size]] = True
        self._next_id = 0

    @property
    def busy(self) -> bool:
        """Is anything waiting or running?"""
        return bool(len(self.running) or self.scheduler.waiting or self.scheduler.prefilling)

    def generate(self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None) -> list[list[Completion]]:
        """All samples of all requests, one list of `n` per request, in order.

        `progress(samples done, samples in all)` is called after every step. Needs an idle engine; bad requests raise
        InputError before anything runs.
        """
        if self.busy:
            raise RunError("the engine is answering other requests", fix="use add and step to share it, or a second engine")
        for request in requests:
            self._check(request)
        results: list[list[Completion | None]] = [[None] * request.n for request in requests]
        by_length = sorted(
            range(len(requests)), key=lambda i: -len(requests[i].prompt_ids)
        )  # neighbours of like length pad least
        place = {self.add(requests[i]): i for i in by_length}
        done, total = 0, sum(request.n for request in requests)
        while self.busy:
            for written in self._advance():
                for request_id, index, completion in _completions(written):
                    results[place[request_id]][index] = completion
                    done += 1
            if progress is not None:
                progress(done, total)
        return results  # type: ignore[return-value]

    def add(self, request: Request) -> int:
        """Queue a request and return its id; InputError when it could never run."""
        limit = self._check(request)
        prompt = np.asarray(request.prompt_ids, dtype=np.int64)
        shared, own = pages_needed(len(prompt), limit, 1, self.page_size)
        most = min(self.max_running, (self.pool.pages - 1 - shared) // own if own else self.max_running)
        request_id, self._next_id = self._next_id, self._next_id + 1
        shaper = None if request.shaping.plain else Shaper(request.shaping, prompt)
        for first in range(0, request.n, most):
            samples = min(most, request.n - first)
            keys = sample_keys(request.seed, first, samples)
            stops = tuple(request.stop_ids)
            group = Group(request_id, first, samples, prompt, limit, keys, request.temperature, request.top_p, stops, shaper)
            self.scheduler.waiting.append(group)
        return request_id

    def step(self) -> list[Token]:
        """Advance everything by one step; the new tokens, at most one per sample."""
        tokens: list[Token] = []
        for written in self._advance():
            rows = written.rows
            columns = (rows.request, rows.index, written.tokens, written.finished, written.stopped, written.logprobs)
            tokens += [Token(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]
        return tokens

    def cancel(self, request_id: int) -> None:
        """Drop every sample of a request, running or not; unknown and finished ids are ignored."""
        self.scheduler.cancel(request_id)
        self._drop(self.running.request == request_id)

    def _check(self, request: Request) -> int:
        """Most tokens each sample may write; InputError for a request that could never run."""
        prompt = np.asarray(request.prompt_ids, dtype=np.int64)
        if not len(prompt):
            raise InputError("a request needs at least one prompt token", fix="start it with the tokenizer's bos_id")
        if prompt.min() < 0 or prompt.max() >= self.vocab_size:
            raise InputError(
                f"a prompt token is outside the vocabulary of {self.vocab_size}",
                where=f"ids up to {prompt.max()}",
                fix="encode it with the model's own tokenizer",
            )
        if request.n < 1 or request.max_tokens < 1 or request.temperature < 0 or not 0 < request.top_p <= 1:
            raise InputError(
                "a request needs n >= 1, max_tokens >= 1, temperature >= 0 and 0 < top_p <= 1",
                where=f"n={request.n} max_tokens={request.max_tokens} temperature={request.temperature} top_p={request.top_p}",
            )
        request.shaping.check(self.vocab_size)
        limit = min(request.max_tokens, self.max_seq_len - len(prompt))
        if limit < 1:
            raise InputError(
                f"the prompt has {len(prompt)} tokens and the model reads {self.max_seq_len}, answer included",
                fix="shorten the prompt",
            )
        shared, own = pages_needed(len(prompt), limit, 1, self.page_size)
        if shared + own > self.pool.pages - 1:
            raise InputError(
                f"prompt and answer need {shared + own} KV pages and the cache has {self.pool.pages - 1}",
                fix="lower max_tokens or raise `pages`",
            )
        return limit

    def _advance(self) -> list[_Written]:
        """One step: admit, prefill, decode. Rows that got their first token in this step decode from the next one on."""
        self.scheduler.admit(len(self.running))
        written = []
        fresh = None
        chunks = self.scheduler.chunks()
        if chunks:
            logits, groups = self._prefill(chunks)
            if groups:
                fresh = started(groups)
                self._fork(groups)
                samples = self._tensor(np.array([group.samples for group in groups]))
                written.append(self._write(fresh, logits.repeat_interleave(samples, 0)))
        if len(self.running):
            written.append(self._write(self.running, self._decode(self.running)))
            self._drop(written[-1].finished)
        if fresh is not None:
            self.running = self.running.extend(fresh)
            self._drop(np.concatenate((np.zeros(len(self.running) - len(fresh), bool), written[0].finished)))
        return written

    def _prefill(self, chunks: list[Chunk]) -> tuple[Tensor, list[Group]]:
        """Compute prompt chunks; logits [G, V] at the end of the G prompts that are now complete, and those groups."""
        return self.steps.logits(spans_of_chunks(chunks, self.page_size)), self.scheduler.advance(chunks)

    def _decode(self, rows: Rows) -> Tensor:
        """Logits [R, V] after the newest token of each row, which goes into the cache."""
        logits_RV = self.steps.logits(spans_of_rows(rows, self.page_size))
        rows.length += 1
        return logits_RV

    def _write(self, rows: Rows, logits: Tensor) -> _Written:
        """Choose a token for each row and record it."""
        wanted = shaped(logits, rows.shaper, rows.output, rows.count, rows.temperature)
        chosen, logprobs = choose(wanted, rows.temperature, rows.top_p, uniforms(rows.key, rows.count))
        if wanted is not logits:
            logprobs = own_logprobs(logits.float(), chosen)
        tokens, logprobs_ = chosen.cpu().numpy(), logprobs.cpu().numpy()
        rows.append(tokens, logprobs_)
        stopped = self._is_stop[tokens]
        if rows.stops.shape[1]:
            stopped = stopped | (rows.stops == tokens[:, None]).any(1)
        return _Written(rows, tokens, logprobs_, stopped, stopped | (rows.count >= rows.limit))

    def _fork(self, groups: list[Group]) -> None:
        """Give each further sample its own copy of the partly filled last prompt page, which all of them write to next."""
        source: list[int] = []
        target: list[int] = []
        for group in groups:
            page = len(group.prompt) // self.page_size
            if group.samples > 1 and len(group.prompt) % self.page_size:
                target += group.tables[1:, page].tolist()
                source += [int(group.tables[0, page])] * (group.samples - 1)
        if source:
            self.cache.copy_pages(torch.tensor(source, device=self.device), torch.tensor(target, device=self.device))

    def _drop(self, gone: np.ndarray) -> None:
        """Remove running rows and give their pages back."""
        if gone.any():
            self.pool.release(self.running.select(gone).own_pages())
            self.running = self.running.select(~gone)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def _completions(written: _Written) -> list[tuple[int, int, Completion]]:
    """(request id, sample index, completion) of the rows that ended in this step."""
    ended = written.rows.select(written.finished)
    stopped = written.stopped[written.finished].tolist()
    out = []
    for row in range(len(ended)):
        ids = ended.output[row, : ended.count[row]].tolist()
        stop_id = ids.pop() if stopped[row] else None
        completion = Completion(ids, stop_id is not None, stop_id, float(ended.logprob[row]))
        out.append((int(ended.request[row]), int(ended.index[row]), completion))
    return out
