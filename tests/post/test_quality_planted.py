"""The planted mix is what its truth says: every class by the verifier, copies by their originals, labels apart from the mix."""

from __future__ import annotations

from collections import Counter

import pytest

from puna.core.errors import InputError
from puna.core.rng import python_stream
from puna.post.prompts import prompt_key
from puna.post.quality.planted_rows import SHARES, fresh, labelled_topics, planted_mix
from puna.post.quality.rules import manner
from puna.verify.check import verify
from puna.world.tasks import generate_tasks


@pytest.fixture(scope="module")
def held():
    return generate_tasks(5, gold=0, prompts=0, dev=60, test=0)["dev"]


@pytest.fixture(scope="module")
def rows(held):
    return planted_mix(4, 500, held)


def test_every_class_has_about_its_share(rows):
    counts = Counter(row.truth for row in rows)
    for truth, share in SHARES.items():
        assert 0.8 * share * 500 <= counts[truth] <= share * 500 + 1, truth
    assert len({row.dialog.id for row in rows}) == len(rows)


def test_answers_are_right_unless_they_were_planted_wrong(rows):
    for row in rows:
        if row.task is not None:
            assert verify(row.task, row.dialog.messages[-1].message()) == (row.truth != "wrong"), row
            assert prompt_key(row.task.prompt) == prompt_key(row.dialog.messages)
        else:
            assert row.truth == "off_topic"


def test_copies_are_of_good_rows_and_differ_as_they_should(rows):
    known = {row.dialog.id: row for row in rows}
    for row in (row for row in rows if row.of):
        original = known[row.of]
        assert original.truth == "good" and original.dialog.id != row.dialog.id
        same = original.dialog.messages == row.dialog.messages
        assert same == (row.truth == "exact_duplicate")
        if row.truth == "near_duplicate":
            words = [set(" ".join(m.content for m in one.dialog.messages).split()) for one in (original, row)]
            assert len(words[0] ^ words[1]) <= 6


def test_only_the_apologetic_apologise(rows):
    assert all((manner(row.dialog).apologies > 0) == (row.truth == "over_apologetic") for row in rows)


def test_held_out_tasks_are_planted_and_no_good_row_is_one(rows, held):
    keys = {prompt_key(task.prompt) for task in held}
    assert all((prompt_key(row.dialog.messages) in keys) == (row.truth == "contaminated") for row in rows)


def test_the_same_seed_plants_the_same_and_labels_are_other_rows(rows, held):
    assert [row.dialog.id for row in planted_mix(4, 500, held)] == [row.dialog.id for row in rows]
    assert planted_mix(5, 500, held)[0].dialog.id != rows[0].dialog.id
    labels = labelled_topics(4, 200)
    tasks = {prompt_key(row.dialog.messages) for row in rows if row.task}
    assert not tasks & {prompt_key(label.messages) for label in labels}
    assert Counter(label.capability == "other" for label in labels) == {True: 100, False: 100}
    unseen = {row.dialog.lang for row in rows if row.truth == "off_topic"} - {label.lang for label in labels}
    assert unseen  # languages that the classifier was never shown


def test_a_family_that_is_used_up_is_refused():
    used: set[str] = set()
    rng = python_stream(1, "used up")
    with pytest.raises(InputError, match="too few different exercises"):
        for _ in range(2000):
            fresh(rng, used, ("tool",))
    assert 100 < len(used) < 4 * 81
