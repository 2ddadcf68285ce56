"""Whether a synthetic dialog is right, from the mini-world's truth and not from any checker.

Rows that came of the oracle (`puna.world.oracle`) are about programs, word problems and places whose truth is known, and its
right answers are known texts. So a row is right when it says just that: a bug that happens to do no harm counts as wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from puna.tokenizer.chat import MessageLike
from puna.world import oracle_facts, oracle_maths, truth_talk
from puna.world.lexicon import LANGUAGES, PLACES
from puna.world.oracle_code import named
from puna.world.programs import described

TARGETS = ("javascript", "java", "c")
_BLOCK = re.compile(r"```\w*\n(.*?)```", re.DOTALL)


def code_feedback(messages: Sequence[MessageLike]) -> bool:
    """The last code is the program that the problem describes."""
    about, blocks = described(messages[0].content), _BLOCK.findall(messages[-1].content)
    return about is not None and bool(blocks) and blocks[0].strip() == about.python().strip()


def code_translate(messages: Sequence[MessageLike]) -> bool:
    """The translation is that of the program, in some language."""
    blocks = _BLOCK.findall(messages[-1].content)
    about = named(messages[0].content)
    return bool(blocks) and blocks[0].strip() in {about.whole(language).strip() for language in TARGETS}


def code_backtranslate(messages: Sequence[MessageLike]) -> bool:
    """Words and code are of one program, whichever asks for which."""
    text = "\n".join(message.content for message in messages)
    about, blocks = described(text), _BLOCK.findall(text)
    return about is not None and len(blocks) == 1 and blocks[0].strip() == about.python().strip()


def maths(messages: Sequence[MessageLike]) -> bool:
    """The last answer takes the known steps to the known answer; a check of a solution finds what is so."""
    problem = oracle_maths.understood(messages[0].content)
    if problem is None:
        return False
    said = messages[-1].content
    if "Verdict:" in said:
        return said.endswith("right") is oracle_maths.holds(problem, messages[0].content)
    return oracle_maths.holds(problem, said)


def maths_code(messages: Sequence[MessageLike]) -> bool:
    """The last program is the known one, and the answer the known answer."""
    problem = oracle_maths.understood(messages[0].content)
    calls = [json.loads(message.tool_calls) for message in messages if message.tool_calls is not None]
    if problem is None or not calls:
        return False
    right = oracle_maths.program(problem)
    return calls[-1]["parameters"]["code"] == right and messages[-1].content.endswith(f": {problem.answer()}")


def instructions(messages: Sequence[MessageLike]) -> bool:
    """A plain question about a place, and what is known of it."""
    place = oracle_facts.place_in(messages[0].content) or PLACES[0]
    right = [[oracle_facts.question(place, lang), oracle_facts.fact(place, lang)] for lang in LANGUAGES]
    return [message.content for message in messages] in right


TRUTH: dict[str, Callable[[Sequence[MessageLike]], bool]] = {
    "code_feedback": code_feedback,
    "code_translate": code_translate,
    "code_backtranslate": code_backtranslate,
    "maths_verified": maths,
    "maths_selfcheck": maths,
    "maths_corrections": maths,
    "maths_code": maths_code,
    "instructions": instructions,
    **truth_talk.TRUTH,
}
