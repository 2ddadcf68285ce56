"""Speculative decoding: a cheap guess of the next tokens, checked by the model in one call (Leviathan et al. 2023).

Each position's token is chosen exactly as without guesses: the model's logits there, the request's wishes, and the one random
number that belongs to the position. A guess is kept when it is that token. What is written is therefore the same with and
without guesses, token for token, and a guesser can only be slow, never wrong. A draft model draws with the same random numbers,
so where the two distributions agree the two tokens do.

Keys and values of rejected guesses are overwritten later: a row's length decides what is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from puna.core.errors import InputError
from puna.infer.cache import PagedCache
from puna.infer.native import Kernels, native_steps
from puna.infer.rows import Rows
from puna.infer.spans import Guesses, Spans, Steps
from puna.infer.torch_steps import TorchSteps
from puna.infer.written import Choice, Written, chosen
from puna.model.llama import Llama


@dataclass(frozen=True)
class PromptLookup:
    """Guesses what followed the last time the newest `longest` (or fewer, down to `shortest`) tokens stood in prompt or answer.

    Needs no model, and pays where answers repeat their prompts (Saxena 2023, prompt lookup decoding).
    """

    longest: int = 3
    shortest: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise InputError("a look-up needs 1 <= shortest <= longest", where=f"shortest={self.shortest} longest={self.longest}")


class Guesser(Protocol):
    """Where guesses come from."""

    def read(self, spans: Spans) -> None:
        """Prompt chunks, as the model reads them."""
        ...

    def copy_pages(self, source: Tensor, target: Tensor) -> None:
        """Pages are copied in the model's cache."""
        ...

    def guess(self, rows: Rows, most: np.ndarray) -> Guesses:
        """Up to `most` (int64 [R]) tokens after the newest of each row."""
        ...


class LookupGuesser:
    """`PromptLookup` over the rows of an engine."""

    def __init__(self, settings: PromptLookup):
        self.settings = settings

    def read(self, spans: Spans) -> None:
        """Nothing to do: rows know their prompts."""

    def copy_pages(self, source: Tensor, target: Tensor) -> None:
        """Nothing to do: there are no pages."""

    def guess(self, rows: Rows, most: np.ndarray) -> Guesses:
        """What followed in each row's own text."""
        guesses = Guesses(np.zeros((len(rows), int(most.max())), np.int64), np.zeros(len(rows), np.int64))
        for row in np.flatnonzero(most).tolist():
            found = self._following(rows.tokens(row))[: most[row]]
            guesses.tokens[row, : len(found)] = found
            guesses.sizes[row] = len(found)
        return guesses

    def _following(self, tokens: np.ndarray) -> np.ndarray:
        for size in range(min(self.settings.longest, len(tokens) - 1), self.settings.shortest - 1, -1):
            ends = np.flatnonzero(tokens[size - 1 : -1] == tokens[-1]) + size - 1
            for back in range(1, size):
                ends = ends[tokens[ends - back] == tokens[-1 - back]]
            if len(ends):
                return tokens[ends[-1] + 1 :]
        return tokens[:0]


class DraftGuesser:
    """A smaller model of the same vocabulary, with a cache of its own under the same page numbers.

    Raises InputError for a model with another vocabulary or on another device.
    """

    def __init__(self, model: Llama, target: Llama, *, pages: int, page_size: int, kernels: Kernels):
        config, weight = model.config, model.model.embed_tokens.weight
        if config.vocab_size != target.config.vocab_size:
            raise InputError(
                f"the draft model has {config.vocab_size} tokens and the model {target.config.vocab_size}",
                where="draft", fix="give a model with the same tokenizer",
            )  # fmt: skip
        if weight.device != target.model.embed_tokens.weight.device:
            raise InputError(f"the draft model is on {weight.device}", where="draft", fix="move it to the model's device")
        self.cache = PagedCache(
            layers=config.layers, pages=pages, page_size=page_size, kv_heads=config.kv_heads, head_dim=config.head_size,
            dtype=weight.dtype, device=weight.device,
        )  # fmt: skip
        self.steps: Steps = native_steps(model, self.cache, kernels) or TorchSteps(model, self.cache)

    def read(self, spans: Spans) -> None:
        """Read the prompts without asking for logits."""
        self.steps.logits(Spans(spans.tokens, spans.starts, spans.sizes, spans.table, spans.wanted[:0]))

    def copy_pages(self, source: Tensor, target: Tensor) -> None:
        """Copy them here too."""
        self.cache.copy_pages(source, target)

    def guess(self, rows: Rows, most: np.ndarray) -> Guesses:
        """Decode with the draft model, first reading what it has not seen of each row."""
        guesses = Guesses(np.zeros((len(rows), int(most.max())), np.int64), most)
        for step in range(int(most.max())):
            at = np.flatnonzero(most > step)
            if step:
                spans = self._spans(rows, at, guesses.tokens[at, step - 1], rows.length[at] + step, np.ones(len(at), np.int64))
            else:
                sizes = rows.length[at] + 1 - rows.drafted[at]
                spans = self._spans(rows, at, _newest(rows, at, sizes), rows.drafted[at], sizes)
            logits = self.steps.logits(spans)
            guesses.tokens[at, step] = chosen(ahead(rows, at, np.full(len(at), step), guesses), logits).tokens
        rows.drafted = np.where(most > 0, rows.length + most, rows.drafted)
        return guesses

    def _spans(self, rows: Rows, at: np.ndarray, tokens: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> Spans:
        pages = int((starts + sizes).max() - 1) // self.cache.page_size + 1
        return Spans(tokens, starts, sizes, rows.table[at, :pages], sizes.cumsum() - 1)


def guesser(
    draft: Llama | PromptLookup | None, target: Llama, *, pages: int, page_size: int, kernels: Kernels
) -> LookupGuesser | DraftGuesser | None:
    """The guesser an engine was asked for."""
    if draft is None:
        return None
    if isinstance(draft, PromptLookup):
        return LookupGuesser(draft)
    return DraftGuesser(draft, target, pages=pages, page_size=page_size, kernels=kernels)


def checked(
    rows: Rows, logits: Tensor, guesses: Guesses, record: Callable[[np.ndarray, Choice, Tensor], Written]
) -> list[Written]:
    """Write the model's own tokens as far as the guesses hold, and the one after.

    Args:
        logits: [sum(sizes + 1), V], after the newest token of each row and after each guess.
        record: writes (rows `at`, what was chosen for them, logits).
    """
    sizes = guesses.sizes + 1
    first = sizes.cumsum() - sizes
    row = np.repeat(np.arange(len(rows)), sizes)
    choice = chosen(ahead(rows, row, np.arange(len(row)) - first[row], guesses), logits)
    written = []
    at = np.arange(len(rows))
    for step in range(int(sizes.max())):
        place = first[at] + step
        part = record(at, choice.at(place), logits[torch.from_numpy(place).to(logits.device)])
        rows.length[at] += 1
        written.append(part)
        on = ~part.finished & (guesses.sizes[at] > step)
        at, place = at[on], place[on]
        at = at[choice.tokens[place] == guesses.tokens[at, step]] if len(at) else at
        if not len(at):
            break
    return written


def ahead(rows: Rows, at: np.ndarray, offset: np.ndarray, guesses: Guesses) -> Rows:
    """Copies of rows `at` as if the first `offset` guesses of each were written."""
    rows.widen(guesses.tokens.shape[1])
    copies = rows.select(at)
    for step in range(int(offset.max(initial=0))):
        on = np.flatnonzero(offset > step)
        copies.output[on, copies.count[on] + step] = guesses.tokens[at[on], step]
    copies.count += offset
    return copies


def _newest(rows: Rows, at: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The last `sizes` tokens of rows `at`, run after run."""
    row = np.repeat(at, sizes)
    back = np.repeat(sizes.cumsum(), sizes) - np.arange(len(row))
    return rows.output[row, rows.count[row] - back]
