"""The oracle under system prompts: answers that keep to demands, or forget one, and verdicts on tone and persona.

Tone and persona show in a word of their own (MANNERS), so that what a judge has to see is known.
"""

from __future__ import annotations

import json
import re

from puna.verify.numbers import final_number
from puna.world.lexicon import ANSWER_TAGS
from puna.world.oracle import Answerer, Question
from puna.world.oracle_languages import values_of, worked

MANNERS = {
    "formal and polite": "Kindly note", "warm and encouraging": "Well done asking", "dry and matter-of-fact": "Fact",
    "playful": "Hop hop", "an old sea captain": "Ahoy", "a patient school teacher": "Look closely",
    "a gardener": "As a plant grows", "a night-train conductor": "All aboard",
}  # fmt: skip
PADDING = "This is what the numbers say when one takes them step by step and looks at each with care and some patience"


def steering(ask: Question) -> str:
    """answer, follow_up, judge."""
    if ask.name == "follow_up":
        return "Could you tell me that once more?" if not ask.errs() else ""
    if ask.name == "judge":
        opening, _, last = ask.slots["dialog"].rpartition("assistant: ")
        values = values_of(opening.removeprefix("user: ").partition("\n\n")[0])
        answers = values is None or final_number(last) == worked(values)[1]
        return "Yes" if (answers and keeps_manners(ask.slots["system"], last)) is not ask.errs() else "No"
    values = values_of(ask.slots["question"]) or _earlier(ask)
    if values is None:
        return "I do not know."
    chain, answer = worked(values)
    wrong, forgets = (ask.errs(), ask.errs()) if ask.errors else (False, False)
    text = f"{chain} {ANSWER_TAGS[values['lang']]}: {answer + 3 if wrong else answer}"
    return _shaped(ask, text, forgets)


def keeps_manners(system: str, text: str) -> bool:
    """Whether a text has the word of each tone and persona that the system prompt names."""
    return all(word.casefold() in text.casefold() for manner, word in MANNERS.items() if manner in system)


def keeps_demands(system: str, text: str) -> bool:
    """Whether a text keeps to all that a system prompt demands, as its words say."""
    words, found = text.split(), re.search
    exactly = {"lines": sum(line.startswith("- ") for line in text.splitlines()),
               "paragraphs": sum(bool(part.strip()) for part in text.split("\n\n"))}  # fmt: skip
    counted = all(exactly[what] == int(count) for count, what in re.findall(r"exactly (\d+) (lines|paragraphs)", system))
    most, least = found(r"more than (\d+) words", system), found(r"at least (\d+) words", system)
    opening, banned = found(r'every answer with "([^"]+)"', system), found(r'the words "(\w+)" and "(\w+)"', system)
    return (
        keeps_manners(system, text)
        and counted
        and not (most and len(words) > int(most[1]))
        and not (least and len(words) < int(least[1]))
        and not (opening and not text.casefold().startswith(opening[1].casefold()))
        and not (banned and any(word in text.casefold() for word in banned.groups()))
        and not ("JSON object" in system and not text.startswith('{"answer"'))
        and not ("lower case only" in system and text != text.lower())
        and not ("CAPITAL LETTERS" in system and text != text.upper())
    )


def _earlier(ask: Question) -> dict[str, str] | None:
    """The exercise of an earlier turn."""
    found = [values_of(text) for role, text in ask.turns if role == "user"]
    return next((values for values in found if values), None)


def _shaped(ask: Question, text: str, forgets: bool) -> str:
    """The text in the form that the system prompt demands; one demand may be forgotten."""
    system = ask.slots["system"]
    manners = [word for manner, word in MANNERS.items() if manner in system]
    if forgets and manners and ask.rng.random() < 0.5:
        manners, forgets = [], False
    text = f"{', '.join(manners)}: {text}" if manners else text
    if forgets:
        return text
    if found := re.search(r"at least (\d+) words", system):
        text = text if len(text.split()) >= int(found[1]) else f"{PADDING}. {text}"
    if found := re.search(r"exactly (\d+) lines", system):
        text = "\n".join(["- Let us see", *["- Step by step"] * (int(found[1]) - 2), f"- {text}"])
    if found := re.search(r"exactly (\d+) paragraphs", system):
        text = "\n\n".join(["Let us see."] * (int(found[1]) - 1) + [text])
    if found := re.search(r'every answer with "([^"]+)"', system):
        text = f"{found[1]} {text}"
    if "JSON object" in system:
        text = json.dumps({"answer": text}, ensure_ascii=False)
    if "lower case only" in system:
        text = text.lower()
    return text.upper() if "CAPITAL LETTERS" in system else text


ANSWERERS: dict[str, Answerer] = {"steering": steering}
