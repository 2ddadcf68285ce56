"""Calls against the descriptions of functions, and answers against the outputs they should follow from."""

import pytest

from puna.verify.arguments import misfit
from puna.verify.follows import follows, invented_numbers, stands_in

ROOM = {
    "name": "book",
    "parameters": {
        "type": "object",
        "properties": {
            "nights": {"type": "integer"},
            "guest": {"type": "string"},
            "view": {"enum": ["sea", "hill"]},
            "extras": {"type": "array", "items": {"type": "string"}},
            "where": {"type": "object", "properties": {"floor": {"type": "integer"}}, "required": ["floor"]},
            "note": {"type": ["string", "null"]},
        },
        "required": ["nights"],
    },
}


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"nights": 2}, None),
        ({"nights": 2.0, "guest": "Ana", "view": "sea", "extras": ["bed"], "where": {"floor": 3}, "note": None}, None),
        ({}, "'nights' is missing"),
        ({"nights": "2"}, "'nights' is no integer"),
        ({"nights": True}, "'nights' is no integer"),
        ({"nights": 2.5}, "'nights' is no integer"),
        ({"nights": float("inf")}, "'nights' is no integer"),
        ({"nights": float("nan")}, "'nights' is no integer"),
        ({"nights": 2, "guests": "Ana"}, "'guests' is no parameter"),
        ({"nights": 2, "view": "road"}, "'view' is none of ['sea', 'hill']"),
        ({"nights": 2, "extras": ["bed", 1]}, "'extras[1]' is no string"),
        ({"nights": 2, "where": {}}, "'where.floor' is missing"),
        ({"nights": 2, "note": 4}, "'note' is no string or null"),
    ],
)
def test_misfit(arguments, fault):
    assert misfit(("book", arguments), [ROOM]) == fault
    assert misfit(("book", arguments), [{"type": "function", "function": ROOM}]) == fault


def test_a_function_that_nobody_offers():
    assert misfit(("cancel", {}), [ROOM]) == "no function 'cancel' is offered"


@pytest.mark.parametrize(
    ("output", "answer", "right"),
    [
        ("12", "That makes 12.", True),
        ("12", "That makes 13.", False),
        ("12", "That makes 12, 5 more than before.", False),
        ("12", "", False),
        ("true", "Yes, it is a leap year.", True),
        ("true", "No, it is not.", False),
        ("false", "No.", True),
        ("false", "Yes.", False),
        ('{"town": "Nalo", "people": [3, 4]}', "The town Nalo: people 3 and 4.", True),
        ('{"town": "Nalo", "people": [3, 4]}', "The town Nalo: people 3.", False),
        ("blue bird", "A Blue  Bird, of course.", True),
        ("[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]", "They go from 1 to 13.", True),
    ],
)
def test_follows(output, answer, right):
    assert follows(output, answer) is right


def test_numbers_of_the_question_are_not_invented():
    assert follows("12", "5 and 7 make 12.", "What is 5 plus 7?") and not follows("12", "5 and 8 make 12.", "What is 5 plus 7?")
    assert invented_numbers("3, 4 and 1,200", "1200", "3") == 1


def test_what_stands_in_a_text():
    assert stands_in([3, "red", {"n": 4}], "three reds: 3 Red N 4")
    assert not stands_in([3, "blue"], "3 red") and not stands_in(4, "14") and stands_in(None, "") and stands_in(True, "")
