"""Foreign rows become dialogs with parts, and come back the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.post.formats import UnreadableRow, read_row
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import Dialog, MessageRow, Provenance, Task, row_line
from puna.vision.converters import as_hf, as_llava, to_parts

PROVENANCE = Provenance(source="s", licence="MIT")


def read(row: dict, ask: str = "") -> Dialog:
    (dialog,) = read_row(to_parts(row, ask), "auto", PROVENANCE, media=True).dialogs
    return dialog


def shown(row: dict, ask: str = "") -> list[tuple[str, str, list[tuple[int, str, str]]]]:
    return [(m.role, m.content, [(o.at, o.kind, o.url) for o in m.media]) for m in read(row, ask).messages]


ANSWER = ("assistant", "A cat.", [])


@pytest.mark.parametrize(
    ("row", "first"),
    [
        (  # LLaVA's instruction data
            {"id": "1", "image": "coco/1.jpg", "conversations": [
                {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]},
            ("user", "What is it?", [(0, "image", "coco/1.jpg")]),
        ),
        (
            {"image": "1.jpg", "conversations": [
                {"from": "human", "value": "What is it?\n<image>"}, {"from": "gpt", "value": "A cat."}]},
            ("user", "What is it?", [(11, "image", "1.jpg")]),
        ),
        (  # several pictures, ShareGPT with LLaMA-Factory's lists
            {"images": ["1.jpg", {"path": "2.jpg"}], "messages": [
                {"role": "user", "content": "<image> or\n<image>: which?"}, {"role": "assistant", "content": "A cat."}]},
            ("user", " or\n: which?", [(0, "image", "1.jpg"), (4, "image", "2.jpg")]),
        ),
        (
            {"videos": ["v.mp4"], "images": ["1.jpg"], "messages": [
                {"role": "user", "content": "<video><image>Which?"}, {"role": "assistant", "content": "A cat."}]},
            ("user", "Which?", [(0, "video", "v.mp4"), (0, "image", "1.jpg")]),
        ),
        (  # LLaVA's video data
            {"video": "v.mp4", "conversations": [
                {"from": "human", "value": "<image>\nWhat moves?"}, {"from": "gpt", "value": "A cat."}]},
            ("user", "What moves?", [(0, "video", "v.mp4")]),
        ),
        (  # a picture without a place in the text
            {"image": ["1.jpg", "2.jpg"], "conversations": [
                {"from": "human", "value": "What?"}, {"from": "gpt", "value": "A cat."}]},
            ("user", "What?", [(0, "image", "1.jpg"), (0, "image", "2.jpg")]),
        ),
        (  # Hugging Face
            {"messages": [
                {"role": "user", "content": [{"type": "image", "url": "1.jpg"}, {"type": "text", "text": "What?"},
                                             {"type": "video", "path": "v.mp4"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}]},
            ("user", "What?", [(0, "image", "1.jpg"), (5, "video", "v.mp4")]),
        ),
        (  # TRL
            {"images": ["1.jpg"], "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
                {"role": "assistant", "content": "A cat."}]},
            ("user", "What?", [(0, "image", "1.jpg")]),
        ),
        (  # OpenAI, and its short form
            {"messages": [
                {"role": "user", "content": [{"type": "text", "text": "What?"},
                                             {"type": "image_url", "image_url": {"url": "1.jpg"}},
                                             {"type": "image_url", "image_url": "2.jpg"}]},
                {"role": "assistant", "content": "A cat."}]},
            ("user", "What?", [(5, "image", "1.jpg"), (5, "image", "2.jpg")]),
        ),
        ({"image": "1.jpg", "caption": " A cat. "}, ("user", "", [(0, "image", "1.jpg")])),
    ],
)  # fmt: skip
def test_forms(row, first):
    kept = json.dumps(row)
    assert shown(row) == [first, ANSWER]
    assert json.dumps(row) == kept


def test_pairs_and_questions():
    pair = read({"image_path": "1.jpg", "text": "A cat."}, ask="Describe it.")
    assert pair.messages[0].content == "Describe it." and pair.capability == "caption"
    row = {"image": "1.jpg", "question": "How many?", "answers": [{"answer": "2"}, "two", {"answer": "2"}], "question_id": 7}
    (task,) = read_row(to_parts(row), "auto", PROVENANCE, media=True).tasks
    assert task.prompt == [MessageRow(role="user", content="How many?", media=(Medium(0, "image", "1.jpg"),))]
    assert (task.reference, task.gold, task.verifier, task.family) == (["2", "two", "2"], "2", "exact", "vqa")
    own = json.loads(row_line(task))
    assert read_row(to_parts(own), "auto", PROVENANCE, media=True).tasks == [Task.model_validate(own)] == [task]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"image": "1.jpg", "conversations": [{"from": "human", "value": "<image><image>"}]}, "more places"),
        ({"image": ["1.jpg", "2.jpg"], "conversations": [{"from": "human", "value": "<image>What?"}]}, "2 files .* places for 1"),
        ({"conversations": [{"from": "human", "value": "<image>"}]}, "more places"),
        ({"image": {"bytes": None}, "caption": "x"}, "without a path"),
        ({"image": "1.jpg", "caption": " "}, "without a caption"),
        ({"image": "1.jpg", "question": "What?"}, "without an answer"),
        ({"image": "1.jpg", "messages": "x"}, "no list"),
        ({"image": "1.jpg", "conversations": [{"from": "gpt", "value": "x"}]}, "1 files .* places for 0"),
        ({"text": "x"}, "no known row shape"),
    ],
)
def test_rows_that_do_not_add_up_are_refused(row, why):
    with pytest.raises(UnreadableRow, match=why):
        to_parts(row)


def test_rows_with_pictures_are_refused_where_only_text_is_read():
    row = to_parts({"image": "1.jpg", "caption": "A cat."})
    with pytest.raises(UnreadableRow, match="a content part that is no text"):
        read_row(row, "auto", PROVENANCE)


texts = st.text(alphabet="ab \n<é", max_size=8)
media = st.lists(st.tuples(st.integers(0, 8), st.sampled_from(["image", "video"])), max_size=4)


@st.composite
def messages(draw, role):
    content = draw(texts)
    places = sorted(((min(at, len(content)), kind) for at, kind in draw(media)), key=lambda place: place[0])
    return MessageRow(
        role=role, content=content, media=tuple(Medium(at, kind, f"{kind}{i}.x") for i, (at, kind) in enumerate(places))
    )


@settings(max_examples=400, deadline=None)
@given(asked=st.lists(messages("user"), min_size=1, max_size=2), system=st.booleans(), tail=messages("assistant"))
def test_our_rows_come_back_from_both_forms(asked, system, tail):
    answer = MessageRow(role="assistant", content="A cat.")
    rows = [MessageRow(role="system", content="Be brief.")] * system + [m for user in asked for m in (user, answer)] + [tail]
    dialog = Dialog(id="x", messages=rows, lang="de", capability="c", provenance=PROVENANCE)
    for form in (as_hf, as_llava):
        line = json.loads(json.dumps(form(dialog)))
        assert read(line) == dialog, (form, line)
    assert read(json.loads(row_line(dialog))) == dialog


def test_what_a_form_cannot_say_is_refused():
    answer = MessageRow(role="assistant", content="x")
    for message in (
        MessageRow(role="user", media=(Medium(0, "image", "a", detail="low"),)),
        MessageRow(role="user", media=(Medium(0, "video", "a", frames=3),)),
        MessageRow(role="user", media=(Medium(0, "audio", "a"),)),
        MessageRow(role="assistant", tool_calls="{}"),
        MessageRow(role="assistant", content="x", train=False),
    ):
        dialog = Dialog(id="x", messages=[message, answer], provenance=PROVENANCE)
        for form in (as_hf, as_llava):
            with pytest.raises(ValueError, match=r"a picture or a video with a detail|a message calls a tool"):
                form(dialog)
    tagged = Dialog(id="x", messages=[MessageRow(role="user", content="an <image> tag"), answer], provenance=PROVENANCE)
    with pytest.raises(ValueError, match="has a tag"):
        as_llava(tagged)
    assert as_hf(tagged)["messages"][0]["content"] == "an <image> tag"


SAID = [{"role": "assistant", "content": "A cat."}], [{"role": "assistant", "content": "A dog."}]
ASKED = {"role": "user", "content": "<image>What?"}


@pytest.mark.parametrize(
    "row",
    [
        {"image": "1.jpg", "question": "What?", "chosen": "A cat.", "rejected": "A dog."},
        {"images": ["1.jpg"], "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}],
         "chosen": SAID[0], "rejected": SAID[1]},
        {"images": ["1.jpg"], "chosen": [ASKED, *SAID[0]], "rejected": [ASKED, *SAID[1]]},
    ],
)  # fmt: skip
def test_preferences(row):
    (found,) = read_row(to_parts(row), "auto", PROVENANCE, media=True).preferences
    assert found.context == [MessageRow(role="user", content="What?", media=(Medium(0, "image", "1.jpg"),))]
    assert [candidate.messages[0].content for candidate in found.candidates] == ["A cat.", "A dog."]
    assert found.ranking == [0, 1]
    own = json.loads(row_line(found))
    assert read_row(to_parts(own), "auto", PROVENANCE, media=True).preferences == [found]
