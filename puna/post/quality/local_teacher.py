"""A model artifact as a teacher: prompts to replies through the project's own engine."""

from __future__ import annotations

from dataclasses import dataclass

from puna.core.rng import derive_seed
from puna.core.stage import Artifact
from puna.infer.engine import Engine, Request
from puna.post import checkpoints
from puna.post.reject import prompt_ids
from puna.tokenizer.dialog import MessageRow


@dataclass(frozen=True)
class Reply:
    """What was written, and whether the model ended it itself."""

    text: str
    finished: bool


class LocalTeacher:
    """Answers with one model; a prompt longer than the model reads gets unfinished empty replies."""

    def __init__(self, artifact: Artifact):
        model, self.tokenizer = checkpoints.load(artifact)
        self.limit = model.config.max_seq_len
        self.engine = Engine(model, stop_ids=self.tokenizer.stop_ids)

    def answers(
        self, prompts: list[list[MessageRow]], *, samples: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Reply]]:
        """`samples` replies to each prompt, in order."""
        asked = [prompt_ids(self.tokenizer, prompt) for prompt in prompts]
        fits = [i for i, ids in enumerate(asked) if len(ids) < self.limit]
        requests = [
            Request(asked[i], n=samples, temperature=temperature, max_tokens=max_tokens, seed=derive_seed(seed, i)) for i in fits
        ]
        found = [[Reply("", False)] * samples for _ in prompts]
        for i, drawn in zip(fits, self.engine.generate(requests), strict=True):
            found[i] = [Reply(self.tokenizer.decode(one.ids), one.finished) for one in drawn]
        return found
