"""Translation dialogs from parallel text, by templates (paper section 4.3.2: GlobalVoices, Wikimedia).

Aligned files are full of lines that are shifted, cut, or never translated. The paper filters by language identification and
Blaser 2.0; here both sides must be in their languages, hold the same numbers and fit in length, and a judge must find that they
say the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from puna.core.errors import InputError
from puna.core.settings import Settings as BaseSettings
from puna.core.settings import Share
from puna.post.synth.replies import said_yes
from puna.post.synth.same_numbers import ENDONYMS, NAMES, fitting_lengths, is_in, keeps_numbers
from puna.post.synth.sources import Sources
from puna.post.synth.steps import Accepted, Item, Rejected, Story, assistant, user
from puna.post.synth.templates import Templates
from puna.verify.constraints import fold
from puna.verify.language import LANGUAGES
from puna.world.parallel import Pair, draw_pair

CAPABILITY = "multilingual"
UNTRANSLATED, LANGUAGE, NUMBERS, LENGTH, JUDGED = (
    "untranslated",
    "other language",
    "other numbers",
    "other length",
    "judged unlike",
)
REASONS = (UNTRANSLATED, LANGUAGE, NUMBERS, LENGTH, JUDGED)


class Settings(BaseSettings):
    """`count` pairs.

    Attributes:
        files: aligned text files by language, line by line ({en: bible.en, de: bible.de}); empty draws the mini-world's pairs.
        licence: of the files.
        faults: share of the mini-world's pairs that are wrong, to see what the checks let through.
        least_characters: shorter lines are passed over.
        judge: whether a judge compares the two. `votes`: its verdicts, of which more than half must be yes;
            `max_tokens`: of each.
    """

    count: PositiveInt = 200
    files: dict[str, str] = {}
    licence: str = "unknown"
    faults: Share = 0.0
    least_characters: PositiveInt = 20
    judge: bool = True
    votes: int = Field(3, ge=1)
    max_tokens: PositiveInt = 8
    prompts: str = ""


def items(settings: Settings, sources: Sources, rng: random.Random) -> Iterator[Item]:
    """Pairs of lines: of the user's files in a random sample and direction, or drawn."""
    if not settings.files:
        for number in range(settings.count):
            yield Item(f"world-{number}", "world", "CC0-1.0", draw_pair(rng, settings.faults))
        return
    lines = {
        lang: path.read_text(encoding="utf-8").splitlines() for lang, path in zip(settings.files, outside(settings), strict=True)
    }
    sizes = {lang: len(found) for lang, found in lines.items()}
    if len(set(sizes.values())) != 1:
        raise InputError(
            f"aligned files have equally many lines, these have {sizes}", where="files", fix="align them line by line"
        )
    fitting = [i for i, row in enumerate(zip(*lines.values(), strict=True)) if min(map(len, row)) >= settings.least_characters]
    for number in rng.sample(fitting, min(settings.count, len(fitting))):
        source, target = rng.sample(sorted(lines), 2)
        pair = Pair(lines[source][number].strip(), lines[target][number].strip(), source, target)
        yield Item(f"{number}-{source}-{target}", Path(settings.files[source]).name, settings.licence, pair)


def outside(settings: Settings) -> list[Path]:
    """The user's files, in the order of the setting. InputError for an unknown language, one file alone, or one missing."""
    unknown = [lang for lang in settings.files if lang not in LANGUAGES]
    if unknown or len(settings.files) == 1:
        what = f"unknown language '{unknown[0]}'" if unknown else "parallel text is in two languages or more"
        raise InputError(what, where="files", fix=f"name two of {', '.join(LANGUAGES)}")
    paths = [Path(path) for path in settings.files.values()]
    missing = next((path for path in paths if not path.is_file()), None)
    if missing:
        raise InputError("the file does not exist", where=str(missing), fix="check `files`")
    return paths


def story(item: Item, settings: Settings, templates: Templates) -> Story:
    """Check the pair, judge it, ask for the translation in one of several wordings."""
    pair: Pair = item.given
    fault = _fault(pair)
    if fault:
        return Rejected(fault)
    first, second = NAMES[pair.source_lang], NAMES[pair.target_lang]
    if settings.judge:
        how: dict[str, Any] = {"role": "judge", "samples": settings.votes, "max_tokens": settings.max_tokens}
        verdicts = yield templates.ask("judge", source=pair.source, target=pair.target, source_language=first,
                                       target_language=second, **how)  # fmt: skip
        if not said_yes(verdicts):
            return Rejected(JUDGED)
    wordings = sorted(name for name in templates.texts if name.startswith("asked"))
    wording = wordings[sum(pair.source.encode()) % len(wordings)]
    text = templates.text(
        wording, text=pair.source, endonym=ENDONYMS[pair.target_lang], source_language=first, target_language=second
    )
    checks = {"language": True, "numbers": True, "judged": settings.judge}
    return Accepted([[user(text), assistant(pair.target)]], checks, lang=pair.target_lang)


def _fault(pair: Pair) -> str | None:
    if fold(pair.source) == fold(pair.target):
        return UNTRANSLATED
    if not (is_in(pair.source_lang, pair.source) and is_in(pair.target_lang, pair.target)):
        return LANGUAGE
    if not keeps_numbers(pair.source, pair.target):
        return NUMBERS
    return None if fitting_lengths(pair.source, pair.target) else LENGTH
