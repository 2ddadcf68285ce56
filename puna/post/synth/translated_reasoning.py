"""Verified reasoning in other languages: a question and its worked answer are translated (paper section 4.3.2, a third of its
multilingual data; only quantitative reasoning, whose translation a number can check).

Both translations must be in the language and keep every number, and the answer must still be found right. A mistranslated
question can keep its numbers; so it is solved afresh, most solutions must come to the known answer, and a judge compares the two.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator

from puna.core.settings import Settings as BaseSettings
from puna.post.synth.replies import said_yes
from puna.post.synth.same_numbers import NAMES, fitting_lengths, is_in, keeps_numbers
from puna.post.synth.sources import Sources
from puna.post.synth.steps import Accepted, Item, Rejected, Story, assistant, user
from puna.post.synth.templates import Templates
from puna.tokenizer.dialog import Dialog
from puna.verify.language import ANSWER_TAGS, LANGUAGES, answer_tags
from puna.verify.numbers import final_number

CAPABILITY = "multilingual"
UNFINISHED, LANGUAGE, NUMBERS, LENGTH = "unfinished", "other language", "other numbers", "other length"
ANSWER, SOLVED, JUDGED = "answer lost", "solved otherwise", "judged unlike"
REASONS = (UNFINISHED, LANGUAGE, NUMBERS, LENGTH, ANSWER, SOLVED, JUDGED)


class Settings(BaseSettings):
    """`count` translations.

    Attributes:
        languages: into which, in turn. `source`: language of the dialogs taken.
        capabilities: of the dialogs taken.
        solutions: fresh ones of the translated question, of which more than half must be right; 0 for none.
        judge: whether a judge compares the two questions. `votes`: its verdicts, of which more than half must be yes.
    """

    count: PositiveInt = 200
    languages: tuple[str, ...] = tuple(lang for lang in LANGUAGES if lang != "en")
    source: str = "en"
    capabilities: tuple[str, ...] = ("maths",)
    solutions: int = Field(3, ge=0)
    judge: bool = True
    votes: int = Field(3, ge=1)
    temperature: NonNegativeFloat = 0.3
    max_tokens: PositiveInt = 512
    prompts: str = ""

    @field_validator("languages")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [lang for lang in value if lang not in LANGUAGES]
        if unknown or not value:
            raise ValueError(f"name languages among {', '.join(LANGUAGES)}")
        return value


@dataclass(frozen=True)
class Given:
    """A question, its worked answer, and the language to put them into."""

    question: str
    answer: str
    lang: str


def items(settings: Settings, sources: Sources, rng: random.Random) -> Iterator[Item]:
    """Dialogs of one question and one answer that ends in a number, each into the next of the languages."""
    made = 0
    languages = rng.sample(settings.languages, len(settings.languages))
    for dialog in sources.dialogs():
        if made < settings.count and _is_wanted(dialog, settings):
            lang, origin = languages[made % len(languages)], dialog.provenance
            made += 1
            given = Given(dialog.messages[0].content, dialog.messages[1].content, lang)
            yield Item(f"{dialog.id}-{lang}", origin.source, origin.licence, given, (dialog.id,))


def story(item: Item, settings: Settings, templates: Templates) -> Story:
    """Two translations, their checks, fresh solutions."""
    given: Given = item.given
    how: dict[str, Any] = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
    language = NAMES[given.lang]
    tag = ANSWER_TAGS[given.lang]
    (asked,), (worked,) = yield [
        templates.ask("question", text=given.question, language=language, **how),
        templates.ask("answer", text=given.answer, language=language, tag=tag, **how),
    ]
    question, answer = asked.text.strip(), worked.text.strip()
    if not (asked.finished and worked.finished):
        return Rejected(UNFINISHED)
    fault = _fault(given.question, question, given.lang) or _fault(given.answer, answer, given.lang)
    if fault:
        return Rejected(fault)
    if final_number(answer) != final_number(given.answer) or not _keeps_tag(given.answer, answer, given.lang):
        return Rejected(ANSWER)
    if settings.solutions:
        solved = yield templates.ask("solve", question=question, samples=settings.solutions, temperature=0.7,
                                     max_tokens=settings.max_tokens)  # fmt: skip
        right = sum(one.finished and final_number(one.text) == final_number(given.answer) for one in solved)
        if 2 * right <= len(solved):
            return Rejected(SOLVED)
    if settings.judge:
        verdicts = yield templates.ask("judge", role="judge", samples=settings.votes, max_tokens=8, text=given.question,
                                       translation=question)  # fmt: skip
        if not said_yes(verdicts):
            return Rejected(JUDGED)
    checks = {"numbers": True, "language": True, "solutions": settings.solutions}
    return Accepted([[user(question), assistant(answer)]], checks, lang=given.lang)


def _is_wanted(dialog: Dialog, settings: Settings) -> bool:
    of_kind = dialog.lang == settings.source and dialog.capability in settings.capabilities
    single = [message.role for message in dialog.messages] == ["user", "assistant"] and dialog.tools is None
    return of_kind and single and final_number(dialog.messages[1].content) is not None


def _fault(source: str, translation: str, lang: str) -> str | None:
    if not is_in(lang, translation):
        return LANGUAGE
    if not keeps_numbers(source, translation):
        return NUMBERS
    return None if fitting_lengths(source, translation) else LENGTH


def _keeps_tag(source: str, translation: str, lang: str) -> bool:
    """Whether an answer tag, where the source has one, became one tag of the language."""
    return not answer_tags(source) or [found for found, _, _ in answer_tags(translation)] == [lang]
