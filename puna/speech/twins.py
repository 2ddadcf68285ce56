"""Dialogs of text that a model must know before it can listen: repeat what you are told, or translate it (section 8.1.1).

A frozen text model follows the system prompts of speech only if it follows them in text. Its adapter then learns from
recognition alone to put speech where these dialogs have words, and what the model can do with words, it can do with speech.
The artifact is one of `tasks`, for `post.sft`. Sentences of dev and test are the held-out ones of `puna.world.voices`, so nothing
that is asked aloud in a test was read in training.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain, combinations
from typing import Annotated, Any

from pydantic import AfterValidator, Field, NonNegativeInt

from puna.core.rng import python_stream
from puna.core.settings import Settings as BaseSettings
from puna.core.settings import Share
from puna.core.stage import Artifact, StageContext
from puna.post.row_lineage import RecordedRows
from puna.speech.prompts import family_of, recognition, translation
from puna.speech.spoken import EVERY, SPLITS, Lang, Split, different
from puna.tokenizer.dialog import Dialog, MessageRow, Task, content_id, read_rows, row_line
from puna.world.tasks import PROVENANCE
from puna.world.voices import sentence

KIND = "tasks"
REVISION = 1


class Settings(BaseSettings):
    """How many dialogs, and of what.

    Attributes:
        languages, words, names: as of the sounds (`puna.speech.spoken.WorldSounds`).
        train, dev, test: dialogs of generated sentences; the transcripts of `sounds` inputs come on top in training.
        translated: share of them that ask for a translation.
    """

    languages: Annotated[tuple[Lang, ...], Field(min_length=1), AfterValidator(different)] = EVERY
    train: NonNegativeInt = 6000
    dev: NonNegativeInt = 200
    test: NonNegativeInt = 400
    words: int = Field(default=3, ge=2, le=8)
    names: Share = 0.0
    translated: Share = 0.6


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write the dialogs and tasks; the summary counts them by split and family."""
    recorded, counts, texts = RecordedRows(ctx), dict[str, dict[str, int]](), dict[Split, set[str]]()
    for split in SPLITS:
        found, texts[split] = {"transcribe": 0, "translate": 0}, set()
        rows: Iterable[Dialog | Task] = _generated(settings, split, ctx)
        if split == "train":
            rows = chain(rows, _transcripts(ctx.inputs.all("sounds")))
        with (ctx.out / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                file.write(row_line(row))
                recorded.rows(split, [row])
                found[row.capability] += 1
                texts[split].add(
                    "\n".join(message.content for message in (row.messages if isinstance(row, Dialog) else row.prompt))
                )
        counts[split] = found
    recorded.close()
    prompts = {"overlap": {f"{a}/{b}": len(texts[a] & texts[b]) for a, b in combinations(SPLITS, 2)}}
    (ctx.out / "split.json").write_text(json.dumps(prompts, indent=1, sort_keys=True) + "\n")
    return {"rows": counts, **prompts}


def _generated(settings: Settings, split: Split, ctx: StageContext) -> Iterator[Dialog | Task]:
    """So many dialogs of a split, or tasks where it is held out."""
    seed, languages = ctx.stream_seed("twins"), settings.languages
    for number in range(getattr(settings, split)):
        rng = python_stream(seed, split, number)
        said, lang = sentence(split, rng, settings.words, settings.names), rng.choice(languages)
        others = [other for other in languages if other != lang]
        asks = bool(others) and rng.random() < settings.translated
        answer_lang = rng.choice(others) if asks else lang
        system = translation(answer_lang) if asks else recognition(lang)
        yield _twin(system, said.text(lang), said.text(answer_lang), answer_lang, split, f"{seed} {number}")


def _transcripts(sounds: Iterable[Artifact]) -> Iterator[Dialog]:
    """The training rows of sounds that ask for recognition, with the words in place of the sound."""
    for artifact in sounds:
        for row in read_rows(artifact.path / "train.jsonl", Dialog):
            if family_of(row.messages) == "transcribe":
                said = row.messages[-1].content
                twin = _twin(row.messages[0].content, said, said, row.lang, "train", row.id)
                assert isinstance(twin, Dialog)
                yield twin.model_copy(
                    update={"provenance": row.provenance.model_copy(update={"parents": [row.id], "checks": {}})}
                )


def _twin(system: str, said: str, answer: str, lang: str, split: Split, identity: str) -> Dialog | Task:
    prompt = [MessageRow(role="system", content=system), MessageRow(role="user", content=said)]
    family = family_of(prompt)
    if split == "train":
        messages = [*prompt, MessageRow(role="assistant", content=answer)]
        name = content_id({"messages": messages, "of": identity})
        return Dialog(id=name, messages=messages, lang=lang, capability=family, provenance=PROVENANCE)
    return Task(
        id=content_id({"prompt": prompt, "of": identity}), prompt=prompt, verifier="exact", reference=[answer], family=family,
        capability=family, lang=lang, gold=answer, split=split, provenance=PROVENANCE,
    )  # fmt: skip
