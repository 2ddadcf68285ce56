"""Log-probabilities in OpenAI's two JSON forms.

A token is shown as text and, where the form allows, as bytes, since it may hold only part of a character. The terminator of an
answer is not shown, as it is not in the text.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from puna.infer.request import Token
from puna.tokenizer.bpe import Tokenizer


def chat_logprobs(tokenizer: Tokenizer, tokens: Sequence[Token]) -> dict[str, Any]:
    """The `logprobs` of a chat choice: each token with its bytes and the likeliest in its place."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        return {"token": tokenizer.decode([token_id]), "logprob": logprob, "bytes": list(tokenizer.decode_bytes([token_id]))}

    content = [
        {**entry(token.token_id, token.logprob), "top_logprobs": [entry(*other) for other in token.alternatives]}
        for token in tokens
        if not token.stopped
    ]
    return {"content": content, "refusal": None}


class TextLogprobs:
    """The `logprobs` of a completion choice, token by token; offsets count characters of the text from its start.

    Two alternatives that look alike as text (parts of characters) are one entry, with the greater log-probability.
    """

    def __init__(self, tokenizer: Tokenizer, alternatives: int):
        self.tokenizer, self.alternatives = tokenizer, alternatives
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._length = 0

    def prompt(self, ids: Sequence[int], logprobs: Sequence[float | None]) -> dict[str, Any]:
        """Of a prompt that is part of the text; for its tokens no alternatives are known."""
        body = self._empty()
        for token_id, logprob in zip(ids, logprobs, strict=True):
            self._add(body, token_id, logprob, None)
        return body

    def answer(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """Of further tokens of an answer."""
        body = self._empty()
        for token in tokens:
            if not token.stopped:
                likely: dict[str, float] = {}
                for other, logprob in token.alternatives:
                    likely.setdefault(self.tokenizer.decode([other]), logprob)
                self._add(body, token.token_id, token.logprob, likely)
        return body

    def _empty(self) -> dict[str, Any]:
        return {"tokens": [], "token_logprobs": [], "top_logprobs": [] if self.alternatives else None, "text_offset": []}

    def _add(self, body: dict[str, Any], token_id: int, logprob: float | None, likely: dict[str, float] | None) -> None:
        body["tokens"].append(self.tokenizer.decode([token_id]))
        body["token_logprobs"].append(logprob)
        body["text_offset"].append(self._length)
        if self.alternatives:
            body["top_logprobs"].append(likely)
        if not self.tokenizer.is_special(token_id):
            self._length += len(self._decoder.decode(self.tokenizer.token_bytes(token_id)))


def followed(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two such bodies as one."""
    return {name: None if values is None else values + second[name] for name, values in first.items()}
