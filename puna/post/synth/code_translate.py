"""Translation of programs from Python into other languages, checked by running both on the same inputs (paper 4.3.1).

The paper translates from common languages into rare ones and keeps what compiles and runs. Here a translation must also print
what the Python program prints, for every input of several sets that the teacher wrote; inputs under which the Python program
fails are left out, and there must be enough of the others, with different outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from puna.core.settings import Settings as BaseSettings
from puna.post.synth.code_text import blocks, code_in, fenced, parsed
from puna.post.synth.functions import functions
from puna.post.synth.sources import Sources
from puna.post.synth.steps import Accepted, Execute, Item, Rejected, Story, assistant, user
from puna.post.synth.templates import Templates

CAPABILITY = "code"
REASONS = ("no program", "too few inputs", "outputs all alike", "no translation", "does not run", "other output")

NAMES = {"javascript": "JavaScript", "java": "Java", "c": "C"}
RULES = {"javascript": " and run under Node.js", "java": "; its class is called Main", "c": ""}


class Settings(BaseSettings):
    """`count` functions, each into one of `languages` in turn.

    Attributes:
        input_sets: how often the teacher is asked for inputs.
        least_inputs, least_outputs: different inputs that the Python program accepts, and different outputs among theirs.
        most_inputs: how many of them the translation is run on, those with different outputs first.
        temperature, max_tokens: of the answers. `prompts`: a file of templates instead of Puna's own.
    """

    count: PositiveInt = 200
    languages: tuple[Literal["javascript", "java", "c"], ...] = Field(("javascript", "java", "c"), min_length=1)
    input_sets: PositiveInt = 2
    least_inputs: PositiveInt = 6
    least_outputs: PositiveInt = 3
    most_inputs: PositiveInt = 8
    temperature: NonNegativeFloat = 0.7
    max_tokens: PositiveInt = 768
    prompts: str = ""


def items(settings: Settings, sources: Sources, rng: Random) -> Iterator[Item]:
    """Python functions of dialogs and documents, each with a language."""
    for number, item in enumerate(functions(settings.count, sources)):
        language = settings.languages[number % len(settings.languages)]
        yield Item(f"{item.key}/{language}", item.source, item.licence, (item.given, language), item.parents)


def story(item: Item, settings: Settings, templates: Templates) -> Story:
    """The program and its inputs, what it prints, the translation, what that prints."""
    function, language = item.given
    how: dict[str, Any] = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
    (told,) = yield templates.ask("program", code=fenced(function), **how)
    program = code_in(told.text)
    if not told.finished or parsed(program) is None:
        return Rejected("no program")
    asked = yield templates.ask("inputs", code=fenced(program), samples=settings.input_sets, **how)
    inputs = list(dict.fromkeys(body for one in asked for named, body in blocks(one.text) if named == "input"))
    ran = yield [Execute(program, stdin=text) for text in inputs]
    outputs = {text: one.stdout.split() for text, one in zip(inputs, ran, strict=True) if one.passed and one.stdout.strip()}
    if len(outputs) < settings.least_inputs:
        return Rejected("too few inputs")
    if len({tuple(words) for words in outputs.values()}) < settings.least_outputs:
        return Rejected("outputs all alike")
    outputs = dict(telling(outputs)[: settings.most_inputs])
    name = NAMES[language]
    (translated,) = yield templates.ask("translate", code=fenced(program), language=name, rules=RULES[language], **how)
    code = code_in(translated.text, language)
    if not translated.finished or not blocks(translated.text) or not code.strip():
        return Rejected("no translation")
    came = yield [Execute(code, language=language, stdin=text) for text in outputs]
    if not all(one.passed for one in came):
        return Rejected("does not run")
    if [one.stdout.split() for one in came] != list(outputs.values()):
        return Rejected("other output")
    request = templates.text("request", code=fenced(program), language=name)
    return Accepted([[user(request), assistant(translated.text.strip())]], {"inputs": len(outputs), "language": language})


def telling(outputs: dict[str, list[str]]) -> list[tuple[str, list[str]]]:
    """Inputs with their outputs: the first input of each output, then the others."""
    first = {tuple(words): text for text, words in reversed(outputs.items())}
    return sorted(outputs.items(), key=lambda pair: first[tuple(pair[1])] != pair[0])
