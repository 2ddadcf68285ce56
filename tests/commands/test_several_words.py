"""Words of the command line before a recipe sees them."""

import pytest

from puna.commands.options import gathered, split_target
from puna.core.errors import InputError


def test_a_shell_pattern_after_a_value_makes_a_list():
    assert gathered(["model=m", "data=a.jsonl", "b c.jsonl", "é.jsonl", "seed=8"]) == [
        "model=m", 'data=["a.jsonl", "b c.jsonl", "é.jsonl"]', "seed=8",
    ]  # fmt: skip
    assert gathered(["data=a.jsonl"]) == ["data=a.jsonl"] and gathered([]) == []
    assert gathered(["flagship.steps", "100", "seed=8"]) == ["flagship.steps", "100", "seed=8"]


def test_a_value_given_twice_is_refused():
    with pytest.raises(InputError, match="'data' is given twice") as refused:
        gathered(["data=a.jsonl", "b.jsonl", "data=c.jsonl"])
    assert refused.value.fix == "once, as a list: data=FIRST SECOND"


def test_the_first_word_is_a_recipe_unless_it_is_a_value():
    assert split_target("align", ["data=a", "b"]) == ("align", ['data=["a", "b"]'])
    assert split_target("seed=8", None) == ("cria", ["seed=8"])
