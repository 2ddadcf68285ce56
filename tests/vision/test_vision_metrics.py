from __future__ import annotations

import random

import pytest

from puna.core.errors import InputError
from puna.vision.metrics import MENDED, METRICS, anls, distance, exact, normalised, relaxed, vqa, vqa_normalised


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("The Red  Circle.", "red circle"),
        ("two", "2"),
        ("None", "0"),
        ("-3.5", "-3.5"),
        ("1,200.", "1200"),
        ("(7)", "7"),
        ("an X-ray!", "x-ray"),
        ("\uff12", "2"),
        ("50%", "50%"),
        ("", ""),
    ],
)
def test_normalised(text, form):
    assert normalised(text) == form


def test_exact():
    assert exact("A red circle.", ["blue square", "red circle"]) == 1.0
    assert exact("red circle left", ["red circle"]) == 0.0
    assert exact("-3", ["3"]) == 0.0


def recursive(one: str, other: str) -> int:
    """Levenshtein's definition."""
    if not one or not other:
        return len(one) + len(other)
    same = recursive(one[1:], other[1:]) + (one[0] != other[0])
    return min(same, recursive(one[1:], other) + 1, recursive(one, other[1:]) + 1)


def test_distance_is_levenshteins():
    rng = random.Random(1)
    for _ in range(200):
        one, other = ("".join(rng.choice("abc") for _ in range(rng.randrange(6))) for _ in range(2))
        assert distance(one, other) == recursive(one, other)
    assert distance("kitten", "sitting") == 3


@pytest.mark.parametrize(
    ("answer", "references", "score"),
    [
        ("Invoice 42", ["invoice  42"], 1.0),
        ("invoice 43", ["invoice 42", "no"], 0.9),
        ("abcd", ["abxy"], 0.5),
        ("abc", ["axy"], 0.0),  # a similarity of one third
        ("", ["x"], 0.0),
        ("", [""], 1.0),
    ],
)
def test_anls(answer, references, score):
    assert anls(answer, references) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("105", "100", 1.0),
        ("105.1", "100", 0.0),
        ("95", "100", 1.0),
        ("94.9", "100", 0.0),
        ("-95", "-100", 1.0),
        ("0.3", "30%", 1.0),
        ("33%", "30%", 0.0),
        ("0", "0.0", 1.0),
        ("0.01", "0", 0.0),
        ("Brazil", "brazil", 1.0),
        ("Brasil", "Brazil", 0.0),
        ("nan", "100", 0.0),
        ("inf", "inf", 1.0),  # a text
        ("about 100", "100", 0.0),
    ],
)
def test_relaxed(answer, reference, score):
    assert relaxed(answer, [reference]) == score
    assert relaxed(answer, ["no such thing", reference]) == score


@pytest.mark.parametrize(("matches", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_gives_the_published_steps_for_ten_annotators(matches, score):
    """k of 10 agree: (k * min(1, (k - 1) / 3) + (10 - k) * min(1, k / 3)) / 10, the steps 0, 0.3, 0.6, 0.9, 1."""
    assert vqa("red", ["red"] * matches + [f"other{i}" for i in range(10 - matches)]) == pytest.approx(score)


def test_vqa_normalises_as_the_official_evaluation_does():
    assert vqa_normalised("The answer is: two,\n a dont-know") == "answer is: 2 don't know"
    assert vqa_normalised("1,000 (a)") == "1000"
    assert vqa_normalised("3.5 m. x.y") == "3.5 m xy"
    assert vqa_normalised("red/blue") == "red blue"
    assert vqa_normalised("red / blue") == "red blue"
    assert vqa_normalised("Couldntve") == "couldntve"
    assert vqa_normalised("couldnt've") == "couldn't've" == MENDED["couldn'tve"]
    assert vqa_normalised("yall'd've 'ows'at twas") == "y'all'd've 'ow's'at 'twas"
    # marks of the references are taken out where annotators differ, and only there
    assert vqa("x ray", ["x-ray"] * 9 + ["film"]) == pytest.approx(1.0)
    assert vqa("x ray", ["x-ray"] * 10) == 0.0


def test_vqa_needs_annotators():
    with pytest.raises(InputError, match="needs the answers of 4 annotators"):
        vqa("red", ["red", "red", "red"])
    assert set(METRICS) == {"exact", "anls", "relaxed", "vqa"}
