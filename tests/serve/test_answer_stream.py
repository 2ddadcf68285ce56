from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import byte_tokenizer

from puna.serve.answer import AnswerStream

TOKENIZER = byte_tokenizer()


def feed(data: bytes, stops=(), **options) -> tuple[AnswerStream, list[str]]:
    stream = AnswerStream(TOKENIZER, stops, **options)
    shown = [stream.push(byte) for byte in data]
    return stream, [*shown, stream.finish()]


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=30), st.lists(st.sampled_from(["a", "ab", "aab", "é", "\n\n", "ba"]), max_size=3))
def test_pieces_join_to_the_text_before_the_first_stop(data, stops):
    for text in (data, bytes(b"ab\n\xc3\xa9"[b % 5] for b in data)):
        whole = text.decode("utf-8", errors="replace")
        ends = [whole.find(stop) for stop in stops if stop in whole]
        # Several stop strings may end at once or overlap; the one that is complete first wins, then the leftmost.
        complete = [(whole.find(stop) + len(stop), whole.find(stop)) for stop in stops if stop in whole]
        stream, shown = feed(text, stops)
        assert "".join(shown) == stream.text
        assert stream.stopped == bool(ends)
        if not ends:
            assert stream.text == whole
        else:
            first = min(end for end, _ in complete)
            assert stream.text == whole[: min(start for end, start in complete if end == first)]


def test_incomplete_characters_are_held_back():
    stream = AnswerStream(TOKENIZER)
    assert [stream.push(byte) for byte in "a😀".encode()] == ["a", "", "", "", "😀"]
    assert stream.push(0xE2) == ""
    assert stream.finish() == "\ufffd"


def test_python_tag_opens_a_call():
    stream = AnswerStream(TOKENIZER, ["x"])
    shown = [stream.push(i) for i in [*b"see", TOKENIZER.python_tag_id, *b'{"x": 1}']]
    assert "".join(shown) + stream.finish() == "see"
    assert stream.call == '{"x": 1}'
    assert not stream.stopped


def test_other_special_tokens_show_nothing():
    stream = AnswerStream(TOKENIZER, calls=False)
    assert "".join(stream.push(i) for i in [97, TOKENIZER.pad_id, TOKENIZER.python_tag_id, 98]) == "ab"
    assert stream.call is None
