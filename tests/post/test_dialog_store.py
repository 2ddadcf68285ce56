"""Dialogs that stream into fine-tuning: the same batches as from lists, flat memory, restarts, and nothing lost in silence."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from post_toys import PROVENANCE, base_artifact, finished, run_stage, tasks_artifact, toy_tokenizer

from puna.core.errors import InputError
from puna.core.rng import python_stream
from puna.core.stage import Artifact, StageContext, local_context
from puna.post import dialog_store, sft
from puna.post.dialog_store import DialogStore, Mixed
from puna.post.examples import encode_dialog, encode_dialogs, row_length
from puna.tokenizer.dialog import Dialog, MessageRow, read_rows, write_rows
from puna.train.packing import Batch, dialog_batches

TOKENIZER = toy_tokenizer()
LIMIT = 512


def dialog(i: int, length: int = 0, answer: str | None = None) -> Dialog:
    draw = python_stream(3, "dialog", i)
    said = "".join(draw.choices("abcdefgh ", k=length or draw.randint(5, 150)))
    answer = said[::-1] if answer is None else answer
    messages = [MessageRow(role="user", content=said), MessageRow(role="assistant", content=answer)]
    return Dialog(id=str(i), messages=messages, provenance=PROVENANCE)


SILENT = Dialog(id="silent", messages=[MessageRow(role="user", content="only a question")], provenance=PROVENANCE)


def tasks(directory: Path, dialogs: list[Dialog]) -> Artifact:
    directory.mkdir(parents=True, exist_ok=True)
    write_rows(directory / "train.jsonl", dialogs)
    return finished(directory, "tasks", "tasks")


def samples(directory: Path, dialogs: list[Dialog]) -> Artifact:
    directory.mkdir(parents=True)
    write_rows(directory / "accepted.jsonl", dialogs)
    return finished(directory, "samples", "samples")


def context(root: Path, *inputs: Artifact) -> StageContext:
    ctx = local_context(root, name="chat", inputs=inputs, seed=7)
    ctx.notes = []
    ctx.report = lambda event: ctx.notes.append(event.get("text"))
    return ctx


def pool(ctx: StageContext, settings: sft.Settings, limit: int = LIMIT) -> sft.Pool:
    found = ctx.inputs.one("tasks")
    return sft.Pool(settings, ctx, TOKENIZER, limit, found, found)


def same(a: list[Batch], b: list[Batch]) -> bool:
    names = ("ids_BT", "targets_BT", "positions_BT", "documents_BT")
    return len(a) == len(b) and all(torch.equal(getattr(x, n), getattr(y, n)) for x, y in zip(a, b, strict=True) for n in names)


def from_lists(dialogs: list[list[Dialog]], copies: list[int], batch_tokens: int, seed: int):
    """The batches of lists of examples encoded beforehand."""
    examples = []
    for rows, times in zip(dialogs, copies, strict=True):
        examples += [(e.ids, e.loss_mask) for e in encode_dialogs(TOKENIZER, rows, LIMIT)[0]] * times
    length = row_length(max(len(ids) for ids, _ in examples), LIMIT)
    return dialog_batches(examples, length, batch_tokens, seed)


def test_small_inputs_give_the_batches_of_lists(tmp_path):
    gold = [dialog(i) for i in range(30)] + [dialog(99, 600), SILENT]
    accepted = [dialog(i) for i in range(100, 120)]
    settings = sft.Settings(mix={"gold": 2, "samples": 1}, batch_tokens=2048)
    ctx = context(tmp_path / "a", tasks(tmp_path / "t", gold), samples(tmp_path / "s", accepted))
    found = pool(ctx, settings)
    batches = found.batches(settings, ctx)
    expected = from_lists([gold, accepted], [2, 1], 2048, sft.batch_seed(settings, ctx))
    assert all(same(batches(step), expected(step)) for step in (0, 1, 2, 9))
    assert found.summary() == {"dialogs": {"gold": 30, "samples": 20}, "overlong": 1}
    assert ctx.notes == [f"gold: 1 of 32 rows are longer than {LIMIT} tokens and 1 have nothing to learn: left out"]
    kept = [e for rows in (gold, gold, accepted) for e in encode_dialogs(TOKENIZER, rows, LIMIT)[0]]
    assert found.examples.tokens() == sum(len(e.ids) for e in kept)


def test_streamed_rows_give_the_same_batches_where_nothing_is_left_out(tmp_path, monkeypatch):
    gold, settings = [dialog(i) for i in range(80)], sft.Settings(batch_tokens=1024)
    monkeypatch.setattr(sft, "STREAMED_BYTES", 0)
    monkeypatch.setattr(sft, "LARGEST", 2)
    monkeypatch.setattr(sft, "EVENLY", 4)
    ctx = context(tmp_path / "a", tasks(tmp_path / "t", gold))
    found = pool(ctx, settings)
    assert found.summary()["dialogs_read"] <= 6
    batches, expected = found.batches(settings, ctx), from_lists([gold], [1], 1024, sft.batch_seed(settings, ctx))
    assert batches.length == expected.length
    first = batches(0)
    assert found.summary()["dialogs_read"] < 40
    assert same(first, expected(0)) and all(same(batches(step), expected(step)) for step in (3, 40))
    assert found.summary() == {"dialogs": {"gold": 80, "samples": 0}, "overlong": 0, "dialogs_read": 80}


def test_streaming_reads_every_dialog_whole_and_counts_what_it_leaves_out(tmp_path, monkeypatch):
    gold = [dialog(i) for i in range(40)] + [dialog(99, 600), SILENT]
    monkeypatch.setattr(sft, "STREAMED_BYTES", 0)
    settings = sft.Settings(batch_tokens=LIMIT)
    ctx = context(tmp_path / "a", tasks(tmp_path / "t", gold))
    found = pool(ctx, settings)
    batches, seen = found.batches(settings, ctx), Counter()
    for step in range(60):
        for batch in batches(step):
            for document in range(int(batch.documents_BT.max()) + 1):
                seen[tuple(batch.ids_BT[batch.documents_BT == document].tolist())] += 1
    kept, left = encode_dialogs(TOKENIZER, gold, LIMIT)
    assert set(seen) == {tuple(e.ids) for e in kept} and max(seen.values()) - min(seen.values()) <= 1
    assert found.summary()["overlong"] == left.overlong == 1 and found.summary()["dialogs"]["gold"] == 40
    found.note_left(ctx)
    assert "1 of 42 rows are longer" in ctx.notes[-1] and "1 have nothing to learn" in ctx.notes[-1]


def test_a_stage_streams_and_reports(tmp_path, monkeypatch):
    base, made = base_artifact(tmp_path / "base", max_seq_len=LIMIT), tasks_artifact(tmp_path / "tasks", gold=60, dev=4)
    plain = run_stage(tmp_path, "post.sft", "plain", [base, made], steps=3, max_tokens=4, dev=4)
    monkeypatch.setattr(sft, "STREAMED_BYTES", 0)
    streamed = run_stage(tmp_path, "post.sft", "streamed", [base, made], steps=3, max_tokens=4, dev=4)
    assert (plain.path / "model.safetensors").read_bytes() == (streamed.path / "model.safetensors").read_bytes()
    assert streamed.summary()["dialogs_read"] == 60 and "dialogs_read" not in plain.summary()
    assert streamed.summary()["epochs"] == plain.summary()["epochs"]


def test_where_nothing_fits_the_base_goes_on_as_it_does_from_small_inputs(tmp_path, monkeypatch):
    base, made = base_artifact(tmp_path / "base", max_seq_len=LIMIT), tasks_artifact(tmp_path / "tasks", gold=2, dev=4)
    write_rows(made.path / "train.jsonl", [SILENT, dialog(1, 600)])
    summaries = []
    for name, limit in (("plain", sft.STREAMED_BYTES), ("streamed", 0)):
        monkeypatch.setattr(sft, "STREAMED_BYTES", limit)
        found = run_stage(tmp_path, "post.sft", name, [base, made], steps=1, max_tokens=4, dev=4)
        assert (found.path / "model.safetensors").read_bytes() == (base.path / "model.safetensors").read_bytes()
        notes = (found.path / "volatile" / "notes.txt").read_text()
        assert "1 of 2 rows are longer" in notes and "base is handed on unchanged" in notes
        summaries.append(found.summary())
    assert summaries[0] == summaries[1]


def test_the_only_row_that_fits_is_found_wherever_it_lies(tmp_path, monkeypatch):
    monkeypatch.setattr(sft, "STREAMED_BYTES", 0)
    monkeypatch.setattr(sft, "LARGEST", 1)
    monkeypatch.setattr(sft, "EVENLY", 2)
    rows = [dialog(1, 600), dialog(2, 600), dialog(3, 20), dialog(5, 200), dialog(4, 600)]
    settings = sft.Settings(batch_tokens=LIMIT)
    ctx = context(tmp_path / "a", tasks(tmp_path / "t", rows))
    found = pool(ctx, settings)
    assert found.streams and found.length == LIMIT
    short, longer = (len(encode_dialog(TOKENIZER, row).ids) for row in rows[2:4])
    assert row_length(short, LIMIT) < longer <= LIMIT  # a row that the first one found would not have had room for
    batches, read = found.batches(settings, ctx), set()
    for batch in (batch for step in range(4) for batch in batches(step)):
        read |= set(torch.unique(batch.documents_BT[batch.documents_BT >= 0], return_counts=True)[1].tolist())
    assert read == {short, longer}


def test_epochs_of_a_stream_do_not_count_what_is_left_out(tmp_path):
    rows = [dialog(i) for i in range(10)] + [dialog(i, 600) for i in range(10)]
    write_rows(tmp_path / "rows.jsonl", rows)
    store = DialogStore(TOKENIZER, [tmp_path / "rows.jsonl"], LIMIT, tmp_path / "scratch")
    mixed = Mixed(store, store.rows_of(slice(0, 1)), LIMIT)
    every = sum(len(encode_dialog(TOKENIZER, row).ids) for row in rows[:10])
    for i in (*range(5), *range(10, 15)):
        mixed.length(i)
    assert mixed.tokens() == pytest.approx(every, rel=0.1)  # half of both kinds was read
    for i in range(20):
        mixed.length(i)
    assert mixed.tokens() == every


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(sft, "STREAMED_BYTES", 0)
    monkeypatch.setattr(sft, "EVENLY", 8)
    monkeypatch.setattr(sft, "LARGEST", 8)
    peaks, settings = [], sft.Settings(batch_tokens=2048)
    for count in (100, 1000):
        rows = tasks(tmp_path / f"t{count}", [dialog(i, 200) for i in range(count)])
        ctx = context(tmp_path / f"c{count}", rows)
        pool(ctx, settings).batches(settings, ctx)(0)  # what is loaded once
        tracemalloc.start()
        batches = pool(context(tmp_path / f"d{count}", rows), settings).batches(settings, ctx)
        for step in range(200):  # more than two epochs of the larger
            batches(step)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    text = 900 * 400  # bytes of what is said in the rows that the larger has more
    assert peaks[1] - peaks[0] < text / 3, peaks


def test_what_is_encoded_is_found_again_and_what_is_torn_is_mended(tmp_path, monkeypatch):
    rows = [dialog(i) for i in range(20)]
    file = tmp_path / "rows.jsonl"
    write_rows(file, rows)
    first = DialogStore(TOKENIZER, [file], LIMIT, tmp_path / "scratch")
    expected = [(e.ids, e.loss_mask) for e in encode_dialogs(TOKENIZER, rows, LIMIT)[0]]
    assert [first.tokens(i) for i in range(20)] == [len(ids) for ids, _ in expected]
    encoded: list[str] = []
    real = dialog_store.encode_dialog
    monkeypatch.setattr(dialog_store, "encode_dialog", lambda t, d: (encoded.append(d.id), real(t, d))[1])
    again = DialogStore(TOKENIZER, [file], LIMIT, tmp_path / "scratch")
    got = [tuple(part.tolist() for part in again.row(i)) for i in range(20)]
    assert got == expected and encoded == []
    data = tmp_path / "scratch" / "ids.bin"
    data.write_bytes(data.read_bytes()[:-3])  # the last record
    torn = bytearray(data.read_bytes())
    torn[9] ^= 1  # the first one
    data.write_bytes(torn)
    mended = DialogStore(TOKENIZER, [file], LIMIT, tmp_path / "scratch")
    assert [tuple(part.tolist() for part in mended.row(i)) for i in range(20)] == expected and encoded == ["0", "19"]
    DialogStore(TOKENIZER, [file], LIMIT - 1, tmp_path / "scratch").tokens(0)
    assert encoded == ["0", "19", "0"]


def test_rows_of_several_files_and_their_sizes(tmp_path):
    files = [tmp_path / f"{name}.jsonl" for name in "abc"]
    write_rows(files[0], [dialog(0), dialog(1)])
    files[0].write_text(files[0].read_text() + "\n\n")
    files[1].write_text("")
    write_rows(files[2], [dialog(2)])
    store = DialogStore(TOKENIZER, files, LIMIT, tmp_path / "scratch")
    assert [store.rows_of(slice(0, 1)).tolist(), store.rows_of(slice(1, 3)).tolist()] == [[0, 1], [2]]
    assert store.sizes().sum() == store.bytes == sum(path.stat().st_size for path in files)
    assert store.dialog(2).id == "2" and isinstance(store.row(2)[0], np.ndarray)
    assert [d.id for d in read_rows(files[0], Dialog)] == ["0", "1"]
    with pytest.raises(InputError, match="does not exist"):
        DialogStore(TOKENIZER, [tmp_path / "none.jsonl"], LIMIT, tmp_path / "scratch")
    files[2].write_text('{"id": 1}\n')
    with pytest.raises(InputError, match="malformed Dialog row") as caught:
        DialogStore(TOKENIZER, files, LIMIT, tmp_path / "scratch").tokens(2)  # other files: encoded anew
    assert caught.value.where == f"{files[2]}, row 1"
