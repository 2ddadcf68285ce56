"""The one engine behind chat, server, rejection sampling, synthesis and evaluation: paged KV, continuous batching, own seeds.

Each `step` lets waiting requests in, computes one batch of prompt chunks, and gives every running sample one more token (several
where guesses hold), so new requests join while old ones are being answered. All samples of a request share its prompt pages
(paper section 4.2.2), and later requests that begin alike find them again. What a request says depends on the request alone: its
random numbers are a hash of its seed, and rows do not mix anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from puna.core.errors import InputError, RunError
from puna.infer.growth import Growth
from puna.infer.native import Kernels
from puna.infer.pages import BlockPool
from puna.infer.request import Completion, Request, Token
from puna.infer.rows import Rows, empty_rows, started
from puna.infer.sampler import sample_keys
from puna.infer.scheduler import Admission, Group, Scheduler, pages_needed
from puna.infer.shaping import Shaper
from puna.infer.sight import Eyes
from puna.infer.spans import Guesses, Spans, joined, spans_of_chunks, spans_of_rows
from puna.infer.speculate import DraftGuesser, PromptLookup, checked, guesser
from puna.infer.steps import open_steps
from puna.infer.written import Choice, Details, Written, chosen, judge_prompts
from puna.model.llama import Llama

__all__ = ["Completion", "Engine", "Request", "Token"]

CACHE_BYTES = 256 << 20  # default size of the KV cache; on CPU, pages that are never used cost nothing


class Engine:
    """Continuous batching over one model.

    Args:
        model: any dtype and device; no gradients are kept, and the model can go on training afterwards.
        stop_ids: tokens that end every answer.
        page_size: tokens per KV page.
        pages: size of the KV cache; None takes 256 MiB worth, or what one full-length sequence needs if that is more.
        max_running: most samples in the batch at once.
        prefill_tokens: most prompt positions computed per step, padding included.
        kernels: `native` for the compiled steps of `puna.infer.kernels`, `int8` for the same with products of 8-bit
            numbers (faster for many rows, and other numbers than the model's), `torch` for PyTorch's, `auto` for the native
            ones where the model is in bfloat16 on a CPU, Triton's on a GPU. The native ones keep a copy of the weights as
            they are now.
        prefix_cache: keep what was computed for later prompts that begin alike. `forget` when the weights change.
        admission: when a request enters: `reserve` when its maximum length fits, `optimistic` when its prompt does.
        draft: what guesses ahead, a smaller model of the same tokenizer or a look-up; `guesses` tokens at a time.
        eyes: adapters that let the model see what requests show.

    Attributes:
        preemptions: how often a sample had to make room for an older one.
        guessed, accepted: tokens that were guessed, and those of them that were written.
    """

    def __init__(
        self, model: Llama, *, stop_ids: Sequence[int], page_size: int = 16, pages: int | None = None,
        max_running: int = 256, prefill_tokens: int = 2048, kernels: Kernels = "auto", prefix_cache: bool = True,
        admission: Admission = "reserve", draft: Llama | PromptLookup | None = None, guesses: int = 4,
        eyes: Eyes | None = None,
    ):  # fmt: skip
        config = model.config
        weight = model.model.embed_tokens.weight
        if admission not in get_args(Admission):
            raise InputError(f"there is no admission '{admission}'", where="admission", fix=" or ".join(get_args(Admission)))
        if guesses < 1:
            raise InputError("at least one token must be guessed at a time", where=f"guesses={guesses}", fix="leave `draft` out")
        self.model, self.device, self.page_size = model, weight.device, page_size
        self.vocab_size, self.max_seq_len, self.max_running = config.vocab_size, config.max_seq_len, max_running
        if pages is None:
            page_bytes = page_size * config.kv_bytes_per_token(weight.element_size())
            pages = 1 + max(CACHE_BYTES // page_bytes, -(-config.max_seq_len // page_size))
        self.cache, self.steps = open_steps(model, pages=pages, page_size=page_size, kernels=kernels, eyes=eyes)
        self.eyes = eyes
        self.guesser = guesser(draft, model, pages=pages, page_size=page_size, kernels=kernels)
        self.guesses, self.guessed, self.accepted = guesses, 0, 0
        self.pool = BlockPool(pages)
        self.scheduler = Scheduler(
            self.pool, page_size=page_size, max_running=max_running, prefill_tokens=prefill_tokens,
            prefix_cache=prefix_cache, admission=admission,
        )  # fmt: skip
        self.growth = Growth(self.scheduler)
        self.running = empty_rows()
        self.details = Details()
        self._is_stop = np.zeros(config.vocab_size, dtype=bool)
        self._is_stop[[i for i in stop_ids if i < config.vocab_size]] = True
        self._next_id = 0

    @property
    def busy(self) -> bool:
        """Is anything waiting or running?"""
        return bool(len(self.running) or self.scheduler.waiting or self.scheduler.prefilling)

    @property
    def preemptions(self) -> int:
        return self.growth.preemptions

    def forget(self) -> None:
        """Drop what was kept for later prompts: needed when the weights have changed. RunError while anything runs."""
        if self.busy:
            raise RunError("the engine is answering requests with what it is to forget", fix="wait for them, or cancel them")
        self.pool.forget()
        if self.eyes is not None:
            self.eyes.forget()

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
                for request_id, index, completion in self.details.completions(written):
                    results[place[request_id]][index] = completion
                    done += 1
            if progress is not None:
                progress(done, total)
        return results  # type: ignore[return-value]

    def add(self, request: Request) -> int:
        """Queue a request and return its id; InputError when it could never run."""
        limit = self._check(request)
        prompt = np.asarray(request.prompt_ids, dtype=np.int64)
        shared, own = pages_needed(len(prompt), limit, self.page_size)
        most = min(self.max_running, (self.pool.pages - 1 - shared) // own if own else self.max_running)
        request_id, self._next_id = self._next_id, self._next_id + 1
        shaper = None if request.shaping.plain else Shaper(request.shaping, prompt, self._stops(request))
        for first in range(0, request.n, most):
            samples = min(most, request.n - first)
            keys = sample_keys(request.seed, first, samples)
            group = Group(
                request_id, first, samples, prompt, limit, keys, request.temperature, request.top_p, tuple(request.stop_ids),
                shaper, request.logprobs, request.prompt_logprobs, media=tuple(request.media),
                media_keys=self.eyes.keys(request.media) if self.eyes is not None else (),
            )  # fmt: skip
            self.scheduler.waiting.append(group)
        return request_id

    def step(self) -> list[Token]:
        """Advance everything by one step; the new tokens, at most one per sample unless guesses held."""
        return [token for written in self._advance() for token in self.details.tokens(written)]

    def cancel(self, request_id: int) -> None:
        """Drop every sample of a request, running or not; unknown and finished ids are ignored."""
        self.scheduler.cancel(request_id)
        self._drop(self.running.request == request_id)
        self.details.drop(request_id)

    def _check(self, request: Request) -> int:
        """Most tokens each sample may write; InputError for a request that could never run."""
        limit = request.check(self.vocab_size, self.max_seq_len)
        if request.media:
            if self.eyes is None:
                raise InputError("this model reads text alone", fix="leave pictures out, or take a model that sees")
            self.eyes.check(request.media)
        if request.shaping.grammar is not None and not len(self._stops(request)):
            raise InputError("an answer of a given form needs a stop token to end with", fix="give the engine stop_ids")
        needed = sum(pages_needed(len(request.prompt_ids), limit, self.page_size))
        if needed > self.pool.pages - 1:
            raise InputError(
                f"prompt and answer need {needed} KV pages and the cache has {self.pool.pages - 1}",
                fix="lower max_tokens or raise `pages`",
            )
        return limit

    def _stops(self, request: Request) -> np.ndarray:
        """int64: all tokens that end the request's answers."""
        own = [token for token in request.stop_ids if 0 <= token < self.vocab_size]
        return np.union1d(np.flatnonzero(self._is_stop), np.array(own, np.int64))

    def _advance(self) -> list[Written]:
        """One step: admit, compute, write. Rows that got their first token in this step decode from the next one on."""
        self.scheduler.admit(len(self.running))
        if self.scheduler.admission == "optimistic":
            self.running = self.growth.grow(self.running)
        chunks = self.scheduler.chunks()
        for chunk in chunks:
            if self.eyes is not None and chunk.group.media and not chunk.group.seen:
                chunk.group.seen = self.eyes.see(chunk.group.media)
        guesses = self._guess()
        calls = [spans_of_rows(self.running, self.page_size, guesses)] if len(self.running) else []
        if chunks:
            calls.append(spans_of_chunks(chunks, self.page_size))
            if self.guesser is not None:
                self.guesser.read(calls[-1])
        logits = self._logits(calls)
        written = self._continue(self.running, logits[0], guesses) if len(self.running) else []
        if chunks:
            ends = judge_prompts(chunks, logits[-1])
            if groups := self.scheduler.advance(chunks):
                written.append(self._start(groups, ends))
        return written

    def _guess(self) -> Guesses | None:
        """Tokens that may come next in the running rows, as many as they may still write and have pages for."""
        rows = self.running
        if self.guesser is None or not len(rows):
            return None
        most = np.minimum(self.guesses, rows.limit - rows.count - 1)
        if self.scheduler.admission == "optimistic":
            most = self.growth.room(rows, most)
        guesses = self.guesser.guess(rows, most) if most.any() else None
        return guesses if guesses is not None and guesses.sizes.any() else None

    def _logits(self, calls: list[Spans]) -> list[Tensor]:
        """Logits of each call, computed as one where that costs nothing."""
        if len(calls) < 2 or not self.steps.mixes:
            return [self.steps.logits(call) for call in calls]
        return list(self.steps.logits(joined(*calls)).split([len(call.wanted) for call in calls]))

    def _continue(self, rows: Rows, logits: Tensor, guesses: Guesses | None) -> list[Written]:
        """The next token of each running row, and those after it as far as guesses hold."""
        if guesses is None:
            rows.length += 1
            written = [self._record(rows, np.arange(len(rows)), chosen(rows, logits), logits)]
        else:
            written = checked(rows, logits, guesses, partial(self._record, rows))
            self.guessed += int(guesses.sizes.sum())
            self.accepted += sum(len(part.at) for part in written[1:])
        rows.drafted = np.minimum(rows.drafted, rows.length) if isinstance(self.guesser, DraftGuesser) else rows.length.copy()
        gone = np.zeros(len(rows), dtype=bool)
        for part in written:
            gone[part.at[part.finished]] = True
        self._drop(gone)
        return written

    def _start(self, groups: list[Group], logits: Tensor) -> Written:
        """The first token of each sample of groups whose prompt is complete, from the logits [G, V] at its end."""
        fresh = started(groups)
        self._fork(groups)
        samples = torch.tensor([group.samples for group in groups], device=self.device)
        logits = logits.repeat_interleave(samples, 0)
        written = self._record(fresh, np.arange(len(fresh)), chosen(fresh, logits), logits)
        if written.finished.any():
            self.growth.release(fresh.select(written.finished))
        self.running = self.running.extend(fresh.select(~written.finished))
        return written

    def _record(self, rows: Rows, at: np.ndarray, choice: Choice, logits: Tensor) -> Written:
        """Append a token to each of the rows `at`; `logits` [len(at), V] are what they were chosen from."""
        rows.append(choice.tokens, choice.logprobs, at)
        stopped = self._is_stop[choice.tokens]
        if rows.stops.shape[1]:
            stopped = stopped | (rows.stops[at] == choice.tokens[:, None]).any(1)
        finished = stopped | choice.cut | (rows.count[at] >= rows.limit[at])
        written = Written(rows, at, choice.tokens, choice.logprobs, stopped & ~choice.cut, finished)
        self.details.note(written, logits)
        return written

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
            pages = torch.tensor(source, device=self.device), torch.tensor(target, device=self.device)
            self.cache.copy_pages(*pages)
            if self.guesser is not None:
                self.guesser.copy_pages(*pages)

    def _drop(self, gone: np.ndarray) -> None:
        """Remove running rows and give their pages back."""
        if gone.any():
            self.growth.release(self.running.select(gone))
            self.running = self.running.select(~gone)
