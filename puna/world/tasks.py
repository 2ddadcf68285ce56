"""Verifiable tasks of the mini-world: prompts with a worked answer and a checker, in eight languages (paper 4.3, 5.2).

A task is an item asked in chat form. One in five asks for the answer's tag in another language, one in eight for a last word, in
the prompt or as a system message. The verifier looks at the last answer and the constraint, never at the chain. Splits are
disjoint by construction (see `puna.world.items.split_of`) and `disjointness` counts it again from the finished rows.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from itertools import combinations

from puna.core.errors import InputError
from puna.core.rng import python_stream
from puna.tokenizer.dialog import MessageRow, Provenance, Task, content_id
from puna.verify.check import verify
from puna.world.items import SEEN, Item, item, weighted
from puna.world.lexicon import END_WORDS, LANGUAGES, WORDING

FAMILY_SHARES = {"math": 2.0, "count": 1.0, "reverse": 1.0, "translate": 0.5, "lookup": 1.0, "tool": 1.0}  # word pairs are few
CAPABILITY = {"math": "maths", "count": "strings", "reverse": "strings", "translate": "multilingual", "lookup": "lookup",
              "tool": "tools"}  # fmt: skip
OTHER_LANGUAGE_SHARE = 0.20
END_WORD_SHARE = 0.12
SYSTEM_SHARE = 0.25  # of the modifiers, given as a system message instead of in the prompt
DRAWS_PER_FAMILY = 60  # without a new prompt before a family counts as used up in its split
PROVENANCE = Provenance(source="world", licence="CC0-1.0")


def task(rng: random.Random, family: str | None = None, split: str | None = None, lang: str | None = None) -> Task:
    """Draw one task; family (math twice as often), language and split (gold or prompts) are drawn when not given."""
    family, lang = family or weighted(rng, FAMILY_SHARES), lang or rng.choice(LANGUAGES)
    drawn = item(rng, family, lang, (split,) if split else SEEN)
    if family == "tool":
        return _tool_task(drawn, split or "")
    wish, constraint, answer_lang, end = _modifier(rng, lang)
    as_system = bool(wish) and rng.random() < SYSTEM_SHARE
    prompt = [MessageRow(role="system", content=wish)] if as_system else []
    prompt.append(MessageRow(role="user", content=drawn.prompt if as_system else f"{drawn.prompt} {wish}".strip()))
    gold = f"{drawn.chain} {WORDING[answer_lang].answer}: {drawn.answer}".strip() + (f" {end}" if end else "")
    return Task(id=_task_id(prompt), prompt=prompt, verifier="final_answer",
                reference={"answer": drawn.answer, "lang": answer_lang},
                constraint=constraint, family=family, capability="format" if constraint else CAPABILITY[family], lang=lang,
                gold=gold, split=split or "", provenance=PROVENANCE)  # fmt: skip


def generate_tasks(
    seed: int = 0, gold: int = 200, prompts: int = 12000, dev: int = 500, test: int = 1500
) -> dict[str, list[Task]]:
    """Tasks of every split, all prompts different, as {"gold", "prompts", "dev", "test"}.

    Each split has its own stream, so changing one size leaves the others as they are. A family with few different prompts
    (translation) gives way to the others once its split is used up. InputError for a negative size or one that cannot be filled.
    """
    sizes = {"gold": gold, "prompts": prompts, "dev": dev, "test": test}
    return {split: _distinct(python_stream(seed, "world", "tasks", split), split, size) for split, size in sizes.items()}


def disjointness(splits: dict[str, list[Task]]) -> dict[str, dict[str, int]]:
    """Proof that no prompt stands in two splits: sizes, different prompts per split, and overlap of every pair (all 0)."""
    texts = {split: {prompt_text(t) for t in tasks} for split, tasks in splits.items()}
    return {
        "tasks": {split: len(tasks) for split, tasks in splits.items()},
        "different_prompts": {split: len(found) for split, found in texts.items()},
        "overlap": {f"{a}/{b}": len(texts[a] & texts[b]) for a, b in combinations(texts, 2)},
    }


def prompt_text(row: Task) -> str:
    """The canonical text of a task's prompt: roles and contents, white space collapsed."""
    return "\n".join(f"{m.role}: {' '.join(m.content.split())}" for m in row.prompt)


def check_gold(tasks: Iterable[Task]) -> int:
    """How many tasks' own worked answer fails their verifier: 0, or the world is broken."""
    return sum(not verify(t, t.gold_messages()[-1].message()) for t in tasks)


def _distinct(rng: random.Random, split: str, size: int) -> list[Task]:
    if size < 0:
        raise InputError(f"the number of {split} tasks must not be negative, got {size}", fix=f"set {split} to 0 or more")
    shares = dict(FAMILY_SHARES)
    found: dict[str, Task] = {}
    while len(found) < size:
        if not shares:
            raise InputError(f"the mini-world has only {len(found)} different {split} tasks, {size} were asked for",
                             fix=f"set {split} to at most {len(found)}")  # fmt: skip
        family = weighted(rng, shares)
        drawn = (task(rng, family, split) for _ in range(DRAWS_PER_FAMILY))
        fresh = next((t for t in drawn if t.id not in found), None)
        if fresh is None:
            del shares[family]
        else:
            found[fresh.id] = fresh
    return list(found.values())


def _tool_task(drawn: Item, split: str) -> Task:
    prompt = [MessageRow(role="user", content=drawn.prompt)]
    return Task(id=_task_id(prompt), prompt=prompt, verifier="tool_call", reference=json.loads(drawn.answer), family="tool",
                capability=CAPABILITY["tool"], lang=drawn.lang, gold=[MessageRow(role="assistant", tool_calls=drawn.answer)],
                split=split, provenance=PROVENANCE)  # fmt: skip


def _modifier(rng: random.Random, lang: str) -> tuple[str, dict[str, str] | None, str, str | None]:
    """(wish in words, constraint, language of the answer tag, last word)."""
    draw = rng.random()
    if draw < OTHER_LANGUAGE_SHARE:
        other = rng.choice(LANGUAGES)
        return WORDING[lang].answer_in.format(language=WORDING[other].endonym), {"answer_lang": other}, other, None
    if draw < OTHER_LANGUAGE_SHARE + END_WORD_SHARE:
        word = rng.choice(END_WORDS)
        return WORDING[lang].end_with.format(word=word), {"end_word": word}, lang, word
    return "", None, lang, None


def _task_id(prompt: list[MessageRow]) -> str:
    return content_id({"source": "world", "prompt": [(m.role, m.content) for m in prompt]})
