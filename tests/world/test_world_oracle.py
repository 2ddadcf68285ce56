"""The mini-world's oracle: deterministic, right without errors, wrong in known ways with them, and its truth catches each."""

from __future__ import annotations

import random

import pytest

from puna.core.errors import InputError
from puna.tokenizer.dialog import MessageRow
from puna.world.items import item
from puna.world.lexicon import LANGUAGES
from puna.world.oracle import answer
from puna.world.oracle_code import named
from puna.world.oracle_maths import holds, understood
from puna.world.programs import PROGRAMS, QUIET_BUGS, described, lists
from puna.world.truth import code_feedback


@pytest.mark.parametrize("name", list(PROGRAMS)[::97])
def test_every_bug_shows_on_some_list_and_the_words_tell_the_program(name):
    about, rng = PROGRAMS[name], random.Random(name)
    tried = [xs for _ in range(40) for xs in lists(rng, about, 6)]
    for bug in QUIET_BUGS:
        assert any(about.value(xs) != about.wrong(bug).value(xs) for xs in tried), bug
    assert described(f"Well. {about.problem} So it is.") == about and named(about.python()) == about


def test_value_agrees_with_a_fold_by_hand():
    assert PROGRAMS["sum_of_squares_of_multiples_of_3"].value([1, 3, 6, 7]) == 45
    assert PROGRAMS["count_of_above_4"].value([4, 5, 9]) == 2


def test_word_problems_are_understood_in_every_language():
    for lang in LANGUAGES:
        for seed in range(60):
            drawn = item(random.Random(seed), "math", lang)
            problem = understood(drawn.prompt)
            assert problem is not None and (problem.lang, str(problem.answer())) == (lang, drawn.answer)
            assert problem.chain()[0] == drawn.chain


def test_errors_come_at_their_rate_and_truth_sees_them():
    prompt = item(random.Random(3), "math", "en").prompt
    said = [answer("maths.solve", {"problem": prompt}, seed, 0.3).text for seed in range(400)]
    assert said == [answer("maths.solve", {"problem": prompt}, seed, 0.3).text for seed in range(400)]
    wrong = sum(not holds(understood(prompt), text) for text in said)
    assert 90 < wrong < 150  # 120 expected
    assert all(holds(understood(prompt), answer("maths.solve", {"problem": prompt}, seed, 0.0).text) for seed in range(50))


def test_truth_of_code_sees_each_bug():
    about = PROGRAMS["chain_of_below_5"]

    def dialog(code: str) -> list[MessageRow]:
        return [MessageRow(role="user", content=about.problem), MessageRow(role="assistant", content=f"```python\n{code}```")]

    assert code_feedback(dialog(about.python()))
    assert not any(code_feedback(dialog(about.wrong(bug).python())) for bug in QUIET_BUGS)


def test_a_generator_that_the_oracle_does_not_know_is_refused():
    with pytest.raises(InputError, match="does not know the questions of 'poems'"):
        answer("poems.write", {}, 0, 0.0)
