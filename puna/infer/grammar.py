"""Answers of a given form: a regular expression or a JSON schema decides after each token which tokens may come next.

The tokens allowed are those that keep the text the beginning of a text of the language; a stop token may come exactly where the
text is one. The automata are llguidance's (Rust, MIT; a byte trie of the vocabulary against a lazily built automaton, with an
Earley parser above it for what nests). What it cannot enforce is refused when the request arrives; nothing is ever let through.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from puna.core.errors import InputError
from puna.infer.grammar_schema import read_schema

if TYPE_CHECKING:
    from puna.tokenizer.bpe import Tokenizer

Kind = Literal["regex", "json_schema"]
NOTHING = np.zeros(0, bool)
MOST_SOURCE = 65_536  # characters of a schema or a pattern; compiling takes time by them
REASON_CHARS = 200  # of llguidance's error in ours
KEPT_TOKENIZERS, KEPT_GRAMMARS = 4, 64  # compiled ones that are kept for requests to come
SPECIAL_PREFIX = b"\xff"  # how llguidance tells special tokens; no text in UTF-8 has this byte
SPACING = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}  # `, ` and `: `, the space optional
STRICT = {"lenient": False, "coerce_one_of": False}  # an unknown format is an error, and so is oneOf of what overlaps


class Grammar:
    """A language of answers over one tokenizer's tokens; build one with `regex_grammar` or `json_grammar`.

    Attributes:
        opening: tokens that every answer begins with, before its text (<|python_tag|> of a tool call).
        text_tokens: ids below this are text; the tokenizer is that of the model that will answer.
    """

    def __init__(self, tokenizer: Tokenizer, kind: Kind, source: str, opening: tuple[int, ...] = ()):
        if len(source) > MOST_SOURCE:
            raise InputError(
                f"a {kind} of {len(source):,} characters is too long", where=kind, fix=f"use at most {MOST_SOURCE:,}"
            )
        self.opening, self.text_tokens = opening, tokenizer.base_size
        self._start = _compiled(tokenizer, kind, source)
        first = self.follow()
        first.allowed(np.array(opening, np.int64))
        if first.stuck:
            raise InputError(f"no answer fits this {kind}", where=kind)

    def follow(self) -> Follower:
        """The state of one answer, at its beginning."""
        return Follower(self)

    def matcher(self) -> Any:
        """llguidance's matcher before the first token of text."""
        return self._start.deep_copy()


class Follower:
    """Where in the language one answer is.

    `stuck`: after the newest answer nothing may follow, not even its end: it is no beginning of a text of the language, or the
    automaton has outgrown its limits.
    """

    def __init__(self, grammar: Grammar):
        self.grammar, self.stuck = grammar, False
        self._matcher, self._text = grammar.matcher(), np.zeros(0, np.int64)

    def allowed(self, answer: np.ndarray) -> tuple[np.ndarray, bool]:
        """(bool [text_tokens] or fewer: which tokens may follow, all others may not; whether the answer may end here).

        Args:
            answer: int64 [L]. Only what is new since the last call is read; one that goes another way than the last is followed
                back to where they part, so drafts and answers that are played again are right too.
        """
        opening, self.stuck = self.grammar.opening, False
        if len(answer) < len(opening):
            return np.arange(max(opening) + 1) == opening[len(answer)], False
        if (not opening or tuple(answer[: len(opening)]) == opening) and self._advance(answer[len(opening) :]):
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            allowed = np.unpackbits(bits, count=self.grammar.text_tokens, bitorder="little").view(bool)
            ends = self._matcher.is_accepting()
            self.stuck = self._matcher.is_error() or not (ends or allowed.any())
            if not self.stuck:
                return allowed, ends
        self.stuck = True
        return NOTHING, False

    def _advance(self, text: np.ndarray) -> bool:
        """Bring the matcher to the end of `text`; False where the language or the matcher ends before."""
        same = len(self._text)
        if len(text) < same or not np.array_equal(text[:same], self._text):
            known = min(same, len(text))
            same = int(np.argmin(np.append(text[:known] == self._text[:known], False)))
            if not self._matcher.rollback(len(self._text) - same):
                self._matcher, same = self.grammar.matcher(), 0
        taken = self._matcher.try_consume_tokens(text[same:].tolist())
        self._text = text[: same + taken].copy()
        return same + taken == len(text)


def regex_grammar(tokenizer: Tokenizer, pattern: str) -> Grammar:
    """Answers that a regular expression matches as a whole, in the syntax of Rust's `regex`, over Unicode.

    InputError for a pattern that is wrong, has look-around, back-references or word boundaries, or matches nothing.
    """
    return Grammar(tokenizer, "regex", pattern)


def json_grammar(tokenizer: Tokenizer, schema: dict[str, Any] | bool | str, *, opening: tuple[int, ...] = ()) -> Grammar:
    """Answers that are JSON of a schema (see `grammar_schema`): properties in its order, after , and : one space at most.

    InputError for a schema that is wrong, asks for what is not supported, or allows nothing.
    """
    try:
        text = json.dumps(read_schema(schema), allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the schema cannot be written as JSON ({error})", where="json_schema") from None
    return Grammar(tokenizer, "json_schema", text, opening)


@lru_cache(KEPT_GRAMMARS)
def _compiled(tokenizer: Tokenizer, kind: Kind, source: str) -> Any:
    """The matcher of a grammar at its beginning, made once for all requests with it."""
    llguidance = _llguidance()
    try:
        if kind == "regex":
            text = llguidance.LLMatcher.grammar_from_regex(source)
        else:
            text = llguidance.LLMatcher.grammar_from_json_schema(source, overrides=STRICT | SPACING)
    except ValueError as error:
        raise _refusal(kind, str(error)) from None
    limits = llguidance.LLParserLimits(verbose_errors=False)
    matcher = llguidance.LLMatcher(_vocabulary(tokenizer), text, log_level=0, limits=limits)
    if matcher.is_error():
        raise _refusal(kind, matcher.get_error())
    return matcher


@lru_cache(KEPT_TOKENIZERS)
def _vocabulary(tokenizer: Tokenizer) -> Any:
    """llguidance's tokenizer: a trie of the tokens' bytes."""
    llguidance = _llguidance()

    class Tokens:  # what its `TokenizerWrapper` asks for
        eos_token_id, bos_token_id = tokenizer.eos_id, tokenizer.bos_id
        special_token_ids = list(range(tokenizer.base_size, tokenizer.vocab_size))
        tokens = [*tokenizer.ranks, *(SPECIAL_PREFIX + tokenizer.token_bytes(i) for i in special_token_ids)]

        def __call__(self, text: str) -> list[int]:
            return tokenizer.encode(text)

    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(Tokens()))


def _refusal(kind: Kind, message: str) -> InputError:
    """The line of llguidance's report that says what is wrong."""
    if message.startswith("oneOf"):
        fix = "give each case a type, or a `const` property, of its own, or use anyOf"
        return InputError("the cases of a oneOf may overlap, which is not supported", where=kind, fix=fix)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    reason = (told or lines or ["it is too large"])[0].split("(in regex): ")[-1]
    return InputError(f"this {kind} cannot be enforced: {reason[:REASON_CHARS]}", where=kind)


def _llguidance() -> Any:
    try:
        import llguidance
    except ModuleNotFoundError as error:
        raise InputError("answers of a given form need the package llguidance", fix="pip install llguidance") from error
    return llguidance
