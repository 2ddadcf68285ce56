"""Items and tasks: arithmetic re-computed from the text, splits disjoint, gold verified, wrong answers refused."""

import json
import random
import re
from collections import Counter

import pytest

from puna.core.errors import InputError
from puna.tokenizer.chat import Message
from puna.tokenizer.dialog import Task, read_rows, write_rows
from puna.verify.check import verify
from puna.world.items import FAMILIES, HELD_OUT, SEEN, SPLIT_PERCENT, item, prose, split_of
from puna.world.lexicon import FACTS, LANGUAGES, NAMES, NOUN_COUNT, NOUNS, WORDING
from puna.world.tasks import CAPABILITY, FAMILY_SHARES, check_gold, disjointness, generate_tasks, task

PINNED = ["prompts", "prompts", "test", "prompts"]  # a change here moves every split of every run


@pytest.fixture(scope="module")
def splits():
    return generate_tasks(seed=3)


def test_lexicon_is_consistent():
    assert set(NOUNS) == set(WORDING) == set(LANGUAGES)
    for lang, nouns in NOUNS.items():
        assert len(nouns) == len(set(nouns)) == NOUN_COUNT == 14, lang
    for other in ("so", "answer", "endonym"):
        assert len({getattr(w, other) for w in WORDING.values()}) == len(LANGUAGES)
    assert all(len(set(things)) == 3 for things in FACTS.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_items_are_true(family):
    """Answers are worked out again from the statement alone, by other means."""
    rng = random.Random(1)
    for n in range(400):
        lang = LANGUAGES[n % 8]
        found = item(rng, family, lang)
        assert solve(family, lang, found.prompt) == found.answer, found
        assert found.answer in found.prose and found.exercise.startswith(found.statement)


def solve(family, lang, prompt):
    """An independent solver: regular expressions on the prompt, no knowledge of how it was made."""
    nouns = {word: i for i, word in enumerate(NOUNS[lang])}
    digits = [int(d) for d in re.findall(r"\d+", prompt)]
    if family == "math":
        return str(digits[0] + digits[1] - digits[2] if len(digits) == 3 else 2 * digits[0] + digits[1])
    if family == "count":
        row = prompt.split(":")[1].strip(" .").split()
        letter = re.findall(r"(?<!\w)([a-h])(?!\w)", prompt.split(":")[0])[-1]
        return str(sum(c == letter for c in row))
    if family == "reverse":
        return " ".join(reversed(prompt.split(":")[1].strip(" .").split()))
    if family == "translate":
        head, noun = prompt.rstrip(".").rsplit(": ", 1)
        target = next(code for code, words in WORDING.items() if words.endonym in head)
        return NOUNS[target][nouns[noun]]
    if family == "lookup":
        table, question = prompt.split(". ", 1)
        pairs = dict(entry.split(" ", 1) for entry in table.split(", "))
        return next(pairs[name] for name in NAMES if re.search(rf"\b{name}\b", question))
    tool = next(t for t in ("add", "sub", "max", "min") if f" {t}:" in prompt)
    return json.dumps({"name": tool, "parameters": {"a": digits[0], "b": digits[1]}})


def test_split_shares_and_stability():
    counts = Counter(split_of(f"key/{i}") for i in range(20_000))
    for split, percent in SPLIT_PERCENT.items():
        assert abs(counts[split] / 20_000 - percent / 100) < 0.01
    assert [split_of(k) for k in ("math/a", "translate/3/en/de", "tool/add/7/5", "b")] == PINNED
    assert set(SEEN) | set(HELD_OUT) == set(SPLIT_PERCENT)


def test_sizes_order_and_verified_gold(splits):
    assert {k: len(v) for k, v in splits.items()} == {"gold": 200, "prompts": 12000, "dev": 500, "test": 1500}
    for name, tasks in splits.items():
        assert check_gold(tasks) == 0
        assert all(t.split == name and t.id for t in tasks)
    test = splits["test"]
    shares = Counter(t.family for t in test)
    for family, weight in FAMILY_SHARES.items():
        assert abs(shares[family] / 1500 - weight / sum(FAMILY_SHARES.values())) < 0.04, shares
    assert all(abs(n / 1500 - 1 / 8) < 0.04 for n in Counter(t.lang for t in test).values())
    constrained = Counter(next(iter(t.constraint)) for t in test if t.constraint)
    assert 0.14 < constrained["answer_lang"] / 1500 < 0.24 and 0.07 < constrained["end_word"] / 1500 < 0.15
    assert {t.capability for t in test} == {*CAPABILITY.values(), "format"}
    assert 30 < sum(t.prompt[0].role == "system" for t in test) < 200


def test_splits_are_disjoint_by_count_and_by_content(splits):
    proof = disjointness(splits)
    assert set(proof["overlap"].values()) == {0} and len(proof["overlap"]) == 6
    assert proof["different_prompts"] == proof["tasks"]
    user = {name: {t.prompt[-1].content for t in tasks} for name, tasks in splits.items()}
    assert not user["test"] & (user["gold"] | user["prompts"] | user["dev"])
    leaky = disjointness({"a": splits["dev"], "b": splits["dev"][:7]})
    assert leaky["overlap"] == {"a/b": 7}


def test_no_test_letters_or_word_pairs_elsewhere(splits):
    """Held out across languages: the string of a reverse task, and the word pair of a translation."""
    strings = {name: {t.reference["answer"] for t in tasks if t.family == "reverse"} for name, tasks in splits.items()}
    assert strings["test"] and not strings["test"] & (strings["gold"] | strings["prompts"] | strings["dev"])
    pairs = {name: {statement_of(t) for t in tasks if t.family == "translate"} for name, tasks in splits.items()}
    assert len(pairs["test"]) > 60 and not pairs["test"] & (pairs["gold"] | pairs["prompts"] | pairs["dev"])


def statement_of(t):
    """The exercise itself, without the wish about language or last word."""
    return t.prompt[-1].content.split(". ")[0].rstrip(".")


def test_one_split_does_not_depend_on_the_size_of_another():
    a, b = generate_tasks(5, gold=20, prompts=30, dev=10, test=15), generate_tasks(5, gold=10, prompts=0, dev=10, test=15)
    assert a["test"] == b["test"] and a["gold"][:10] == b["gold"] and b["prompts"] == []
    assert generate_tasks(6, 20, 0, 0, 0)["gold"] != a["gold"]


def test_wrong_answers_are_refused(splits):
    for t in splits["dev"]:
        if t.family == "tool":
            assert not verify(t, Message("assistant", tool_calls=t.gold[0].tool_calls.replace('"a"', '"c"')))
            continue
        assert not verify(t, Message("assistant", t.gold + " x"))
        assert not verify(t, Message("assistant", t.gold.replace(":", "", 1)))
        assert verify(t, Message("assistant", "any chain " + t.gold))
        if t.constraint and "end_word" in t.constraint:
            assert not verify(t, Message("assistant", t.gold.rsplit(" ", 1)[0]))


def test_rows_survive_jsonl(splits, tmp_path):
    write_rows(tmp_path / "dev.jsonl", splits["dev"])
    assert list(read_rows(tmp_path / "dev.jsonl", Task)) == splits["dev"]


def test_task_draws_any_or_the_named_family():
    rng = random.Random(0)
    assert {task(rng).family for _ in range(200)} == set(FAMILY_SHARES)
    assert all(task(rng, "lookup", "test", "th").lang == "th" for _ in range(5))


def test_too_many_or_negative_sizes_are_input_errors(monkeypatch):
    with pytest.raises(InputError, match="negative"):
        generate_tasks(0, gold=-1)
    monkeypatch.setattr("puna.world.tasks.FAMILY_SHARES", {"tool": 1.0})
    with pytest.raises(InputError, match="has only"):
        generate_tasks(0, gold=5000, prompts=0, dev=0, test=0)


def test_held_out_items_never_stand_in_prose():
    """No exercise of the held-out splits may be read in base text, in any language."""
    rng = random.Random(2)
    text = "\n".join(prose(rng) for _ in range(4000))
    held = generate_tasks(0, 0, 0, 200, 600)
    assert not [t for t in held["dev"] + held["test"] if statement_of(t) + "." in text]
    assert len(set(text.split("\n"))) > 3900
