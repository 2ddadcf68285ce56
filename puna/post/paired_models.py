"""Answers to compare as two models write them: two different ones for each pair, as the paper's annotators saw them (4.2.1).

What is drawn depends on the seed and the comparison alone, so every annotator sees the same two answers, also after a restart.
An answer that its model did not end itself is drawn again: to rank half an answer would teach to stop half-way.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from puna.core.errors import InputError
from puna.core.rng import derive_seed, python_stream
from puna.infer.engine import Engine, Request
from puna.post.comparisons import Comparison
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import parse, render, with_tools
from puna.tokenizer.dialog import Candidate, MessageRow

TRIES = 4  # draws until both answers have ended and differ


@dataclass(frozen=True)
class Drawing:
    """How answers are drawn."""

    temperature: float = 0.8
    top_p: float = 1.0
    max_tokens: int = 256


class PairedModels:
    """Draws pairs in one thread of its own, ahead of being asked; the thread does not keep the program from ending.

    Args:
        models: engine and tokenizer of at least two models, by name.
    """

    def __init__(self, models: Mapping[str, tuple[Engine, Tokenizer]], how: Drawing, seed: int):
        self.models, self.how, self.seed = models, how, seed
        self._drawn: dict[str, Future[Comparison | None]] = {}
        self._waiting: SimpleQueue[tuple[Future[Comparison | None], Comparison] | None] = SimpleQueue()
        Thread(target=self._work, name="answers", daemon=True).start()

    def start(self, comparison: Comparison) -> Future[Comparison | None]:
        """Begin to draw; the result is the comparison with its candidates, None where the models did not give two answers.

        What has failed is drawn again.
        """
        found = self._drawn.get(comparison.id)
        if found is None or (found.done() and (found.cancelled() or found.exception() is not None)):
            found = self._drawn[comparison.id] = Future()
            self._waiting.put((found, comparison))
        return found

    def fits(self, comparison: Comparison) -> bool:
        """Whether every model can read the context and still answer."""
        return all(len(_prompt(tokenizer, comparison)) < engine.max_seq_len for engine, tokenizer in self.models.values())

    def close(self) -> None:
        """Draw no more; the answers being written are left."""
        for found in self._drawn.values():
            found.cancel()
        self._waiting.put(None)

    def _work(self) -> None:
        while (asked := self._waiting.get()) is not None:
            found, comparison = asked
            if found.set_running_or_notify_cancel():
                try:
                    found.set_result(self._draw(comparison))
                except Exception as error:
                    found.set_exception(error)

    def _draw(self, comparison: Comparison) -> Comparison | None:
        names = python_stream(self.seed, "models", comparison.id).sample(sorted(self.models), 2)
        answers = [self._answers(name, comparison) for name in names]
        pairs = [pair for pair in zip(*answers, strict=False) if pair[0].messages != pair[1].messages]
        return replace(comparison, candidates=pairs[0]) if pairs else None

    def _answers(self, name: str, comparison: Comparison) -> list[Candidate]:
        """What the model ended itself, of a few draws."""
        engine, tokenizer = self.models[name]
        how, seed = self.how, derive_seed(self.seed, "answer", name, comparison.id)
        request = Request(_prompt(tokenizer, comparison), n=TRIES, temperature=how.temperature, top_p=how.top_p,
                          max_tokens=how.max_tokens, seed=seed)  # fmt: skip
        found = engine.generate([request])[0]
        messages = [parse(tokenizer, completion.drawn) for completion in found if completion.finished]
        return [Candidate(messages=[MessageRow.model_validate(message)], origin=name) for message in messages]


def _prompt(tokenizer: Tokenizer, comparison: Comparison) -> list[int]:
    offered = with_tools([row.message() for row in comparison.context], comparison.tools)
    return render(tokenizer, offered, generation_prompt=True).ids


def open_models(directories: Mapping[str, Path], how: Drawing, seed: int) -> PairedModels:
    """The models of these directories; InputError unless they are at least two different ones."""
    from puna.infer.load import load_engine

    if len({path.resolve() for path in directories.values()}) < 2:
        raise InputError("a pair is written by two different models", where="--models", fix="--models A,B")
    return PairedModels({name: load_engine(path) for name, path in directories.items()}, how, seed)
