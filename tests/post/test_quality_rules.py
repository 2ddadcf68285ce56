"""Rules of manner, the expression that decides, topics, difficulty and held-out tasks: what each says of a row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from post_toys import PROVENANCE, finished, toy_task

from puna.core.errors import InputError
from puna.core.stage import Inputs
from puna.post.quality.contamination import held_out
from puna.post.quality.difficulty import counted_intents, difficulty, pass_rates
from puna.post.quality.expression import failures, names_in
from puna.post.quality.phrases import APOLOGIES
from puna.post.quality.planted_rows import SORRY
from puna.post.quality.rows import dialogs, file_digests
from puna.post.quality.rules import Manner, RuleSettings, balanced, calmed, manner, rewritten
from puna.post.quality.topics import coarse_of, learn_topics, wanted_chances
from puna.tokenizer.dialog import Dialog, MessageRow, Sample, content_id, write_rows


def dialog(*said: str, lang: str = "en", capability: str = "general") -> Dialog:
    messages = [MessageRow(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(said)]
    return Dialog(id=content_id(messages), messages=messages, lang=lang, capability=capability, provenance=PROVENANCE)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("It is 4.", Manner(0, 0, 0)),
        ("I'm so sorry! I apologize for that. It is 4 🙂🙂 👍🏽", Manner(2, 1, 2)),
        ("Great!!! → ✓ 4！", Manner(1, 4, 0)),
        ("A sorry state, said the unapologetic man: I am not one to say so. 4", Manner(0, 0, 0)),
    ],
)
def test_emoji_exclamation_marks_and_apologies_are_counted_in_answers(answer, expected):
    assert manner(dialog("I'm sorry!!! 🙂", answer)) == expected


@pytest.mark.parametrize("lang", sorted(APOLOGIES))
def test_every_language_knows_its_apologies_and_takes_no_task_for_one(lang):
    for text in SORRY[lang]:
        assert manner(dialog("q", text, lang=lang)).apologies >= 1, text
    assert manner(dialog("q", "5+2=7. 7-4=3. 3", lang=lang)).apologies == 0


def test_rewriting_keeps_what_answers_and_gives_up_where_nothing_is_left():
    calm = rewritten(dialog("q", "I'm sorry for that! 2+2=4 😅. I apologise. Answer: 4!!!"))
    assert calm is not None and calm[1].content == "2+2=4 . Answer: 4!"
    assert rewritten(dialog("q", "I'm sorry!")) is None
    assert calmed(dialog("q", "So 4!!! It is 4!!!"), RuleSettings(exclamations=2))
    assert not calmed(dialog("q", "So 4!!! It is 4! Yes! 4! 😅"), RuleSettings(exclamations=3))
    assert rewritten(dialog("I'm sorry!!!", "4")) is None


def test_a_share_of_a_language_may_apologise_the_same_rows_whatever_their_order():
    ids = [f"row {i}" for i in range(300)]
    langs = ["en"] * 200 + ["de"] * 100
    counts = np.array([1] * 50 + [0] * 150 + [2] * 10 + [0] * 90)
    fits = balanced(counts, langs, ids, 0.02)
    assert (fits & (counts > 0))[:200].sum() == 4 and (fits & (counts > 0))[200:].sum() == 2 and fits[counts == 0].all()
    turned = balanced(counts[::-1], langs[::-1], ids[::-1], 0.02)
    assert (turned[::-1] == fits).all()


def truth(*values: bool | None):
    return np.array([value is True for value in values]), np.array([value is not None for value in values])


def test_an_operand_that_says_nothing_of_a_row_is_left_out():
    said = {"a": truth(True, True, True, None), "b": truth(True, False, None, None), "c": truth(None, True, False, None)}
    out = failures("a and (b or c) and not c", said, 4)
    assert list(out) == ["a", "b or c", "not c"]
    assert out["a"].tolist() == [False] * 4
    assert out["b or c"].tolist() == [False, False, True, False]
    assert out["not c"].tolist() == [False, True, False, False]


@given(st.lists(st.tuples(*[st.booleans()] * 3), min_size=1, max_size=8), st.sampled_from([
    "a and b or not c", "not (a or b) and c", "a", "(a or b) and (b or c) and not (a and c)",
]))  # fmt: skip
def test_where_all_is_known_the_expression_is_that_of_python(rows, text):
    columns = {name: truth(*(row[i] for row in rows)) for i, name in enumerate("abc")}
    dropped = np.any(list(failures(text, columns, len(rows)).values()), axis=0)
    assert dropped.tolist() == [not eval(text, dict(zip("abc", row, strict=True))) for row in rows]


@pytest.mark.parametrize("text", ["a +", "a < 1", "f(a)", "__import__('os')", "a and 1", "", "a if b else c"])
def test_anything_but_names_and_logic_is_refused(text):
    with pytest.raises(ValueError, match="keep"):
        names_in(text)


def test_an_unknown_predicate_is_named_with_the_nearest():
    with pytest.raises(InputError, match="no predicate is called 'topik'") as error:
        failures("topik", {"topic": truth(True)}, 1)
    assert "'topic'" in str(error.value.fix)


def test_topics_are_learnt_by_coarse_and_fine_bucket():
    maths = [dialog(f"How many apples are {i} and {i + 3}?", "x", capability="maths/sums") for i in range(30)]
    shapes = [dialog(f"Which angle has a triangle with sides {i}?", "x", capability="maths/geometry") for i in range(30)]
    other = [dialog(f"Buy cheap pills now, offer {i}", "x", capability="other") for i in range(30)]
    model = learn_topics([*maths, *shapes, *other], 0)
    assert model.held == {"n": 18, "fine": 18, "coarse": 18}
    chances = model.chances([dialog("How many pears are 2 and 9?", "y"), dialog("Cheap offer: buy pills", "y")])
    classes = model.linear.classes
    wanted = wanted_chances(chances, classes, ())
    assert wanted[0] > 0.8 and wanted[1] < 0.2
    assert wanted_chances(chances, classes, ("maths",)).tolist() == pytest.approx(wanted.tolist())
    assert wanted_chances(chances, classes, ("maths/geometry",))[0] < 0.2
    assert coarse_of("maths/geometry") == coarse_of("maths") == "maths"
    with pytest.raises(InputError, match="about 'chess'"):
        wanted_chances(chances, classes, ("chess",))
    assert learn_topics(maths, 0) is None


def test_difficulty_is_the_mean_of_what_is_known():
    found = difficulty(np.array([1.0, 8.0, 1.0]), np.array([0.0, 3.0, 2.0]), np.array([np.nan, 0.25, 0.0]))
    assert found.tolist() == pytest.approx([0.0, (1 + 1 + 0.75) / 3, (0 + 0.5 + 1) / 3])


def test_intents_grow_with_requests_tools_turns_and_steps():
    plain = dialog("How many?", "4")
    assert counted_intents(plain) == 1
    assert counted_intents(dialog("How many? Answer in German.", "2+2=4. 4+1=5. 5")) == 4
    assert counted_intents(plain.model_copy(update={"tools": "[]"})) == 2
    assert counted_intents(dialog("", "4")) == 1


def test_pass_rates_are_counted_by_task(tmp_path):
    scores = [("a", 1.0), ("a", 0.0), ("a", 1.0), ("a", 1.0), ("b", 0.0)]
    write_rows(tmp_path / "samples.jsonl", [
        Sample(task_id=task, policy="", temperature=1, seed=i, ids=[], text="", finished=True, scores={"verifier": score})
        for i, (task, score) in enumerate(scores)
    ])  # fmt: skip
    assert pass_rates([finished(tmp_path, "samples", "s")]) == {"a": 0.75, "b": 0.0}


def test_a_held_out_task_is_found_by_its_prompt_and_by_its_eight_grams(tmp_path):
    long = toy_task("how many swallows fly over the long river before the second winter")
    write_rows(tmp_path / "test.jsonl", [long, toy_task("abc")])
    held = held_out(finished(tmp_path, "tasks", "tasks"), ())
    shares = held.shares([
        dialog("ABC", "yes"), dialog("abd", "yes"),
        dialog("Tell me: how many swallows fly over the long river before the second winter, please?", "no"),
        dialog("how many swallows swim", "no"),
    ])  # fmt: skip
    assert shares == [(1.0, "test.jsonl#2"), (0.0, ""), (1.0, "test.jsonl#1"), (0.0, "")]
    assert held_out(None, ()).shares([dialog("abc", "yes")]) == [(0.0, "")]


def test_files_of_dialogs_are_read_and_broken_ones_named(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    assert [d.messages[1].content for d in dialogs(Inputs([]), (), (str(path),))] == ["b"]
    path.write_text('{"nothing": 1}\n')
    with pytest.raises(InputError, match="no dialog"):
        list(dialogs(Inputs([]), (), (str(path),)))
    path.write_text("{broken\n")
    with pytest.raises(InputError, match="not JSON"):
        list(dialogs(Inputs([]), (), (str(path),)))
    with pytest.raises(InputError, match="cannot be read"):
        file_digests([str(tmp_path / "none.jsonl")])
