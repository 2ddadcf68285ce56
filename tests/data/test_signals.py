"""Quality signals against direct, slow counting, and the rules they feed."""

from __future__ import annotations

import random

import curation_reference as reference
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.data.languages import Language
from puna.data.signals import CODE, COLUMNS, MATHS, PROSE, Limits, failed_rules, measure_batch
from puna.data.words import scan

GOOD = (
    "The river rises in the hills above the town and flows for ninety miles to the sea. In winter its banks are flooded, "
    "and the farmers move their sheep to higher ground. Two mills still stand on the lower course; one of them was built in "
    "1780 and grinds flour today. Visitors come for the walks along the water, the old bridges and the fish that is smoked "
    "over oak. A train leaves the coast each hour, and the journey takes a little more than forty minutes when the line is "
    "clear of snow."
)


VOCABULARY = "red green blue tin der und the of to 12 ... … # { } Lorem ipsum ไ ท あ है।"
WORDS = st.sampled_from(VOCABULARY.split())
SPACES = st.sampled_from([" ", " ", " ", "\n", "\n\n", "  \n", "\n- ", "\n• ", ".\n", "!\n", "...\n", "\u2003", "\ufffd "])
TEXTS = st.lists(st.one_of(WORDS, SPACES), max_size=120).map("".join)


def measured(text: str, lang: str) -> dict[str, float]:
    return {name: values[0] for name, values in measure_batch([text], scan([text]), [lang]).items()}


def failed_rule(text: str, lang: str, limits: Limits, group: str = "general") -> str:
    return failed_rules(measure_batch([text], scan([text]), [lang]), [group], [lang], {group: limits})[0]


def assert_as_reference(texts: list[str], langs: list[str]) -> None:
    columns = measure_batch(pa.array(texts), scan(texts), pa.array(langs))
    assert list(columns) == list(COLUMNS)
    for place, (text, lang) in enumerate(zip(texts, langs, strict=True)):
        expected = reference.measure(text, lang)
        for name, value in expected.items():
            found = columns[name][place]
            assert np.isnan(found) if value is None else found == pytest.approx(value, abs=1e-12), (name, text)
        assert set(columns) == set(expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.sampled_from(["en", "de", "xx"])), min_size=1, max_size=4))
def test_signals_of_random_text_equal_slow_counting(rows):
    assert_as_reference([text for text, _ in rows], [lang for _, lang in rows])


def test_signals_of_real_languages_equal_slow_counting():
    texts = {code: text[:2500] for code, text in reference.udhr().items()}
    if not texts:
        pytest.skip("../shared/data/udhr is not here")
    assert_as_reference([text + "\n" + text[:600] for text in texts.values()], list(texts))


@pytest.mark.parametrize("seed", range(4))
def test_ngram_signals_of_repetitive_text(seed):
    rng = random.Random(seed)
    documents = [
        " ".join(rng.choices(["red", "green", "blue", "tin"][: rng.randint(1, 4)], k=rng.randint(1, 200))) for _ in range(8)
    ]
    assert_as_reference(documents, ["en"] * 8)


@pytest.mark.parametrize(("text", "rule"), [
    (GOOD, ""),
    ("too short", "words"),
    (GOOD + " \ufffd" * 20, "unreadable"),
    ("a b c d e f g h i j k l m n o p q r s t u v w x y z", "word_length"),
    ("# " * 30 + GOOD, "symbols"),
    ("\n".join(f"- item {w} of the list and more" for w in GOOD.split()), "bullet_lines"),
    ("\n".join(f"the {w} and a good many other things of that kind and so on..." for w in GOOD.split()), "ellipsis_lines"),
    (" ".join(f"{i} the to" for i in range(40)), "alpha_words"),
    (" ".join(f"wort{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(60)), "stop_words"),
    ("the same line and that\n" * 30, "duplicate_lines"),
    (GOOD + "\nThis sentence is said again and again, said the man to the sea." * 20, "duplicate_lines"),
    (GOOD + " lorem ipsum dolor", "lorem_ipsum"),
    (" ".join(["error of the pump in the cellar at night"] * 30), "top_2gram"),
])  # fmt: skip
def test_rules_of_prose(text, rule):
    assert failed_rule(text, "en", PROSE) == rule


def test_maths_and_code_have_their_own_limits():
    sums = "\n".join(f"{a}+{b}={a + b}. {a}-{b}={a - b}." for a in range(10, 20) for b in range(1, 5))
    code = "\n".join(f"def f{i}(x):\n    return x + {i}\n" for i in range(20))
    assert failed_rule(sums, "und", PROSE) and failed_rule(code, "und", PROSE)
    assert not failed_rule(sums, "und", MATHS, "maths") and not failed_rule(code, "und", CODE, "code")


def test_each_document_is_judged_by_the_limits_of_its_group():
    sums = "\n".join(f"{a}+{b}={a + b}. {a}-{b}={a - b}." for a in range(10, 20) for b in range(1, 5))
    texts, groups = [GOOD, sums, sums, "too short", GOOD], ["general", "general", "maths", "maths", "multilingual"]
    columns = measure_batch(texts, scan(texts), ["en"] * 5)
    limits = {"general": PROSE, "maths": MATHS, "multilingual": Limits(min_words=1000)}
    assert failed_rules(columns, groups, ["en"] * 5, limits).tolist() == ["", "word_length", "", "words", "words"]
    assert failed_rules(columns, pa.array(groups), pa.array(["en"] * 5), limits)[1] == "word_length"


def test_rules_for_web_pages_are_there_and_off():
    menu = "\n".join(f"{first} of {second}" for first, second in zip(GOOD.split()[:50], GOOD.split()[30:80], strict=True))
    assert failed_rule(menu, "en", PROSE) == ""
    for limits, rule in (
        (Limits(min_punctuated_lines=0.12), "punctuated_lines"),
        (Limits(max_short_lines=0.67), "short_lines"),
        (Limits(max_line_breaks=0.2), "line_breaks"),
        (Limits(max_braces=0.0), ""),
        (Limits(max_few_word_lines=0.5), ""),
    ):
        assert failed_rule(menu, "en", limits) == rule
    assert failed_rule(GOOD + " {x}", "en", Limits(max_braces=0.0)) == "braces"
    assert (
        failed_rule("two words\n" * 9 + GOOD, "en", Limits(max_few_word_lines=0.5, max_duplicate_lines=1.0)) == "few_word_lines"
    )


def test_a_language_has_its_own_limits_where_the_recipe_left_the_defaults(monkeypatch):
    from puna.data import signals

    known = {"en": Language(name="English", origin="test", stop_words=("the",), limits={"min_words": 500})}
    monkeypatch.setattr(signals, "languages", lambda: known)
    signals.limits_for.cache_clear()
    try:
        assert signals.limits_for(PROSE, "general", "en").min_words == 500
        assert signals.limits_for(PROSE, "general", "de").min_words == PROSE.min_words
        assert signals.limits_for(MATHS, "maths", "en").min_words == MATHS.min_words
        assert signals.limits_for(Limits(min_words=3), "general", "en").min_words == 3
    finally:
        signals.limits_for.cache_clear()


def test_scripts_without_spaces_are_not_judged_by_words():
    thai = "ปฏิญญาสากลว่าด้วยสิทธิมนุษยชน โดยที่การยอมรับนับถือเกียรติศักดิ์ประจำตัว และสิทธิเท่าเทียมกัน"
    signals = measured(thai * 3, "th")
    assert all(np.isnan(signals[name]) for name in ("mean_word_chars", "duplicate_5gram", "alpha_words", "few_word_lines"))
