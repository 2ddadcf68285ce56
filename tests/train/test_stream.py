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


def stream(seed=1, rank=0, world=1, steps=200, micro=None, phases=(), mix=None):
    shards = {"code": shard([5, 9, 30, 2, 14]), "general": shard([40, 3, 3, 3, 17], start=1000)}
    schedule = Schedule(steps=steps, batching=Batching(batch_tokens=32, seq_len=8), phases=phases)
    return TokenStream(shards, mix or {"general": 3.0, "code": 1.0}, schedule, seed, rank=rank, world=world, micro_rows=micro)


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
