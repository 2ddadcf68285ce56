"""The frozen-text contract (sections 7, 8: a language model stays as good because its weights stay): proved, not assumed.

Each stage that trains adapters takes the text model's fingerprint before it begins: the digest of its weights and, for some
prompts of text alone, of its logits. Afterwards both must be the same to the bit, asked through the model with its adapters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from puna.core.errors import RunError
from puna.core.stage import StageContext
from puna.model.llama import Llama
from puna.post.checkpoints import weights_digest
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import render
from puna.tokenizer.dialog import Dialog, MessageRow, Task, read_rows, without_media

PROMPTS = 16  # prompts whose logits are compared
WITH_MEDIA = ("pictures", "sounds")  # kinds of artifact whose rows have media


@dataclass(frozen=True)
class FrozenText:
    """What a text model is known by: `digest` of its weights, `logits` (a digest) of its answers to `prompts`."""

    digest: str
    logits: str
    prompts: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, text: Llama, prompts: Iterable[Sequence[int]]) -> FrozenText:
        """Of a text model that no adapter surrounds yet."""
        asked = tuple(tuple(prompt) for prompt in prompts)
        return cls(weights_digest(text), logits_digest(text, asked), asked)

    def check(self, text: Llama, adapted: Any, ctx: StageContext) -> dict[str, Any]:
        """The proof for the summary.

        Args:
            text: the text model inside. adapted: the model around it, asked for logits without media.

        Raises RunError where a weight or a logit has changed.
        """
        digest, logits = weights_digest(text), logits_digest(adapted, self.prompts)
        if (digest, logits) != (self.digest, self.logits):
            changed = "a weight" if digest != self.digest else "a logit"
            raise RunError(f"{changed} of the frozen text model has changed", where=ctx.name,
                           fix="this is a mistake of the program: no model was written")  # fmt: skip
        return {"digest": digest, "logits": logits, "prompts": len(self.prompts)}


@torch.no_grad()
def logits_digest(model: Any, prompts: Iterable[Sequence[int]]) -> str:
    """32 hex digits of the logits at every position of every prompt, each asked alone."""
    training, digest = model.training, hashlib.blake2b(digest_size=16)
    model.eval()
    device = next(model.parameters()).device
    for prompt in prompts:
        logits_BTV = model(torch.tensor([prompt], device=device))
        digest.update(logits_BTV.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    model.train(training)
    return digest.hexdigest()


def text_prompts(tokenizer: Tokenizer, ctx: StageContext, limit: int) -> list[list[int]]:
    """Prompts without media, of at most `limit` tokens: the first tasks if there are any, else the texts of rows with media."""
    found: Iterable[list[MessageRow]]
    tasks = ctx.inputs.all("tasks")
    if tasks:
        found = (task.prompt for task in read_rows(tasks[0].path / "dev.jsonl", Task))
    else:
        found = (
            row.messages
            for kind in WITH_MEDIA
            for artifact in ctx.inputs.all(kind)
            for row in read_rows(artifact.path / "train.jsonl", Dialog)
        )
    return [render(tokenizer, without_media(messages)).ids[:limit] for messages in islice(found, PROMPTS)]
