from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from puna.core.errors import InputError
from puna.tokenizer.chat import Medium, Message, render
from puna.tokenizer.dialog import (
    Candidate,
    Dialog,
    MessageRow,
    Preference,
    Provenance,
    Sample,
    Task,
    content_id,
    read_rows,
    write_rows,
)

PROVENANCE = Provenance(source="made", licence="CC0-1.0", round=1, checks={"lang": "pass"})


def rows():
    user, answer = Message("user", "Über 7?\n"), Message("assistant", "", tool_calls='{"name": "f", "parameters": {"x": null}}')
    return [
        Dialog(id="d", messages=[user, answer], tools='[{"name": "f"}]', lang="de", provenance=PROVENANCE),
        Preference(
            id="p",
            context=[user],
            candidates=[Candidate(messages=[answer], origin="m", score=0.5), Candidate(messages=[answer], origin="n")],
            ranking=[1, 0],
            strength="significantly",
            provenance=PROVENANCE,
        ),
        Task(id="t", prompt=[user], verifier="number", reference={"value": 7}, gold="7", split="dev", provenance=PROVENANCE),
        Sample(
            task_id="t",
            policy="abc",
            temperature=1.0,
            seed=3,
            ids=[1, 2],
            text="x\u2028y",
            finished=True,
            scores={"verifier": 1.0},
        ),
    ]


def test_rows_round_trip_byte_equal(tmp_path):
    for row in rows():
        file, again = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
        assert write_rows(file, [row, row]) == 2
        back = list(read_rows(file, type(row)))
        assert back == [row, row]
        write_rows(again, back)
        assert file.read_bytes() == again.read_bytes()


def test_malformed_row_names_file_and_line(tmp_path):
    file = tmp_path / "rows.jsonl"
    good = rows()[2].model_dump_json()
    wrong = json.dumps({**json.loads(good), "verifier": 3})
    unknown = json.dumps({**json.loads(good), "colour": "red"})
    file.write_text(
        "\n".join([good, "", "{broken", wrong, unknown, good, "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")])
    )
    with pytest.raises(InputError, match="malformed Task row") as caught:
        list(read_rows(file, Task))
    assert caught.value.where == f"{file}:3"
    bad = []
    kept = list(read_rows(file, Task, bad=lambda path, line, reason: bad.append((line, reason))))
    assert len(kept) == 2
    assert [line for line, _ in bad] == [3, 4, 5, 7]
    assert bad[1][1].startswith("verifier:")
    assert bad[2][1].startswith("colour:")


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        list(read_rows(tmp_path / "none.jsonl", Task))


def test_ranking_must_name_candidates():
    for ranking in ([0], [0, 0], [0, 2], [-1, 0]):
        with pytest.raises(ValidationError):
            Preference(**{**rows()[1].model_dump(), "ranking": ranking})


def test_content_id_depends_on_content_only():
    assert content_id({"a": 1, "b": "é"}) == content_id({"b": "é", "a": 1})
    assert content_id([Message("user", "x")]) == content_id([MessageRow(role="user", content="x")])
    assert content_id("x") != content_id(["x"])
    assert len(content_id(rows()[0])) == 16


def test_message_rows_render_like_messages(tokenizer):
    dialog = rows()[0]
    assert render(tokenizer, dialog.messages) == render(tokenizer, [row.message() for row in dialog.messages])
    assert dialog.messages[1].end == "eom"


PARTS = [
    {"type": "image_url", "image_url": {"url": "media/a.png", "detail": "low"}},
    {"type": "text", "text": "What "},
    {"type": "video_url", "video_url": {"url": "media/v.png", "num_frames": 16, "start": 0.5, "end": 2}},
    {"type": "audio_url", "audio_url": {"url": "q.flac"}},
    {"type": "text", "text": "happens?"},
]


def test_content_parts_are_text_with_media_in_memory_and_parts_in_files(tmp_path):
    row = MessageRow.model_validate({"role": "user", "content": PARTS})
    assert row.content == "What happens?"
    assert row.media == (
        Medium(0, "image", "media/a.png", detail="low"),
        Medium(5, "video", "media/v.png", frames=16, start=0.5, end=2.0),
        Medium(5, "audio", "q.flac"),
    )
    assert row.message() == Message("user", "What happens?", media=row.media)
    assert MessageRow.model_validate(row.message()) == row
    assert row.model_dump(mode="json") == {"role": "user", "content": PARTS, "tool_calls": None, "end": "eot", "train": None}
    asked = rows()[0].model_copy(update={"messages": [row, MessageRow(role="assistant", content="Nothing.")]})
    write_rows(tmp_path / "a.jsonl", [asked])
    assert list(read_rows(tmp_path / "a.jsonl", Dialog)) == [asked]
    assert json.loads((tmp_path / "a.jsonl").read_text())["messages"][0]["content"] == PARTS
    other = row.model_copy(update={"media": row.media[1:]})
    assert content_id([row]) == content_id([row.message()]) != content_id([other])


def test_text_parts_are_a_text_and_messages_without_media_are_written_as_ever():
    text = MessageRow(role="user", content="ab")
    assert MessageRow.model_validate({"role": "user", "content": [{"type": "text", "text": t} for t in "ab"]}) == text
    assert text.model_dump_json() == '{"role":"user","content":"ab","tool_calls":null,"end":"eot","train":null}'
    only = MessageRow(role="user", media=(Medium(0, "image", "a.png"),))
    assert only.model_dump()["content"] == [{"type": "image_url", "image_url": {"url": "a.png", "detail": "auto"}}]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ([{"type": "image", "url": "a.png"}], r"content\.0: a part has a type"),
        ([{"type": "text", "text": "x"}, {"type": "image_url", "image_url": "a.png"}], r"content\.1: a part has a type"),
        ([{"type": "image_url", "image_url": {"url": "a.png", "size": 3}}], "image_url has no 'size'"),
        ([{"type": "image_url", "image_url": {"url": ""}}], "needs a url"),
        ([{"type": "image_url", "image_url": {"url": "a.png", "detail": "huge"}}], "detail"),
        ([{"type": "video_url", "video_url": {"url": "a.mp4", "num_frames": 0}}], "at least 1"),
        ([{"type": "video_url", "video_url": {"url": "a.mp4", "start": 3, "end": 2}}], "start < end"),
        (["x"], "a part has a type"),
        ([{"type": ["text"], "text": "x"}], r"content\.0: a part has a type"),
    ],
)
def test_bad_parts_say_what_is_wrong(content, what):
    with pytest.raises(ValidationError, match=what):
        MessageRow.model_validate({"role": "user", "content": content})


def test_media_stand_inside_their_content():
    for places in ([3], [-1], [2, 1]):
        with pytest.raises(ValidationError, match="media must stand in order"):
            MessageRow(role="user", content="ab", media=tuple(Medium(at, "image", "a.png") for at in places))
    with pytest.raises(ValidationError, match="not in both"):
        MessageRow.model_validate({"role": "user", "content": PARTS, "media": [{"at": 0, "kind": "image", "url": "a.png"}]})


def test_gold_as_messages():
    task = rows()[2]
    assert task.gold_messages() == [MessageRow(role="assistant", content="7")]
    assert task.model_copy(update={"gold": None}).gold_messages() == []
