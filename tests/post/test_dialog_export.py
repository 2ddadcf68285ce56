"""Rows for other tools and back: equal where the form can say them, listed and counted where it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from post_toys import PROVENANCE, toy_task

from puna.core.errors import InputError
from puna.core.rng import python_stream
from puna.post.collect import Settings
from puna.post.collect import run as collect
from puna.post.export import UnsayableRow, export, said
from puna.post.formats import SHAPES, UnreadableRow, read_row, recognise
from puna.tokenizer.chat import Medium, jinja_template
from puna.tokenizer.dialog import Candidate, Dialog, MessageRow, Preference, Provenance, Sample, Task, content_id, write_rows
from puna.tokenizer.tool_calls import calls_list, calls_text

CALL = '{"name": "add", "parameters": {"a": 7, "b": [1, 2]}}'
TWO_CALLS = CALL + '; {"name": "sub", "parameters": {}}'
TOOLS = '[{"type":"function","function":{"name":"add","parameters":{"type":"object"}}}]'
CHECKED = Provenance(source="s", licence="MIT", teacher="t", round=2, parents=["a"], checks={"verifier": "pass", "n": 1})


def row(role: str, content: str = "", **more: Any) -> MessageRow:
    return MessageRow(role=role, content=content, **more)


def dialog(*messages: MessageRow, **more: Any) -> Dialog:
    rows = list(messages)
    return Dialog(id=content_id(rows), messages=rows, **{"provenance": CHECKED, "lang": "de", "capability": "code", **more})


def preference(*texts: str, ranking: list[int] | None = None, **more: Any) -> Preference:
    candidates = [Candidate(messages=[row("assistant", t)], origin=f"m{i}", score=float(i)) for i, t in enumerate(texts)]
    return Preference(id="p" + "".join(texts)[:9], context=[row("system", "s"), row("user", "q")], candidates=candidates,
                      ranking=ranking or list(range(len(texts))), **{"provenance": CHECKED, **more})  # fmt: skip


PLAIN = dialog(row("user", "Hi"), row("assistant", "Hello"))
TURNS = dialog(row("system", "Be short."), *(m for i in range(40) for m in (row("user", f"q{i}"), row("assistant", f"a{i}"))))
LONG = dialog(row("user", "x" * 100_000), row("assistant", "y" * 100_000))
SOME_EMPTY = dialog(row("user", "a"), row("assistant", ""), row("user", "b"), row("assistant", "c"))
TOOL = dialog(
    row("user", "sum"), row("assistant", "", tool_calls=CALL), row("ipython", "[7]"), row("assistant", "7"), tools=TOOLS
)
EVERY = {"plain": PLAIN, "turns": TURNS, "long": LONG, "empty": SOME_EMPTY, "tool": TOOL,
         "two calls": dialog(row("user", "q"), row("assistant", "", tool_calls=TWO_CALLS)),
         "code": dialog(row("user", "q"), row("assistant", "", tool_calls='search.call(query="x")')),
         "spaced call": dialog(row("user", "q"), row("assistant", "", tool_calls=CALL.replace(": 7", ":7"))),
         "text and call": dialog(row("user", "q"), row("assistant", "wait", tool_calls=CALL)),
         "untrained": dialog(row("user", "q"), row("assistant", "a", train=False), row("user", "r"), row("assistant", "b")),
         "open turn": dialog(row("user", "q"), row("assistant", "a", end="eom"), row("ipython", "r"), row("assistant", "b")),
         "space": dialog(row("user", " q\n"), row("assistant", "\n a ")),
         "two users": dialog(row("user", "a"), row("user", "b"), row("assistant", "c")),
         "signs": dialog(row("user", "<|eot_id|> \u2028 \x00 \ud7ff 😀"), row("assistant", "### Response:\n"))}  # fmt: skip
CANNOT = {
    "hf": {},
    "sharegpt": {"text and call": "both a text and a call", "untrained": "trained on", "open turn": "leaves the turn open",
                 "spaced call": "would be lost"},
    "alpaca": {"tool": "question and answer in turn", "two calls": "calls a tool", "code": "calls a tool", "empty": None,
               "spaced call": "calls a tool", "text and call": "calls a tool", "untrained": "trained on",
               "open turn": "question and answer", "space": "would be lost", "two users": "question and answer",
               "signs": "would be lost"},
}  # fmt: skip


@pytest.mark.parametrize("form", ["hf", "sharegpt", "alpaca"])
@pytest.mark.parametrize("name", EVERY)
def test_a_dialog_comes_back_or_the_form_says_why_not(form, name):
    reason = CANNOT[form].get(name)
    if reason:
        with pytest.raises(UnsayableRow, match=reason):
            said(EVERY[name], form)
        return
    (line,) = said(EVERY[name], form)
    assert read_row(json.loads(line), "auto", PROVENANCE).dialogs == [EVERY[name]]


@pytest.mark.parametrize("form", ["hf", "sharegpt", "alpaca"])
def test_random_dialogs_come_back(form):
    draw, written = python_stream(5, "export", form), 0
    for _ in range(200):
        messages = [row("system", "s")] if draw.random() < 0.3 else []
        for _ in range(draw.randint(1, 4)):
            text = "".join(draw.choices("ab\n \t{}\"'\\é漢<|>", k=draw.randint(0, 30)))
            messages += [row("user", text), row("assistant", text[::-1] + "z", tool_calls=draw.choice([None, None, CALL]))]
        one = dialog(*messages)
        try:
            (line,) = said(one, form)
        except UnsayableRow:
            assert form != "hf"
            continue
        assert read_row(json.loads(line), "auto", PROVENANCE).dialogs == [one]
        written += 1
    assert written > (20 if form == "alpaca" else 60)


def test_hf_rows_are_what_chat_templates_read():
    jinja2 = pytest.importorskip("jinja2")
    made = json.loads(said(TOOL, "hf")[0])
    assert made["messages"][1]["tool_calls"] == [
        {"type": "function", "function": {"name": "add", "arguments": '{"a": 7, "b": [1, 2]}'}}
    ]
    assert [m["role"] for m in made["messages"]] == ["user", "assistant", "tool", "assistant"]
    template = jinja2.Environment().from_string(jinja_template(piece_break=""))
    assert f"<|python_tag|>{CALL}<|eom_id|>" in template.render(messages=made["messages"], tools=json.loads(made["tools"]))


def test_sharegpt_writes_calls_as_llama_factory_does():
    turns = json.loads(said(TOOL, "sharegpt")[0])["conversations"]
    assert [turn["from"] for turn in turns] == ["human", "function_call", "observation", "gpt"]
    assert json.loads(turns[1]["value"]) == {"name": "add", "arguments": {"a": 7, "b": [1, 2]}}


def canonical(one: Preference) -> Preference:
    return one.model_copy(update={"candidates": [one.candidates[i] for i in one.ranking], "ranking": [0, 1]})


@pytest.mark.parametrize("ranking", [[0, 1], [1, 0]])
def test_a_preference_comes_back(ranking):
    for texts in (("good", "bad"), ("", "x" * 100_000), (" a\n", "a")):
        one = preference(*texts, ranking=ranking, strength="slightly", kind="human", tools=TOOLS)
        (line,) = said(one, "trl")
        assert read_row(json.loads(line), "auto", PROVENANCE).preferences == [canonical(one)]
        assert list(json.loads(line))[:3] == ["prompt", "chosen", "rejected"]


def test_a_ranking_of_three_is_written_as_its_pairs():
    three = preference("chosen", "rejected", "edited", ranking=[2, 0, 1])
    back = [read_row(json.loads(line), "auto", PROVENANCE).preferences[0] for line in said(three, "trl")]
    assert [[c.messages[0].content for c in one.candidates] for one in back] == [
        ["edited", "chosen"], ["edited", "rejected"], ["chosen", "rejected"]]  # fmt: skip
    assert len({one.id for one in back}) == 3 and all(one.provenance == CHECKED for one in back)


def test_a_file_is_written_whole_and_what_is_left_out_is_listed(tmp_path):
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    write_rows(source, [PLAIN, TOOL, SOME_EMPTY])
    source.write_text(source.read_text() + "broken\n" + json.dumps({"foo": 1}) + "\n")
    report = export(source, out, "alpaca")
    assert [json.loads(line)["id"] for line in out.open()] == [PLAIN.id, SOME_EMPTY.id]
    listed = [json.loads(line) for line in (tmp_path / "out.jsonl.left_out.jsonl").open()]
    assert [entry["line"] for entry in listed] == [2, 5, 4] and sum(report.left_out.values()) == 3
    assert report.summary()["written"] == 2
    write_rows(source, [preference("a", "b"), preference("a", "b", "c"), preference("a", "b", "c", ranking=[1, 0])])
    report = export(source, out, "trl")
    assert (report.written, report.as_pairs, report.unranked) == (5, 1, 1)
    assert not (tmp_path / "out.jsonl.left_out.jsonl").exists()
    with pytest.raises(InputError, match="nothing could be written as hf: it is a preference"):
        export(source, tmp_path / "none.jsonl", "hf")
    assert not (tmp_path / "none.jsonl").exists()
    with pytest.raises(InputError, match="no form 'xml'"):
        export(source, out, "xml")


def test_reasons_are_counted_by_kind_and_the_first_few_are_shown(tmp_path):
    """A thousand rows with a fault of their own each are one kind; the list beside the output keeps every reason."""
    wrong = [json.dumps({"question": f"q{i}", "answer": f"#### {i} figs"}) for i in range(1000)]
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    write_rows(source, [PLAIN, TOOL])
    source.write_text(source.read_text() + "\n".join([*wrong, *("{" * n for n in range(1, 9))]) + "\n")
    report = export(source, out, "alpaca")
    kinds = dict(report.left_out.most_common())
    assert len(kinds) <= 4 and max(kinds.values()) == 1000 and sum(kinds.values()) == 1009
    assert len((tmp_path / "out.jsonl.left_out.jsonl").read_text().splitlines()) == 1009


def test_artifacts_and_samples(tmp_path):
    tasks, samples = tmp_path / "tasks", tmp_path / "samples"
    tasks.mkdir(), samples.mkdir()
    task = toy_task("abc")
    write_rows(tasks / "train.jsonl", [PLAIN])
    write_rows(tasks / "preferences.jsonl", [preference("a", "b")])
    write_rows(tasks / "prompts.jsonl", [task])
    given = {"task_id": task.id, "policy": "pp", "temperature": 0.5, "seed": 3, "ids": [1], "scores": {"verifier": 1.0}}
    write_rows(
        samples / "samples.jsonl", [Sample(**given, text="yes", finished=True), Sample(**given, text="cu", finished=False)]
    )
    write_rows(samples / "accepted.jsonl", [TOOL])
    assert export(tasks, tmp_path / "a.jsonl", "hf").written == export(samples, tmp_path / "b.jsonl", "hf").written == 1
    assert export(tasks, tmp_path / "c.jsonl", "trl").written == 1
    report = export(samples / "samples.jsonl", tmp_path / "d.jsonl", "hf", prompts=tasks)
    assert dict(report.left_out) == {"sample row: the model did not end it": 1}
    (back,) = read_row(json.loads((tmp_path / "d.jsonl").read_text()), "auto", PROVENANCE).dialogs
    assert [m.content for m in back.messages] == ["abc", "yes"]
    assert (back.provenance.teacher, back.provenance.checks["verifier"]) == ("pp", 1.0)


def test_collecting_an_export_gives_the_rows_again(tmp_path):
    from puna.core.stage import local_context

    source = tmp_path / "rows.jsonl"
    write_rows(source, list(EVERY.values()))
    export(source, tmp_path / "out.jsonl", "hf")
    ctx = local_context(tmp_path / "tasks", name="tasks")
    summary = collect(Settings(sources=[str(tmp_path / "out.jsonl")]), ctx)
    found = [Dialog.model_validate_json(line) for name in ("train", "held") for line in (ctx.out / f"{name}.jsonl").open()]
    assert summary["bad_rows"] == 0
    assert sorted(found, key=lambda d: d.id) == sorted(EVERY.values(), key=lambda d: d.id)


# ---- shapes of others ------------------------------------------------------------------------------------------------


def texts(one: Preference) -> list[Any]:
    return [[m.content for m in one.context], *([m.content for m in c.messages] for c in one.candidates)]


USER, GOOD, BAD = ({"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "good"), ("assistant", "bad")))


@pytest.mark.parametrize(
    "given",
    [{"prompt": "q", "chosen": "good", "rejected": "bad"}, {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
     {"chosen": [USER, GOOD], "rejected": [USER, BAD]}, {"prompt": "q", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
     {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
     {"prompt": "q", "chosen": {"role": "assistant", "content": "good"}, "rejected": {"from": "gpt", "value": "bad"}},
     {"question": "q", "chosen": "good", "rejected": "bad"}],
)  # fmt: skip
def test_pairs_of_every_spelling(given):
    (one,) = read_row(given, "auto", PROVENANCE).preferences
    assert texts(one) == [["q"], ["good"], ["bad"]]
    (steered,) = read_row({**given, "system": "s"}, "auto", PROVENANCE).preferences
    assert texts(steered) == [["s", "q"], ["good"], ["bad"]]
    assert (one.ranking, one.strength, one.kind, one.provenance) == ([0, 1], "better", "pairs", PROVENANCE)


@pytest.mark.parametrize(
    "given",
    [{"prompt": "q", "chosen": "a", "rejected": "a"}, {"chosen": "a", "rejected": "b"},
     {"system": "s", "chosen": "a", "rejected": "b"},
     {"chosen": [USER], "rejected": [USER, BAD]}, {"prompt": "q", "chosen": 3, "rejected": "b"},
     {"prompt": "q", "chosen": "a", "rejected": "b", "tools": "{"}, {"messages": [USER, GOOD], "tools": [1]},
     {"messages": [USER, {"role": "assistant", "content": [{"type": "image_url"}]}]},
     {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {}}]}]},
     {"messages": [USER | {"tool_calls": CALL}, GOOD]}],
)  # fmt: skip
def test_rows_without_a_meaning_say_why(given):
    with pytest.raises(UnreadableRow):
        read_row(given, "auto", PROVENANCE)


def test_dialogs_as_openai_trl_and_llama_factory_write_them():
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 7, "b": [1, 2]}'}}
    parts = [{"type": "text", "text": "s"}, {"type": "text", "text": "um"}]
    openai = {"messages": [{"role": "developer", "content": "d"}, {"role": "user", "content": parts},
                           {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "8"},
                           {"role": "assistant", "content": "x", "weight": 0}], "tools": json.loads(TOOLS)}  # fmt: skip
    (one,) = read_row(openai, "auto", PROVENANCE).dialogs
    assert [m.role for m in one.messages] == ["system", "user", "assistant", "ipython", "assistant"]
    assert (one.messages[1].content, one.messages[2].tool_calls, one.messages[4].train) == ("sum", CALL, False)
    assert json.loads(one.tools) == json.loads(TOOLS)
    trl = read_row({"prompt": [USER], "completion": [GOOD]}, "auto", PROVENANCE).dialogs[0]
    plain = read_row({"prompt": "q", "completion": "good"}, "auto", PROVENANCE).dialogs[0]
    assert trl.messages == plain.messages == [row("user", "q"), row("assistant", "good")]
    alpaca = {"instruction": "q", "input": "", "output": "good", "system": "s", "history": [["a", "b"]]}
    assert [m.content for m in read_row(alpaca, "auto", PROVENANCE).dialogs[0].messages] == ["s", "a", "b", "q", "good"]
    shared = {"system": "s", "conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": json.dumps(
        {"name": "add", "arguments": {"a": 7, "b": [1, 2]}})}]}  # fmt: skip
    (found,) = read_row(shared, "auto", PROVENANCE).dialogs
    assert [m.role for m in found.messages] == ["system", "user", "assistant"] and found.messages[2].tool_calls == CALL


def test_a_row_keeps_its_own_provenance_and_others_get_the_sources():
    assert read_row(PLAIN.model_dump(), "auto", PROVENANCE).dialogs == [PLAIN]
    foreign = {"id": "theirs", "messages": [USER, GOOD]}
    for row in (foreign, {**foreign, "provenance": "a forum"}):
        (one,) = read_row(row, "auto", PROVENANCE).dialogs
        assert one.provenance == PROVENANCE and one.id == content_id(one.messages)
    assert set(SHAPES) >= {recognise(r) for r in (foreign, {"chosen": 1, "rejected": 2}, Task.model_dump(toy_task("abc")))}


@pytest.mark.parametrize("text", [CALL, TWO_CALLS, '{"name": "é\\"", "parameters": {"x": " ;  "}}'])
def test_calls_as_a_list_and_back(text):
    calls = calls_list(text)
    if text.startswith('{"name": "é'):
        assert calls[0]["function"]["name"] == 'é"'
    assert calls_text(calls) == text


@pytest.mark.parametrize(
    "text", ["", "f()", "[1]", "{}", '{"name": "a"}', CALL + " ", CALL + ";" + CALL, '{"name": 3, "parameters": {}}']
)
def test_other_texts_are_no_calls(text):
    assert calls_list(text) is None


DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared real data does not lie beside the project")
@pytest.mark.parametrize("form", ["hf", "sharegpt", "alpaca", "trl"])
def test_real_rows(tmp_path, form):
    source = DATA / ("oasst_trees/en_60_tree.jsonl" if form == "trl" else "instr_mix/dolly_hhrlhf_train_small.jsonl")
    report = export(source, tmp_path / "out.jsonl", form)
    assert report.written > 50


@pytest.mark.parametrize("form", ["hf", "sharegpt", "alpaca"])
def test_pictures_are_not_lost_in_silence(form):
    shown = row("user", "Which?", media=(Medium(0, "image", "a.png"),))
    with pytest.raises(UnsayableRow, match="would be lost"):
        said(dialog(shown, row("assistant", "The old one.")), form)
