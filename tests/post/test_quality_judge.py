"""A judge's replies are read strictly, and a scripted teacher is asked as the protocol says."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from post_toys import base_artifact
from test_quality_rules import dialog

from puna.post.quality.judge import CODE, GENERAL, Hardness, Verdict, judge, judge_difficulty, read_hardness, read_points
from puna.post.quality.predicates import Judged, at_least, disagreement
from puna.post.synth.steps import Ask, user
from puna.post.synth.teacher import Asked, ModelTeacher


@dataclass
class Said:
    text: str
    finished: bool = True


@dataclass
class Scripted:
    """Says its lines in order, and remembers what it was asked."""

    lines: list[Said]
    asked: list[str] = field(default_factory=list)

    def answers(self, asks, *, seeds):
        assert {(ask.samples, ask.temperature, ask.role) for ask in asks} == {(1, 0.0, "judge")} and len(set(seeds)) == len(asks)
        self.asked += [ask.messages[0].content for ask in asks]
        return [[self.lines[i]] for i in range(len(asks))]


FULL = "accuracy: 1\ninstruction: 1\ntone: 0"


@pytest.mark.parametrize(
    ("reply", "kind", "points"),
    [
        (FULL, GENERAL, 2), (" TONE : 1\n\naccuracy:1\ninstruction: 0\n", GENERAL, 2), ("bugs: 1\nintent: 1", CODE, 2),
        (FULL + "\ntone: 0", GENERAL, None), ("accuracy: 1\ninstruction: 1", GENERAL, None), (FULL, CODE, None),
        ("Sure! " + FULL, GENERAL, None), (FULL + "\nHope this helps.", GENERAL, None), ("accuracy: 3", GENERAL, None),
        ("accuracy: 1 instruction: 1 tone: 1", GENERAL, None), ("", GENERAL, None),
    ],
)  # fmt: skip
def test_a_reply_counts_only_if_it_says_every_point_once_and_nothing_else(reply, kind, points):
    assert read_points(reply, kind) == points


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("intents: sum; answer in German; Sum\nlevel: 2", Hardness(2, 2)), ("Intents: a\nLevel: 3\n", Hardness(1, 3)),
        ("intents: a\nlevel: 4", Hardness(0, 0)), ("intents: ;\nlevel: 1", Hardness(0, 0)), ("level: 1", Hardness(0, 0)),
        ("intents: " + "; ".join("abcdefghijklmn") + "\nlevel: 1", Hardness(0, 0)),
    ],
)  # fmt: skip
def test_intentions_are_counted_once_and_levels_are_three(reply, expected):
    assert read_hardness(reply) == expected


def test_code_is_judged_on_two_points_and_an_unfinished_reply_on_none():
    rows = [dialog("q", "a"), dialog("q", "a", capability="code/python"), dialog("q", "a")]
    teacher = Scripted([Said(FULL), Said("bugs: 1\nintent: 0"), Said(FULL, finished=False)])
    assert judge(teacher, rows, 0) == [Verdict(2, 3), Verdict(1, 2), Verdict(0, 0)]
    assert "tone" in teacher.asked[0] and "bugs" in teacher.asked[1] and "tone" not in teacher.asked[1]
    assert teacher.asked[0].startswith("[user]\nq\n\n[assistant]\na\n\n---\n")
    assert judge_difficulty(Scripted([Said("intents: x; y\nlevel: 1")]), rows[:1], 0) == [Hardness(2, 1)]


def test_the_table_of_disagreement_counts_rows_that_both_say_something_of():
    reward = at_least(np.array([1.0, 1.0, 0.0, 0.0, 1.0]), 0.5)
    points = at_least(np.array([3.0, 2.0, 3.0, 1.0, np.nan]), 3.0)
    found = disagreement(Judged({"reward": reward, "judge": points}, np.ones(5), np.ones(5)))
    assert found == {"both_high": 1, "reward_only": 1, "judge_only": 1, "neither": 1}


def test_a_model_of_the_herd_answers_in_order_and_leaves_out_what_it_cannot_read(tmp_path):
    teacher = ModelTeacher(base_artifact(tmp_path / "base"), Asked())
    asks = [Ask([user(text)], samples=2, temperature=0.0, max_tokens=4) for text in ("a", "x" * 500, "b")]
    replies = teacher.answers(asks, seeds=[1, 2, 3])
    assert [len(one) for one in replies] == [2, 2, 2]
    assert replies[1][0].text == "" and not replies[1][0].finished
    assert replies[0][0].text == replies[0][1].text  # greedy
    assert teacher.answers(asks[2:], seeds=[9])[0][0].text == replies[2][0].text
