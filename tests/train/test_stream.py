"""The token stream: pure in (seed, step, rank), every token once per epoch, mix exact, documents apart."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from puna.core.errors import InputError
from puna.train.packing import IGNORED
from puna.train.schedule import Batching, Phase, Schedule
from puna.train.stream import GroupStream, TokenStream


def shard(lengths, start=0):
    """Documents of the given lengths; all tokens are different numbers."""
    total = sum(lengths)
    return SimpleNamespace(tokens=np.arange(start, start + total, dtype=np.uint32), ends=np.cumsum(lengths).astype(np.int64))


SOURCES = {"code": np.array(["git", "git", "docs", "git", "web"]), "general": np.array(["web", "wiki", "web", "wiki", "news"])}


def stream(seed=1, rank=0, world=1, steps=200, micro=None, phases=(), mix=None, sources=SOURCES.__getitem__):
    shards = {"code": shard([5, 9, 30, 2, 14]), "general": shard([40, 3, 3, 3, 17], start=1000)}
    schedule = Schedule(steps=steps, batching=Batching(batch_tokens=32, seq_len=8), phases=phases)
    return TokenStream(
        shards, mix or {"general": 3.0, "code": 1.0}, schedule, seed, rank=rank, world=world, micro_rows=micro, sources=sources
    )


def test_a_group_gives_every_token_once_per_epoch_in_whole_documents():
    data = shard([5, 9, 1, 30, 2])
    group = GroupStream(data, seed=3)
    ids, documents, positions = group.read(0, 2 * group.size)
    assert sorted(ids[: group.size]) == sorted(ids[group.size :]) == list(range(group.size))
    assert list(ids[: group.size]) != list(ids[group.size :])
    starts = [0, *data.ends[:-1]]
    for number in range(10):
        tokens = ids[documents == number]
        assert tokens[0] in starts and list(tokens) == list(range(tokens[0], tokens[0] + len(tokens)))
        assert list(positions[documents == number]) == list(range(len(tokens)))


def test_reading_in_pieces_is_reading_at_once():
    group = GroupStream(shard([5, 9, 1, 30, 2]), seed=3)
    whole = group.read(0, 200)[0]
    for offset in (0, 1, 46, 47, 48, 100, 163):
        assert list(GroupStream(shard([5, 9, 1, 30, 2]), seed=3).read(offset, 30)[0]) == list(whole[offset : offset + 30])


def test_batches_are_a_pure_function_of_seed_and_step():
    in_order = [stream()(step)[0] for step in range(40)]
    jumping = stream()
    for step in (37, 2, 11, 38, 0):
        assert torch.equal(jumping(step)[0].ids_BT, in_order[step].ids_BT)
        assert torch.equal(jumping(step)[0].documents_BT, in_order[step].documents_BT)
    assert not torch.equal(stream(seed=2)(5)[0].ids_BT, in_order[5].ids_BT)


def test_ranks_and_micro_batches_cut_the_same_rows():
    for step in (0, 7, 31):
        whole = stream()(step)[0].ids_BT.tolist()
        assert [r for rank in range(3) for b in stream(rank=rank, world=3)(step) for r in b.ids_BT.tolist()] == whole
        assert [r for b in stream(micro=1)(step) for r in b.ids_BT.tolist()] == whole
    assert [b.tokens() > 0 for rank in range(8) for b in stream(rank=rank, world=8)(0)].count(True) == 4


def test_targets_follow_within_documents_only():
    batch = stream()(3)[0]
    inside = batch.targets_BT != IGNORED
    assert torch.equal(batch.targets_BT[inside], batch.ids_BT[inside] + 1)  # tokens of one document are consecutive numbers
    last = batch.documents_BT[:, :-1] != batch.documents_BT[:, 1:]
    assert bool((batch.targets_BT[:, :-1][last] == IGNORED).all())
    assert bool((batch.positions_BT[:, 1:][last] == 0).all()) and bool((batch.positions_BT[:, 0] == 0).all())


def test_mix_is_exact_over_a_block_and_groups_read_on_without_gaps():
    data = stream(steps=1000)
    groups = [name for step in range(250) for name in data.group_of(step)]
    assert Counter(groups) == {"general": 750, "code": 250}
    read = [row for step in range(20) for row in data(step)[0].ids_BT.tolist()]
    code = [t for row, name in zip(read, groups, strict=False) for t in row if name == "code"]
    assert code == list(data.groups["code"].read(0, len(code))[0])


def test_phases_change_length_and_mix_and_go_on_where_the_group_was():
    phases = (Phase(after_tokens=320, batch_tokens=64, seq_len=16, mix={"code": 1.0}),)
    data = stream(phases=phases)
    assert data(9)[0].ids_BT.shape == (4, 8) and data(10)[0].ids_BT.shape == (4, 16)
    assert data.group_of(10) == ["code"] * 4
    given = sum(data.group_of(step).count("code") for step in range(10)) * 8
    assert data(10)[0].ids_BT.flatten().tolist() == list(data.groups["code"].read(given, 64)[0])


def test_unknown_or_empty_groups_are_named():
    with pytest.raises(InputError, match="group 'maths'"):
        stream(mix={"maths": 1.0})
    with pytest.raises(InputError, match="no group a positive weight"):
        stream(mix={"code": 0.0})


def test_a_source_with_its_own_weight_is_read_by_it():
    data = stream(steps=250, mix={"general/wiki": 0.5, "general/*": 0.1, "general/news": 0, "code": 0.4})
    tokens = np.concatenate([row for step in range(250) for row in data(step)[0].ids_BT.tolist()])
    starts, wiki, web = [1000, 1040, 1043, 1046, 1049, 1066], (1, 3), (0, 2)
    of = {kind: sum(((tokens >= starts[i]) & (tokens < starts[i + 1])).sum() for i in kind) for kind in (wiki, web, (4,))}
    assert (of[wiki], of[web], of[4,]) == (0.5 * 8000, 0.1 * 8000, 0) and (tokens < 60).sum() == 0.4 * 8000
    with pytest.raises(InputError, match="do not say their sources"):
        stream(mix={"code/git": 1.0}, sources=None)
    with pytest.raises(InputError, match="group 'code/wiki'"):
        stream(mix={"code/wiki": 1.0})


def by_reading_everything(data, steps, low, high):
    """(step, row, column, token) of every input token within [low, high), found by making every batch."""
    found = []
    for step in range(steps):
        ids = data(step)[0].ids_BT.numpy()
        found += [(step, row, column, ids[row, column]) for row, column in np.argwhere((ids >= low) & (ids < high)).tolist()]
    return found


@pytest.mark.parametrize(
    "mix", [None, {"general/wiki": 2, "general/*": 1, "code/web": 0, "code/*": 1}, {"code/git": 1, "code": 3}]
)
@pytest.mark.parametrize("phased", [False, True])
def test_find_is_the_stream_backwards(mix, phased):
    phases = (
        Phase(after_tokens=320, batch_tokens=64, seq_len=16, mix={"code": 1.0, "general/wiki": 0.2}),
        Phase(after_tokens=3000, seq_len=4, mix={"code": 1.0, "general/web": 1, "general/*": 1}),
    )
    steps = 70
    data = stream(steps=steps, mix=mix, phases=phases if phased else ())
    ends = {"code": (0, [5, 14, 44, 46, 60]), "general": (1000, [40, 43, 46, 49, 66])}
    read = 0
    for group, (first, group_ends) in ends.items():
        for document, (start, end) in enumerate(zip([0, *group_ends], group_ends, strict=False)):
            found = [
                (r.step, r.row, r.column + i, first + start + r.start + i)
                for r in data.find(group, document) for i in range(r.tokens)
            ]  # fmt: skip
            assert found == by_reading_everything(data, steps, first + start, first + end)
            read += len(found)
    assert read == data.schedule.tokens_before(steps)


def test_find_jumps_over_blocks_and_counts_epochs():
    data = stream(steps=2000)
    readings = data.find("code", 2)
    assert sum(r.tokens for r in readings) == pytest.approx(2000 * 32 * 0.25 * 30 / 60, rel=0.01) and readings[-1].step > 1900
    assert sorted({r.epoch for r in readings}) == list(range(readings[-1].epoch + 1))
    for r in (readings[0], readings[len(readings) // 2], readings[-1]):
        first = 14 + r.start
        assert data(r.step)[0].ids_BT[r.row, r.column : r.column + r.tokens].tolist() == list(range(first, first + r.tokens))
