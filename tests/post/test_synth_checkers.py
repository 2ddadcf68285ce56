"""The checks of single generators, each on cases by hand: languages, numbers, imports, summaries, turns with tools, files."""

from __future__ import annotations

import json
import random
from collections import Counter
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from puna.core.errors import InputError
from puna.post import synthesise
from puna.post.synth import code_translate, function_calls, missing_file, parallel_text, steering, tool_use
from puna.post.synth.demands import DRAWS, draw_demands
from puna.post.synth.imports import defined, dependents
from puna.post.synth.long_documents import Lengths, long_documents, nearest
from puna.post.synth.passages import passages, sentences
from puna.post.synth.replies import fields, most_say, said_yes
from puna.post.synth.same_numbers import fitting_lengths, is_in, keeps_numbers
from puna.post.synth.sources import Document
from puna.post.synth.steps import Accepted, Answer, Ask, Execute, Rejected, user
from puna.post.synth.summaries import invents
from puna.post.synth.templates import load_templates
from puna.post.synth.tool_turns import Setting, converse
from puna.post.tools.failure import ToolFailed
from puna.tokenizer.dialog import Provenance, Task
from puna.verify.constraints import holds
from puna.world.tables import draw_table

DATA = Path(__file__).parents[3] / "shared" / "data"


def said(text, call=None, finished=True):
    return Answer(text, finished, call)


def test_fields_are_read_in_their_form_alone():
    assert fields(said("Well.\nQuestion: Who?\nis it\nAnswer: Ana"), "question", "answer") == ["Who?\nis it", "Ana"]
    assert fields(said("**Question**: Who?\n- ANSWER: Ana"), "question", "answer") is not None
    for text in ("Question: Who?", "Question: Who?\nAnswer:", "Question: a\nQuestion: b\nAnswer: c", "no form"):
        assert fields(said(text), "question", "answer") is None
    assert fields(said("Request: x", finished=False), "request") is None


def test_a_majority_says_yes():
    assert said_yes([said("Yes."), said("**yes**, it is"), said("No")]) and not said_yes([said("Yes"), said("No")])
    assert not said_yes([said("Yesterday")]) and not said_yes([]) and not said_yes([said("Yes")] * 3 + [said("No")] * 2, 0.6)


def test_languages_and_numbers_of_translations():
    german = "Die Lehrerin bat uns gestern, diese Zeilen noch einmal zu schreiben."
    english = "The teacher asked us yesterday to write these lines once again."
    assert is_in("de", german) and is_in("en", english) and not is_in("en", german) and not is_in("hi", english)
    assert is_in("es", "3 + 4 = 7.") is False and is_in("th", "ตอบ 7") and not is_in("es", "Antwort: 7")
    assert keeps_numbers("3 of 1,200", "1200 und 3") and keeps_numbers("तीन ३", "3") and not keeps_numbers("3 3", "3")
    assert fitting_lengths(english, german) and not fitting_lengths(english, "Die") and not fitting_lengths("Die", english)


FILES = {
    "app/tools.py": "SIZE = 3\n\ndef grow(x):\n    return x + SIZE\n",
    "app/__init__.py": "",
    "app/a.py": "from app.tools import grow, SIZE\n",
    "app/b.py": "from .tools import grow as bigger\n",
    "app/c.py": "import app.tools\n\nprint(app.tools.SIZE)\n",
    "app/d.py": "from app import tools\n\nprint(tools.grow(1), tools.SIZE)\n",
    "app/sub/e.py": "from ..tools import SIZE\n",
    "app/f.py": "from app import other\nimport tools\n",
    "app/g.py": "this is no Python",
}


def test_who_imports_what_of_a_file():
    assert dependents(FILES, "app/tools.py") == {
        "app/a.py": {"grow", "SIZE"}, "app/b.py": {"grow"}, "app/c.py": {"", "SIZE"}, "app/d.py": {"", "grow", "SIZE"},
        "app/sub/e.py": {"SIZE"},
    }  # fmt: skip
    assert defined("import os.path\nfrom a import b as c\nx, (y, z) = 1, (2, 3)\nclass K: pass\nw: int = 1") == set("cxyzKw") | {
        "os"
    }
    assert defined("def broken(") == set()


def test_projects_of_a_folder(tmp_path):
    for name, source in FILES.items():
        path = tmp_path / "one" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    settings = missing_file.Settings(folder=str(tmp_path), least_dependents=5, licence="MIT")
    (item,) = missing_file.items(settings, None, random.Random(0))
    assert (item.given.missing, item.licence, item.source) == ("app/tools.py", "MIT", "one") and len(item.given.dependents) == 5
    assert len(missing_file.outside(settings)) == len(FILES)
    with pytest.raises(InputError, match="no project"):
        missing_file.outside(missing_file.Settings(folder=str(tmp_path / "none")))


def test_a_file_that_lacks_a_name_or_prints_otherwise_is_refused():
    item = SimpleNamespace(given=missing_file.Project(FILES, "app/tools.py", dependents(FILES, "app/tools.py")))
    templates, settings = load_templates("missing_file"), missing_file.Settings()

    def end(code, before, after):
        story = missing_file.story(item, settings, templates)
        assert "app/tools.py" in next(story).messages[0].content and FILES["app/tools.py"] not in str(item.given.missing)
        try:
            asked = story.send([said(f"```python\n{code}\n```")])
            assert all(isinstance(one, Execute) for one in asked)
            story.send([SimpleNamespace(returncode=0, stdout=text) for text in before])
            story.send([SimpleNamespace(returncode=0, stdout=text) for text in after])
        except StopIteration as stopped:
            return stopped.value
        raise AssertionError("the story goes on")

    good, same = FILES["app/tools.py"], ["", "", "3\n", "4 3\n", ""]
    assert isinstance(end(good, same, same), Accepted)
    assert end("SIZE = 3", same, same) == Rejected(missing_file.LACKS_NAMES)
    assert end(good, same, ["", "", "4\n", "4 3\n", ""]) == Rejected(missing_file.OTHER_OUTPUT)
    assert end(good, [""] * 5, [""] * 5) == Rejected(missing_file.NOTHING_RUNS)


@pytest.mark.parametrize(
    ("summary", "found"),
    [("Ana has 3 pens.", False), ("Ana has 4 pens.", True), ("There lives Leo.", True), ("Pens are there, says Ana.", False)],
)
def test_what_a_summary_invents(summary, found):
    assert invents(summary, "In the house of Ana there are 3 pens.") is found


def test_capitals_of_german_nouns_invent_nothing():
    assert not invents("Es gibt Häuser.", "ein Haus", "de") and invents("Es gibt 2 Häuser.", "ein Haus", "de")


def test_passages_keep_every_word():
    text = "One. Two three.\n\n" + "word " * 60 + "\nEnd of it."
    cut = passages(text, 100)
    assert " ".join(cut).split() == text.split() and max(map(len, cut)) <= 100 and passages("", 9) == [""]
    assert sentences("One. Two three!\nFour") == ["One.", "Two three!", "Four"]


def test_long_documents_reach_their_buckets():
    rows = [Document(f"d{i}", f"Line {i} of a text.\n" * 20, "s", "MIT", "en", "general") for i in range(40)]
    sources = SimpleNamespace(documents=lambda *groups: iter(rows))
    lengths = Lengths(characters=(1000, 2000), passage=300)
    found = list(long_documents(lengths, 4, sources, random.Random(0)))
    assert [item.given.bucket for item in found] == [1000, 2000, 1000, 2000]
    assert all(item.given.bucket <= len(item.given.text) <= item.given.bucket + 300 for item in found)
    assert not set(found[0].parents) & set(found[1].parents) and len(found[1].given.passages) > 3
    assert list(long_documents(Lengths(characters=(1000,), join=False), 4, sources, random.Random(0))) == []
    assert nearest("red garden", ["blue house", "a garden", "red garden"], 2) == ["red garden", "a garden"]


ADD = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}


def talked(*turns, run=lambda call: str(call[1]["a"] + 1), **settings):
    """What comes of a conversation whose turns are given, each by its samples."""
    story = converse([user("add 1")], run, Setting("x.turn", [ADD], **{"votes": 3, "turns": 3, **settings}))
    step = next(story)
    try:
        for turn in turns:
            assert isinstance(step, Ask) and step.tools and step.samples == len(turn)
            step = story.send(list(turn))
            if isinstance(step, list):
                step = story.send([SimpleNamespace(passed=True, stdout="2\n") for _ in step])
    except StopIteration as stopped:
        return stopped.value
    raise AssertionError("the conversation goes on")


def call(a):
    return said("", json.dumps({"name": "add", "parameters": {"a": a}}))


def test_a_conversation_with_a_tool():
    talk = talked([call(1), call(2), call(1)], [said("It is 2."), said("2"), said("3")])
    assert talk.calls == [("add", {"a": 1})] and talk.outputs == ["2"] and talk.answer == "It is 2."
    assert [m.role for m in talk.messages] == ["user", "assistant", "ipython", "assistant"]
    assert talk.messages[1].tool_calls == '{"name": "add", "parameters": {"a": 1}}' and talk.messages[1].end == "eom"
    run = talked([call(1)] * 3, [said("2")] * 3, run=lambda call: Execute("print(2)"))
    assert run.outputs == ["2"]
    as_text = talked([said('{"name": "add", "parameters": {"a": 1}}')] * 3, [said("2")] * 3)
    assert as_text.calls == [("add", {"a": 1})]


def failing(call):
    raise ToolFailed("no")


@pytest.mark.parametrize(
    ("turns", "reason", "settings"),
    [
        ([[call(1), call(2), call(3)]], "samples disagree", {}),
        ([[said('{"name": "add"', None)] * 3], "call does not parse", {}),
        ([[call("x")] * 3], "call does not fit", {}),
        ([[said("It is 2.")] * 3], "no call", {}),
        ([[said("It is", finished=False)] * 2 + [call(1)]], "unfinished answer", {}),
        ([[call(1)] * 3] * 3, "too many turns", {}),
        ([[call(1)] * 3], "call failed", {"run": failing}),
        ([[call(1)] * 3], "call failed", {"run": lambda call: ""}),
    ],
)
def test_conversations_that_go_wrong(turns, reason, settings):
    assert talked(*turns, **settings) == Rejected(reason)


def test_a_tool_that_is_not_needed():
    assert talked([said("It is 2.")] * 3, needed=False).turns == []


def test_every_demand_is_met_by_some_answer_and_broken_by_another():
    rng = random.Random(0)
    good = {
        "max_words": "Yes.", "min_words": "word " * 30, "lowercase": "small", "uppercase": "LARGE",
        "exclude": "fine", "json": '{"answer": "x"}',
    }  # fmt: skip
    seen = Counter()
    for draws in DRAWS.values():
        for draw in draws:
            demand = draw(rng)
            for name, value in demand.constraint.items():
                shaped = {"bullets": "- a\n" * value if name == "bullets" else "", "begins": f"{value} x",
                          "paragraphs": "\n\n".join(["p"] * value) if name == "paragraphs" else ""}  # fmt: skip
                assert holds(demand.constraint, shaped.get(name) or good.get(name, "")), name
                bad = {"max_words": "word " * 90, "exclude": " ".join(value) if name == "exclude" else ""}
                assert not holds(demand.constraint, bad.get(name) or "Oh no"), name
                seen[name] += 1
    assert set(seen) == {*good, "bullets", "paragraphs", "begins"}
    assert all(
        len({d.kind for d in demands}) == len(demands) <= 2 for demands in (draw_demands(list(DRAWS), 2, rng) for _ in range(20))
    )


def test_a_right_answer_in_any_form():
    provenance = Provenance(source="t", licence="MIT")
    task = Task(
        id="t", prompt=[user("q")], verifier="final_answer", reference={"answer": "8", "lang": "en"}, provenance=provenance
    )
    assert steering.is_right(task, '{"answer": "ANSWER: 8"}') and not steering.is_right(task, "8, no, 9")
    assert steering.is_right(task.model_copy(update={"verifier": ""}), "anything")


@pytest.mark.parametrize(
    ("told", "known", "right"),
    [("5.83", "5.83333333333", True), ("5.8", "5.83333333333", False), ("5.8333", "5.83333333333", True), ("12", "12", True),
     ("12.004", "12", False), ("1.25", "1.25", True), ("1.251", "1.25", False)],
)  # fmt: skip
def test_a_number_agrees_where_it_cannot_be_written_out(told, known, right):
    assert tool_use.agrees(Fraction(told), known) is right


def test_tables_of_a_folder_are_asked_about(tmp_path):
    name, content = draw_table(random.Random(0))
    (tmp_path / name).write_bytes(content)
    settings = tool_use.Settings(files=str(tmp_path), kinds=("lookup", "analysis"), count=6)
    found = list(tool_use.items(settings, None, random.Random(1)))
    assert [item.given.kind for item in found] == ["lookup", "analysis"] * 3 and {item.given.file for item in found} == {name}
    assert len({item.key for item in found}) == 6 and tool_use.outside(settings) == [tmp_path / name]
    (tmp_path / "sub").mkdir()
    with pytest.raises(InputError, match="no csv"):
        tool_use.outside(tool_use.Settings(files=str(tmp_path / "sub")))


def test_functions_of_documents_are_offered_with_their_own():
    document = Document(
        "d",
        'def area(a: int):\n    """Area."""\n    return a\n\ndef edge(b: int):\n    """Edge."""\n    return b',
        "s",
        "MIT",
        "en",
        "c",
    )
    sources = SimpleNamespace(documents=lambda *groups: iter([document]))
    settings = function_calls.Settings(count=5, modules=["calendar"], groups=["c"])
    found = list(function_calls.items(settings, sources, random.Random(3)))
    assert {(item.source, item.licence) for item in found} <= {("s", "MIT"), ("python", "PSF-2.0")} and len(found) == 5
    assert all(set(item.given.needed) <= set(item.given.offered) for item in found)


@pytest.mark.skipif(not (DATA / "parallel_de_en").is_dir(), reason="the real data is not here")
def test_real_parallel_lines_pass_and_shifted_ones_do_not(tmp_path):
    lines = {lang: (DATA / "parallel_de_en" / f"bible.{lang}").read_text().splitlines()[:300] for lang in ("de", "en")}
    paths = {}
    for lang, of in lines.items():
        paths[lang] = str(tmp_path / lang)
        Path(paths[lang]).write_text("\n".join(of) + "\n")
    settings = parallel_text.Settings(files=paths, count=100, judge=False)
    whole = synthesise.Settings.model_validate({"generators": {"parallel_text": settings.model_dump()}})
    before = synthesise.outside(whole)
    templates = load_templates("parallel_text")

    def share(pairs):
        ends = []
        for item in pairs:
            try:
                next(parallel_text.story(item, settings, templates))
            except StopIteration as stopped:
                ends.append(stopped.value)
        return sum(isinstance(end, Accepted) for end in ends) / len(ends)

    assert share(list(parallel_text.items(settings, None, random.Random(0)))) > 0.9
    Path(paths["de"]).write_text("\n".join(lines["en"]) + "\n")
    assert share(list(parallel_text.items(settings, None, random.Random(0)))) == 0
    Path(paths["de"]).write_text("one line\n")
    changed = {key for key, digest in synthesise.outside(whole).items() if before[key] != digest}
    assert len(before) >= 2 and changed == {key for key in before if key.endswith("/de")}
    with pytest.raises(InputError, match="equally many lines"):
        list(parallel_text.items(settings, None, random.Random(0)))
    with pytest.raises(InputError, match="two languages"):
        parallel_text.outside(parallel_text.Settings(files={"de": "x"}))


def test_a_table_of_the_users_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "broken.xlsx").write_bytes(b"no zip")
    settings = tool_use.Settings(files=str(tmp_path), kinds=("lookup",), count=1)
    with pytest.raises(InputError, match="the table cannot be read") as refused:
        list(tool_use.items(settings, None, random.Random(1)))
    assert refused.value.where == str(tmp_path / "broken.xlsx")


@pytest.mark.parametrize(
    ("generator", "field"),
    [(function_calls, "kinds"), (tool_use, "kinds"), (steering, "kinds"), (code_translate, "languages")],
)
def test_a_generator_needs_something_to_choose_from(generator, field):
    with pytest.raises(ValidationError, match="at least 1 item"):
        generator.Settings.model_validate({field: []})


def test_more_than_half_must_say_it():
    assert most_say([said("It is  Red."), said("RED"), said("blue")], "red")
    assert not most_say([said("red"), said("blue")], "red") and not most_say([], "red")
