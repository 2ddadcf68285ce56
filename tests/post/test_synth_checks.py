"""The checkers of generators by themselves: code in answers, functions that stand alone, calls, steps, scores, snippets."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from synth_toys import Scripted, TrustedBox, documents

from puna.core.errors import InputError
from puna.core.stage import local_context
from puna.post.synth import code_translate
from puna.post.synth.code_backtranslate import literal_calls, with_calls
from puna.post.synth.code_text import asserts, blocks, code_in, defines, entry_point
from puna.post.synth.drive import drive
from puna.post.synth.functions import standing_alone
from puna.post.synth.instructions import leans
from puna.post.synth.judging import mean_score
from puna.post.synth.maths import final_of, steps_hold
from puna.post.synth.maths_selfcheck import agreement, verdict
from puna.post.synth.maths_verified import distinct
from puna.post.synth.snippets import Snippets, cut, snippets
from puna.post.synth.sources import Sources
from puna.post.synth.steps import Accepted, Answer, Execute, Item, Rejected
from puna.post.synth.templates import load_templates


def test_code_is_read_out_of_blocks():
    text = "First\n```python\nx = 1\n```\nthen\n```java\nint x;\n```\n```\nplain\n```"
    assert blocks(text) == [("python", "x = 1\n"), ("java", "int x;\n"), ("", "plain\n")]
    assert (code_in(text), code_in(text, "java"), code_in("x = 2"), code_in("```java\n;\n```")) == (
        "x = 1\n",
        "int x;\n",
        "x = 2",
        "",
    )
    assert entry_point("```python\ndef f(x):\n``` and def f(y)") == "f" and entry_point("def f(x): def g(x):") is None
    assert defines("def f(x):\n    return x", "f") and not defines("def f(x) return", "f") and not defines("f = 1", "f")


def test_only_different_asserts_of_the_function_count():
    lines = ["assert f(1) == 1", "assert f(1)  ==  1", "assert g(1)", "for x in range(2):", "    assert f(x) == x",
             "def test():", "    assert all(f(n) == n for n in range(3))"]  # fmt: skip
    text = "```python\n" + "\n".join(lines) + "\n```"
    assert asserts(text, "f") == ("assert f(1) == 1", "assert all((f(n) == n for n in range(3)))")
    assert asserts("```python\nassert (\n```", "f") == ()


def test_functions_that_need_nothing_else_are_taken_with_their_imports():
    text = (
        "import math\nimport numpy\nLIMIT = 3\n\ndef area(r):\n    return math.pi * r\n\ndef over(x):\n    return x > LIMIT\n\n"
        "def silent(x):\n    print(x)\n\ndef bare():\n    return 1\n\ndef mean(xs):\n    return numpy.mean(xs)\n\n"
        "def safe(x):\n    try:\n        return int(x)\n    except ValueError as error:\n        return str(error)\n"
    )
    assert standing_alone(text) == [
        "import math\n\n\ndef area(r):\n    return math.pi * r",
        "def safe(x):\n    try:\n        return int(x)\n    except ValueError as error:\n        return str(error)",
    ]
    assert standing_alone("this is no code") == []


def test_calls_have_literal_arguments_alone_and_errors_are_results():
    assert literal_calls("```python\nf(1)\nf([2], k='a')\nf(g(1))\ng(2)\nf()\nopen('x')\n```", "f") == ["f(1)", "f([2], k='a')"]
    (came,) = TrustedBox().outcomes([Execute(with_calls("def f(x):\n    return 1 / x", ["f(2)", "f(0)"]))])
    assert came.stdout.splitlines() == ["0.5", "ZeroDivisionError"]


@pytest.mark.parametrize(
    ("text", "true", "given"),
    [
        ("2+5=7. 7-4=3.", True, True),
        ("2+5=8. 8-4=4.", False, False),
        ("2+5=7. 7-3=4.", True, False),  # nobody named a 3
        ("5*2=10. 10/100=0.1", True, True),
        ("So it is 3.", True, True),
    ],
)
def test_steps_hold_when_they_are_true_and_use_what_was_given(text, true, given):
    problem = "Lia has 2 pens, buys 5 and gives 4."
    assert (steps_hold(problem, text), steps_hold(problem, text, only_given=True)) == (true, given)


def test_equal_answers_are_equal_and_ties_are_no_agreement():
    assert (
        final_of("1+2=3. Answer: 3") == final_of("#### 3.0") == str(Fraction(3)) and final_of("Antwort: Das Haus") == "das haus"
    )
    three, four = Answer("Answer: 3", True), Answer("Answer: 4", True)
    assert agreement([three, four, three]) == [three, three] and agreement([three, four]) == []
    assert agreement([three, Answer("Answer: 3", False)]) == [three]
    assert (verdict("Verdict: right"), verdict("verdict - WRONG."), verdict("Verdict: right. Verdict: wrong")) == (
        "right",
        "wrong",
        None,
    )


def test_a_reasoning_that_came_once_is_kept_only_if_it_is_the_commonest():
    one, same, other = "1+2=3. Answer: 3", "So 1+2=3, Answer: 3", "2+1=3. Answer: 3"
    assert distinct([other, one, same], 2) == [one] and distinct([other, one, same], 1) == [one, other]
    assert distinct([other, one], 2) == [other] and distinct([one, other, other, same], 2) == [one, other]


def test_scores_that_are_none_count_as_one():
    said = ["Score: 5", "score 4", "Score: 3/5", "five", "Score: 2 or Score: 4"]
    assert [mean_score([Answer(text, True)]) for text in said] == [5, 4, 1, 1, 1]
    assert mean_score([Answer("Score: 5", True), Answer("Score: 4", True)]) == 4.5


def test_an_instruction_that_speaks_of_the_text_leans_on_it():
    assert leans("What does the passage say?") and leans("According to this text: who?") and leans("Sum up the above paragraph.")
    assert not leans("Write a text about rain.") and not leans("How do I center a paragraph?")


def test_snippets_are_whole_lines_of_different_documents(tmp_path):
    texts = ["\n".join(f"line {n} of document {i}" for n in range(40)) for i in range(9)] + ["short", " \n" * 100]
    sources = Sources(local_context(tmp_path / "out", inputs=[documents(tmp_path / "in", texts)]))
    found = list(snippets(Snippets(most_chars=200), 5, sources, random.Random(1)))
    assert len(found) == 5 == len({item.key for item in found}) and [item.key for item in found] == sorted(i.key for i in found)
    for item in found:
        lines = item.given.splitlines()
        assert 80 <= len(item.given) <= 200 and set(lines) <= set(texts[int(item.key[1:])].splitlines())
    assert len(cut("x" * 5000, Snippets(), random.Random(1))) == 1200
    with pytest.raises(InputError, match="draws from tasks, and the inputs are documents"):
        next(sources.tasks())


def test_inputs_with_different_outputs_come_first():
    outputs = {"1": ["a"], "2": ["a"], "3": ["b"], "4": ["a"], "5": ["c"]}
    assert [text for text, _ in code_translate.telling(outputs)] == ["1", "3", "5", "2", "4"]


def program(language, outputs):
    """A stand-in for a translation: TrustedBox runs Python alone, so the "translation" is Python too."""
    told = {
        "program": lambda slots, n: "```python\nprint(int(input()) + 1)\n```",
        "inputs": lambda slots, n: "\n".join(f"```input\n{i + 6 * n}\n```" for i in range(4)) + "\n```input\nbad\n```",
        "translate": lambda slots, n: f"```{language}\n{outputs}\n```",
    }
    return Scripted({f"code_translate.{name}": answer for name, answer in told.items()})


class NumberBox(TrustedBox):
    """Adds one to what stands on standard input, or two where the program says so; fails on what is no number."""

    def _run(self, one):
        passed = one.stdin.strip().isdigit() and "fail" not in one.code
        came = super()._run(Execute("pass" if passed else "1/0"))
        came.stdout = str(int(one.stdin) + (2 if "+ 2" in one.code else 1)) if passed else ""
        return came


@pytest.mark.parametrize(
    ("code", "end"), [("x + 1", Accepted), ("x + 2", "other output"), ("fail", "does not run"), ("", "no translation")]
)
def test_a_translation_must_print_what_the_program_prints(code, end):
    settings = code_translate.Settings()
    item = Item("k", "toy", "CC0-1.0", ("def f(x):\n    return x + 1", "javascript"))
    story = code_translate.story(item, settings, load_templates("code_translate"))
    (ran,) = drive([("code_translate", item, story)], {"teacher": program("javascript", code)}, NumberBox(), 1)
    if end is Accepted:
        assert isinstance(ran.end, Accepted) and ran.end.checks == {"inputs": 8, "language": "javascript"}
    else:
        assert ran.end == Rejected(end)
