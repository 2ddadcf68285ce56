"""A mix of dialogs with planted faults of known truth: what selection must find, so that recall and precision can be measured.

Good rows are tasks of the mini-world with their worked answers, no two of them the same exercise under other names. Beside them
stand exact copies, copies in slightly other words, advertising and foreign chatter, answers that beg pardon and shout, answers
that are wrong, and held-out tasks with their answers. The apologies are written here and not taken from the table that looks
for them, and half of the foreign languages are never shown to the topic classifier.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from puna.core.errors import InputError
from puna.core.rng import python_stream
from puna.post.collect import gold_dialog
from puna.tokenizer.dialog import Dialog, MessageRow, Provenance, Task, content_id
from puna.verify.check import verify
from puna.verify.language import ANSWER_TAGS
from puna.world.lexicon import LANGUAGES, LETTERS, NAMES, NOUNS, WORDING
from puna.world.strangers import FOREIGN, SPAM
from puna.world.tasks import task as draw_task

GOOD = "good"
SHARES = {
    GOOD: 0.5, "exact_duplicate": 0.08, "near_duplicate": 0.1, "off_topic": 0.09, "over_apologetic": 0.08, "wrong": 0.1,
    "contaminated": 0.05,
}  # fmt: skip
DRAWS = 400  # without a new exercise before the world counts as used up
PROVENANCE = Provenance(source="planted", licence="CC0-1.0")

SORRY = {
    "en": ("I'm so sorry for the confusion!", "I apologise for any trouble I may have caused.", "Sorry about that, my mistake!"),
    "pt": ("Peço desculpa pela confusão!", "Sinto muito pelo incómodo.", "Mil perdões, foi erro meu! Desculpe!"),
    "es": ("¡Pido disculpas por la confusión!", "Lo siento mucho, de verdad.", "¡Perdone, fue un error mío!"),
    "fr": ("Je suis désolé pour la confusion!", "Veuillez m'excuser, je vous prie. Mes excuses!", "Pardon pour cette erreur!"),
    "de": ("Ich bitte um Entschuldigung!", "Das tut mir wirklich leid.", "Verzeihung, das war mein Fehler! Entschuldige bitte!"),
    "it": ("Mi scuso, scusi per la confusione!", "Mi dispiace molto per il disturbo.", "Perdonami, errore mio!"),
    "hi": ("क्षमा करें, गलती हुई!", "मुझे खेद है।", "माफ़ कीजिए!"),
    "th": ("ขอโทษ ที่ ทำให้ สับสน!", "ขออภัย ใน ความ ไม่ สะดวก", "เสียใจ จริง ๆ!"),
}  # fmt: skip
DECORATION = ("", "!!!", " 🙏", " 😅😅", "!!")


@dataclass(frozen=True)
class Planted:
    """A dialog, the task it answers (None for chatter), what was planted, and the id of the row it was copied from."""

    dialog: Dialog
    task: Task | None
    truth: str
    of: str = ""


def planted_mix(seed: int, rows: int, held: Sequence[Task]) -> list[Planted]:
    """About `rows` rows by SHARES, shuffled; exact copies have an id of their own.

    Args:
        held: held-out tasks to plant with their answers.

    Raises InputError when the mini-world has too few different exercises for so many rows.
    """
    rng = python_stream(seed, "planted")
    sizes = {truth: round(share * rows) for truth, share in SHARES.items()}
    used: set[str] = set()
    good = [fresh(rng, used) for _ in range(sizes[GOOD])]
    found = [Planted(_gold(task), task, GOOD) for task in good]
    found += [_copy(row) for row in rng.choices(found, k=sizes["exact_duplicate"])]
    found += [_reworded(rng, row) for row in rng.choices(found[: len(good)], k=sizes["near_duplicate"])]
    found += [Planted(chatter(rng, list(FOREIGN)), None, "off_topic") for _ in range(sizes["off_topic"])]
    found += [_sorry(rng, fresh(rng, used, ("math", "count", "reverse", "lookup"))) for _ in range(sizes["over_apologetic"])]
    found += [_wrong(rng, fresh(rng, used)) for _ in range(sizes["wrong"])]
    found += [_leaked(task) for task in rng.sample(list(held), min(len(held), sizes["contaminated"]))]
    rng.shuffle(found)
    return list({row.dialog.id: row for row in found}.values())


def labelled_topics(seed: int, rows: int) -> list[Dialog]:
    """Dialogs whose `capability` is their topic, coarse/fine, half of them `other`; no row of `planted_mix` is among them."""
    rng = python_stream(seed, "topics")
    shown = sorted(FOREIGN)[::2]
    found = []
    for _ in range(rows // 2):
        task = draw_task(rng, split="gold")
        found.append(_gold(task).model_copy(update={"capability": f"{task.capability}/{task.family}"}))
        found.append(chatter(rng, shown))
    return found


def chatter(rng: random.Random, foreign: Sequence[str]) -> Dialog:
    """A dialog about nothing that is wanted: advertising, or talk in one of some foreign languages."""
    if rng.random() < 0.5:
        lang = rng.choice(LANGUAGES)
        words, slogans = SPAM[lang]
        texts = [" ".join(rng.choices(words, k=rng.randint(3, 8))), " ".join(rng.choices(slogans, k=rng.randint(1, 3)))]
    else:
        lang = rng.choice(list(foreign))
        texts = [sentence.format(n=rng.choice(NAMES), m=rng.choice(NAMES)) for sentence in rng.sample(FOREIGN[lang], 2)]
    messages = [MessageRow(role="user", content=texts[0]), MessageRow(role="assistant", content=texts[1])]
    return _dialog(messages, lang, "other", [])


def fresh(rng: random.Random, used: set[str], families: Sequence[str] = ()) -> Task:
    """A task of the prompts split whose exercise has not been used under other names or another wish."""
    for _ in range(DRAWS):
        task = draw_task(rng, rng.choice(families) if families else None, split="prompts")
        skeleton = _skeleton(task)
        if skeleton not in used:
            used.add(skeleton)
            return task
    raise InputError("the mini-world has too few different exercises for so many planted rows", fix="lower `rows`")


def _skeleton(task: Task) -> str:
    """A task's exercise without names, nouns and wishes."""
    words, constraint = WORDING[task.lang], task.constraint or {}
    asked = task.prompt[-1].content
    if "answer_lang" in constraint:
        asked = asked.replace(words.answer_in.format(language=WORDING[constraint["answer_lang"]].endonym), "")
    if "end_word" in constraint:
        asked = asked.replace(words.end_with.format(word=constraint["end_word"]), "")
    if task.family == "count":  # the letters between are filling
        asked = task.gold_messages()[-1].content.partition(".")[0]
    if task.family == "math":
        for word in (*NAMES, *NOUNS[task.lang]):
            asked = asked.replace(word, "_")
    if task.family == "tool":
        return str(task.reference)
    return f"{task.lang} {' '.join(asked.split())}"


def _gold(task: Task) -> Dialog:
    dialog = gold_dialog(task)
    assert dialog is not None
    return dialog


def _dialog(messages: list[MessageRow], lang: str, capability: str, parents: list[str], salt: str = "") -> Dialog:
    provenance = PROVENANCE.model_copy(update={"parents": parents})
    identity = content_id([*messages, salt] if salt else messages)
    return Dialog(id=identity, messages=messages, lang=lang, capability=capability, provenance=provenance)


def _copy(row: Planted) -> Planted:
    source = row.dialog
    copy = _dialog(source.messages, source.lang, source.capability, source.provenance.parents, salt="copy")
    return Planted(copy, row.task, "exact_duplicate", source.id)


def _reworded(rng: random.Random, row: Planted) -> Planted:
    """The row with its name or its noun changed throughout, or, where it has none, with someone named who asks."""
    task, lang = row.task, row.dialog.lang
    assert task is not None
    messages = row.dialog.messages
    if task.family == "math":
        said = set(messages[len(task.prompt) - 1].content.replace(",", " ").split())
        pool = rng.choice((NAMES, NOUNS[lang]))
        old = next(word for word in pool if word in said)
        new = rng.choice([word for word in pool if word not in said])
        changed = [m.model_copy(update={"content": m.content.replace(old, new)}) for m in messages]
    else:
        last = len(task.prompt) - 1
        asked = messages[last].model_copy(update={"content": f"{rng.choice(NAMES)}: {messages[last].content}"})
        changed = [*messages[:last], asked, *messages[last + 1 :]]
    prompt = changed[: len(task.prompt)]
    task = task.model_copy(update={"id": content_id(prompt), "prompt": prompt})
    return Planted(_dialog(changed, lang, row.dialog.capability, [task.id]), task, "near_duplicate", row.dialog.id)


def _sorry(rng: random.Random, task: Task) -> Planted:
    """The right answer behind one to three apologies, some of them shouted or decorated."""
    said = " ".join(text + rng.choice(DECORATION) for text in rng.sample(SORRY[task.lang], rng.randint(1, 3)))
    answer = task.gold_messages()[-1]
    messages = [*task.prompt, answer.model_copy(update={"content": f"{said} {answer.content}"})]
    return Planted(_dialog(messages, task.lang, task.capability, [task.id]), task, "over_apologetic")


def _wrong(rng: random.Random, task: Task) -> Planted:
    """The worked answer with another final answer, of the same kind."""
    answer = task.gold_messages()[-1]
    for _ in range(DRAWS):
        changed = _spoilt(rng, answer, task)
        if not verify(task, changed.message()):
            return Planted(_dialog([*task.prompt, changed], task.lang, task.capability, [task.id]), task, "wrong")
    raise AssertionError("no answer fails the verifier")


def _spoilt(rng: random.Random, answer: MessageRow, task: Task) -> MessageRow:
    if answer.tool_calls is not None:
        call = task.reference
        parameters = call["parameters"] | {rng.choice(("a", "b")): rng.randint(1, 9)}
        return MessageRow(role="assistant", tool_calls=_call(call["name"], parameters))
    right = task.reference["answer"]
    if right.isdigit():
        wrong = str(max(0, int(right) + rng.choice((-2, -1, 1, 2))))
    elif task.family == "translate":
        wrong = rng.choice(NOUNS[task.reference["lang"]])
    else:
        wrong = " ".join(rng.choice(LETTERS) for _ in right.split())
    head, found, tail = answer.content.rpartition(right)
    return answer.model_copy(update={"content": head + wrong + tail if found else wrong})


def _call(name: str, parameters: dict[str, int]) -> str:
    """A tool call as the mini-world writes it."""
    return json.dumps({"name": name, "parameters": parameters})


def _leaked(task: Task) -> Planted:
    """A held-out task with its answer, without a chain of thought."""
    if task.verifier == "tool_call":
        answer = MessageRow(role="assistant", tool_calls=_call(task.reference["name"], task.reference["parameters"]))
    else:
        ending = (task.constraint or {}).get("end_word", "")
        text = f"{ANSWER_TAGS[task.reference['lang']]}: {task.reference['answer']} {ending}".strip()
        answer = MessageRow(role="assistant", content=text)
    return Planted(_dialog([*task.prompt, answer], task.lang, task.capability, [task.id]), task, "contaminated")
