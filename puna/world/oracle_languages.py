"""The oracle on languages: translations of the mini-world's exercises, their solutions, and whether two say the same.

It errs as models do: a number changed, two numbers swapped, another thing named, the exercise left untranslated or put into a
third language, the announcement of the answer forgotten.
"""

from __future__ import annotations

import re

from puna.world.lexicon import ANSWER_TAGS, LANGUAGES, NAMES, NOUN_COUNT, NOUNS, WORDING
from puna.world.oracle import Answerer, Question

ENGLISH_NAMES = {
    "English": "en", "Portuguese": "pt", "Spanish": "es", "French": "fr", "German": "de", "Italian": "it", "Hindi": "hi",
    "Thai": "th",
}  # fmt: skip

Values = dict[str, str]  # form ("change" or "more") and what stands in its slots, the thing as its number


def values_of(text: str, lang: str | None = None) -> Values | None:
    """What an exercise in sums is about, whatever its language; None if it is none. `lang` is tried alone if given."""
    for code in (lang,) if lang else LANGUAGES:
        for form, pattern in _FORMS[code].items():
            found = pattern.fullmatch(text.strip())
            if found and found["o"] in NOUNS[code] and found["n"] in NAMES:
                return {"form": form, **found.groupdict(), "o": str(NOUNS[code].index(found["o"])), "lang": code}
    return None


def told(values: Values, lang: str) -> str:
    """An exercise in a language."""
    words, changes = WORDING[lang], values["form"] == "change"
    slots = {slot: value for slot, value in values.items() if len(slot) == 1} | {"o": NOUNS[lang][int(values["o"])]}
    return f"{(words.change if changes else words.more).format(**slots)} {words.ask_change if changes else words.ask_more}"


def same_exercise(first: str, second: str) -> bool:
    """Whether two texts are one exercise, in two languages or one."""
    one, other = values_of(first), values_of(second)
    return one is not None and other is not None and {**one, "lang": ""} == {**other, "lang": ""}


def worked(values: Values) -> tuple[str, int]:
    """The sums of an exercise in a row, and its answer."""
    a, b = int(values["a"]), int(values["b"])
    if values["form"] == "change":
        c = int(values["c"])
        return f"{a}+{b}={a + b}. {a + b}-{c}={a + b - c}.", a + b - c
    return f"{a}+{b}={a + b}. {a}+{a + b}={2 * a + b}.", 2 * a + b


def translated_reasoning(ask: Question) -> str:
    """question, answer, judge, solve."""
    if ask.name == "judge":
        same = same_exercise(ask.slots["text"], ask.slots["translation"])
        return "Yes" if same is not ask.errs() else "No"
    if ask.name == "solve":
        values = values_of(ask.slots["question"])
        if values is None:
            return "I cannot tell."
        chain, answer = worked(values)
        return f"{chain} {ANSWER_TAGS[values['lang']]}: {answer + (ask.rng.randint(1, 5) if ask.errs() else 0)}"
    lang = ENGLISH_NAMES[ask.slots["language"]]
    return _answer(ask, lang) if ask.name == "answer" else _exercise(ask, lang)


def parallel_text(ask: Question) -> str:
    """judge."""
    same = same_exercise(ask.slots["source"], ask.slots["target"])
    return "Yes" if same is not ask.errs() else "No"


def _exercise(ask: Question, lang: str) -> str:
    values = values_of(ask.slots["text"])
    if values is None:
        return ask.slots["text"]
    if not ask.errs():
        return told(values, lang)
    fault = ask.rng.choice(("number", "swapped", "thing", "untranslated", "third language"))
    if fault == "untranslated":
        return ask.slots["text"]
    if fault == "third language":
        return told(values, ask.rng.choice([other for other in LANGUAGES if other not in (lang, values["lang"])]))
    changed = {
        "number": {"a": str(int(values["a"]) % 9 + 1)}, "swapped": {"a": values["b"], "b": values["a"]},
        "thing": {"o": str((int(values["o"]) + 1) % NOUN_COUNT)},
    }[fault]  # fmt: skip
    return told({**values, **changed}, lang)


def _answer(ask: Question, lang: str) -> str:
    text = ask.slots["text"].replace(ANSWER_TAGS["en"], ask.slots["tag"])
    if not ask.errs():
        return text
    fault = ask.rng.choice(("number", "tag", "cut off"))
    if fault == "number":
        return re.sub(r"\d+$", lambda match: str(int(match[0]) + 1), text)
    return ask.slots["text"] if fault == "tag" else text[: len(text) // 2]


def _pattern(text: str) -> re.Pattern[str]:
    pattern, seen = re.escape(text), set()
    for slot in re.findall(r"\\\{(\w)\\\}", pattern):
        again = slot in seen
        pattern = pattern.replace(rf"\{{{slot}\}}", rf"(?P={slot})" if again else rf"(?P<{slot}>[^\s,.]+)", 1)
        seen.add(slot)
    return re.compile(pattern)


_FORMS = {
    code: {"change": _pattern(f"{words.change} {words.ask_change}"), "more": _pattern(f"{words.more} {words.ask_more}")}
    for code, words in WORDING.items()
}
ANSWERERS: dict[str, Answerer] = {"translated_reasoning": translated_reasoning, "parallel_text": parallel_text}
