"""The almanac, projects and exercises that the oracle speaks of: read back they are what was written."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from puna.verify.arguments import misfit
from puna.verify.calls import read_calls
from puna.world.almanac import KINDS, TOGETHER, asked, facts, other_value, page, question, remembered, together, town_name, truth
from puna.world.items import item
from puna.world.lexicon import LANGUAGES
from puna.world.oracle import answer
from puna.world.oracle_languages import same_exercise, told, values_of, worked
from puna.world.oracle_steering import MANNERS, keeps_demands
from puna.world.oracle_texts import true_answer, true_sentences
from puna.world.oracle_tools import expected, plan, table_answer, table_rows
from puna.world.parallel import FAULTS, draw_pair
from puna.world.projects import FUNCTIONS, VALUES, WRONG, draw_project, source, value
from puna.world.tables import draw_table


def test_what_a_page_says_is_true_and_is_read_back():
    text = page(random.Random(0), 20)
    said = facts(text)
    assert len(said) > 40 and all(value == truth(*about) for about, value in said.items()) and true_sentences(text)
    (name, kind), known = next(iter(said.items()))
    wrong = text.replace(known, other_value(name, kind, random.Random(0)), 1)
    assert not true_sentences(wrong) and not true_sentences("nothing")


@pytest.mark.parametrize("kind", KINDS)
def test_questions_name_their_town(kind):
    name = town_name(random.Random(kind))
    assert asked(question(name, kind)) == (name, kind) and asked("How are you?") is None
    assert true_answer(question(name, kind), f"It is {truth(name, kind)}.")
    assert not true_answer(question(name, kind), f"It is {other_value(name, kind, random.Random(1))}.")
    vague = question("the town", kind)
    assert asked(vague) == ("", kind) and not true_answer(vague, truth(name, kind))


def test_sums_of_two_towns():
    wanted = TOGETHER.format(first="Nalote", second="Brimoda")
    total = int(truth("Nalote", "people")) + int(truth("Brimoda", "people"))
    assert together(wanted) == ("Nalote", "Brimoda")
    assert true_answer(wanted, str(total)) and not true_answer(wanted, str(total + 1))


def test_memory_is_right_empty_or_wrong_in_known_shares():
    rng = random.Random(0)
    drawn = [(town_name(rng), rng.choice(list(KINDS))) for _ in range(1500)]
    kept = Counter(
        "right" if remembered(*one) == truth(*one) else "empty" if remembered(*one) is None else "wrong" for one in drawn
    )
    assert 0.4 < kept["right"] / 1500 < 0.5 and 0.1 < kept["empty"] / 1500 < 0.2
    assert [remembered(*one) for one in drawn[:50]] == [remembered(*one) for one in drawn[:50]]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_do_what_is_known_and_wrong_ones_do_not(name):
    calls, place = [json.loads(call.replace("'", '"')) for call in FUNCTIONS[name][3]], {}
    exec(source(name), place)
    assert [place[name](argument) for argument in calls] == [value(name, argument) for argument in calls]
    for body in WRONG[name]:
        exec(source(name, body), place)
        assert [place[name](argument) for argument in calls] != [value(name, argument) for argument in calls], body


def test_a_project_has_a_file_that_six_or_more_import():
    for seed in range(10):
        files, shared = draw_project(random.Random(seed))
        users = [path for path, text in files.items() if f"from {shared[:-3]} import" in text]
        assert 6 <= len(users) <= 8 < len(files) and set(VALUES) > {one for one in VALUES if f"def {one}(" in files[shared]}


def test_exercises_are_understood_in_every_language():
    for lang in LANGUAGES:
        for seed in range(40):
            drawn = item(random.Random(seed), "math", lang)
            values = values_of(drawn.prompt)
            assert (values["lang"], told(values, lang), worked(values)) == (lang, drawn.prompt, (drawn.chain, int(drawn.answer)))
            assert same_exercise(drawn.prompt, told(values, "th")) and values_of("Hello.") is None


def test_pairs_have_their_faults():
    rng = random.Random(0)
    pairs = [draw_pair(rng, 0.5) for _ in range(300)]
    assert {pair.fault for pair in pairs} == {"", *FAULTS} and 100 < sum(not pair.fault for pair in pairs) < 200
    for pair in pairs:
        right = same_exercise(pair.source, pair.target) and values_of(pair.target)["lang"] == pair.target_lang
        assert right is (not pair.fault), pair


def test_requests_say_what_is_to_be_called():
    functions = json.dumps([{"name": name} for name in ("total", "doubled")])
    for kind in ("single", "parallel", "nested"):
        request = answer(f"function_calls.request_{kind}", {"functions": functions}, 3, 0.0).text.removeprefix("Request: ")
        calls, results = plan(request), expected(plan(request))
        assert len(calls) == (1 if kind == "single" else 2) and len(results) == len(calls)
        said = answer("function_calls.turn", {"request": request, "done": "[]"}, 4, 0.0)
        made = read_calls(said.call)
        assert made == calls[: 1 if kind == "nested" else None]
        done = [[[name, arguments, json.dumps(result)] for (name, arguments), result in zip(made, results, strict=False)]]
        again = answer("function_calls.turn", {"request": request, "done": json.dumps(done)}, 5, 0.0)
        if kind == "nested":
            assert read_calls(again.call) == [(calls[1][0], {next(iter(calls[1][1])): results[0]})]
        else:
            assert all(str(result) in again.text for result in results)
    assert misfit(("total", {}), [{"name": "total", "parameters": {}}]) is None


def test_tables_can_be_added_up_again():
    name, content = draw_table(random.Random(4))
    lines = content.decode().replace("\t", ",").splitlines()
    rows = table_rows("\n".join(line.replace(",", " | ") for line in lines))
    column = rows[0][1]
    total = sum(int(row[1]) for row in rows[1:])
    assert table_answer(f"What is the total of {column} in {name}?", rows) == total
    assert table_answer(f"In {name}, what is the {column} of {rows[2][0]}?", rows) == int(rows[2][1])
    assert table_answer("What else?", rows) is None


@pytest.mark.parametrize(
    ("system", "kept", "broken"),
    [
        ("Never use more than 20 words.", "few words", "word " * 21),
        ("Write at least 5 words each time.", "one two three four five", "one"),
        ("Write in lower case only.", "small", "Large"),
        ("WRITE IN CAPITAL LETTERS ONLY.", "LARGE", "Large"),
        ('Answer as a list of exactly 2 lines that each begin with "- ".', "- a\n- b", "- a"),
        ("Answer in exactly 2 paragraphs with a blank line between them.", "a\n\nb", "a"),
        ('Begin every answer with "Note:"', "note: yes", "yes"),
        ('Never use the words "very" and "please".', "fine", "very fine"),
        ("You are an old sea captain and always speak as one.", f"{MANNERS['an old sea captain']}!", "Hello"),
    ],
)
def test_demands_as_their_words_say(system, kept, broken):
    assert keeps_demands(system, kept) and not keeps_demands(system, broken)
