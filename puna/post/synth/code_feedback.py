"""Code with execution feedback: problem, solution, tests, and repair turns while tests fail (paper 4.3.1).

The problem is inspired by a snippet of a document. A solution is parsed, then run on tests that the teacher wrote without seeing
it. On failure the teacher sees what happened and mends the code or the tests; a dialog that took repairs keeps them, with the
wrong turns out of the loss (the paper: one in five solutions was wrong at first and mended). Tests that a mended answer may have
bent to its code prove little, so at the end a quorum of further tests, written from the problem alone and never shown, has to
pass as well; and tests that a function returning nothing passes count as none.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING, Any

from pydantic import Field, NonNegativeFloat, PositiveInt

from puna.core.settings import Settings as BaseSettings
from puna.post.synth.code_text import asserts, blocks, code_in, defines, entry_point, fenced
from puna.post.synth.snippets import Snippets, snippets
from puna.post.synth.sources import Sources
from puna.post.synth.steps import Accepted, Execute, Item, Rejected, Story, assistant, user
from puna.post.synth.templates import Templates

if TYPE_CHECKING:
    from puna.verify.sandbox import Outcome

CAPABILITY = "code"
REASONS = ("no problem", "no code", "no tests", "tests prove nothing", "still failing", "held-out tests fail")

SHOWN = 800  # characters of an outcome that the teacher sees


class Settings(BaseSettings):
    """`count` problems from `snippets`.

    Attributes:
        repairs: turns in which failing code may be mended.
        least_asserts: different asserts that call the function which a test needs.
        held_suites, quorum: tests that are never shown, and how many of them have to pass.
        temperature, max_tokens: of the answers. `prompts`: a file of templates instead of Puna's own.
    """

    count: PositiveInt = 200
    snippets: Snippets = Snippets()
    repairs: int = Field(2, ge=0)
    least_asserts: PositiveInt = 3
    held_suites: PositiveInt = 3
    quorum: PositiveInt = 2
    temperature: NonNegativeFloat = 0.7
    max_tokens: PositiveInt = 768
    prompts: str = ""


def items(settings: Settings, sources: Sources, rng: Random) -> Iterator[Item]:
    """Snippets of documents of code and prose."""
    return snippets(settings.snippets, settings.count, sources, rng)


def story(item: Item, settings: Settings, templates: Templates) -> Story:
    """Problem, solution and tests, repairs, and the tests that were held back."""
    how: dict[str, Any] = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
    (stated,) = yield templates.ask("problem", snippet=item.given, **how)
    problem, name = stated.text.strip(), entry_point(stated.text)
    if not stated.finished or name is None:
        return Rejected("no problem")
    suites = settings.held_suites + 1
    solved, tested = yield [
        templates.ask("solution", problem=problem, **how),
        templates.ask("tests", problem=problem, samples=suites, **how),
    ]
    found = [asserts(answer.text, name) for answer in tested if answer.finished]
    sound = [suite for suite in found if len(suite) >= settings.least_asserts]
    if len(sound) < 1 + settings.quorum:
        return Rejected("no tests")
    idle = f"def {name}(*arguments, **named):\n    return None\n"
    vacuous = yield [Execute(idle, suite) for suite in sound]
    if any(outcome.passed for outcome in vacuous):
        return Rejected("tests prove nothing")
    shown, held = sound[0], sound[1:]
    mended = yield from _until_passing(problem, name, solved[0], shown, settings, templates)
    if isinstance(mended, Rejected):
        return mended
    dialog, code, repairs = mended
    judged = yield [Execute(code, suite) for suite in held]
    passed = sum(outcome.passed for outcome in judged)
    if passed < settings.quorum:
        return Rejected("held-out tests fail")
    checks = {"tests": len(shown), "held_suites": f"{passed} of {len(held)} pass", "repairs": repairs}
    return Accepted([dialog], checks)


def _until_passing(problem: str, name: str, answer: Any, tests: tuple[str, ...], settings: Settings, templates: Templates) -> Any:
    """The dialog, its last code and how many repairs it took, or why it failed."""
    dialog, repairs = [user(problem)], 0
    while True:
        code = code_in(answer.text)
        if not answer.finished or not defines(code, name):
            return Rejected("no code")
        outcome = yield Execute(code, tests)
        if outcome.passed:
            return [*dialog, assistant(answer.text.strip())], code, repairs
        if repairs == settings.repairs:
            return Rejected("still failing")
        told, repairs = outcome_text(outcome), repairs + 1
        listed = fenced("\n".join(tests))
        (repaired,) = yield templates.ask(
            "repair", problem=problem, code=fenced(code), tests=listed, outcome=told,
            temperature=settings.temperature, max_tokens=settings.max_tokens,
        )  # fmt: skip
        wrong = assistant(answer.text.strip()).model_copy(update={"train": False})
        dialog += [wrong, user(templates.text("feedback", tests=listed, outcome=told))]
        tests = _mended_tests(repaired.text, name, settings) or tests
        answer = repaired


def _mended_tests(text: str, name: str, settings: Settings) -> tuple[str, ...] | None:
    """The tests of a second block, if there are enough."""
    later = [body for _, body in blocks(text)[1:]]
    suite = asserts(fenced(later[0]), name) if later else ()
    return suite if len(suite) >= settings.least_asserts else None


def outcome_text(outcome: Outcome) -> str:
    """What a program's outcome tells whoever has to mend it."""
    errors = [result.error for result in outcome.results if not result.passed]
    said = "\n".join([*errors, outcome.stderr.strip() or outcome.stdout.strip()]).strip()[-SHOWN:]
    return f"{outcome.status} (return code {outcome.returncode})" + (f"\n{said}" if said else "")
