"""Packing: nothing split, nothing lost, nothing seen across documents (traps 4, 5, 6 and 9 of post-training)."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.core.errors import InputError
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.train.objectives import CrossEntropy, document_sums, token_logps
from puna.train.packing import IGNORED, PADDING, dialog_batches, empty_batch, epochs, pack, plan_rows

SHAPE = ModelConfig(vocab_size=50, dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=64, rope_theta=10_000.0, max_seq_len=64)


def dialogs(count, seed=0, low=3, high=20):
    draw = np.random.default_rng(seed)
    found = []
    for n in draw.integers(low, high, count):
        ids = draw.integers(0, 50, n).tolist()
        mask = [0] * (n // 2) + [1] * (n - n // 2)
        found.append((ids, mask))
    return found


@given(st.lists(st.integers(1, 16), max_size=40), st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_plan_rows_keeps_every_example_once_within_rows(lengths, rows):
    plan, left = plan_rows(lengths, 16, rows)
    placed = sorted(i for row in plan for i in row)
    assert sorted(placed + left) == list(range(len(lengths)))
    assert len(plan) <= rows and all(sum(lengths[i] for i in row) <= 16 for row in plan)
    assert not left or len(plan) == rows
    unlimited, none_left = plan_rows(lengths, 16)
    assert none_left == [] and len(unlimited) <= max(1, -(-2 * sum(lengths) // 16))  # best-fit is within twice of full rows


def test_pack_by_hand():
    batch = pack([([5, 6, 7], [0, 1, 1]), ([8, 9], [0, 1]), ([1, 2, 3, 4], [1, 1, 1, 1])], None, 6)
    assert batch.ids_BT.tolist() == [[8, 9, 1, 2, 3, 4], [5, 6, 7, 0, 0, 0]]
    assert batch.documents_BT.tolist() == [[1, 1, 2, 2, 2, 2], [0, 0, 0, -1, -1, -1]]
    assert batch.positions_BT.tolist() == [[0, 1, 0, 1, 2, 3], [0, 1, 2, 0, 0, 0]]
    assert batch.targets_BT.tolist() == [[9, -100, 2, 3, 4, -100], [6, 7, -100, -100, -100, -100]]
    assert batch.supervised().tolist() == [0, 2, 3, 4, 6, 7]
    assert batch.tokens() == 9


def test_pack_refuses_to_drop_or_split():
    with pytest.raises(InputError, match="5 tokens does not fit a row of 4"):
        pack([([1] * 5, [1] * 5)], None, 4)
    with pytest.raises(InputError, match="1 of 2 examples do not fit into 1 rows"):
        pack([([1] * 4, [1] * 4), ([1], [1])], 1, 4)


def test_single_documents_need_no_mask_and_several_do():
    assert pack([([1, 2], [1, 1]), ([3, 4, 5], [1, 1, 1])], None, 4).mask() is None
    assert pack([([1, 2], [1, 1]), ([3, 4], [1, 1])], None, 4).mask().shape == (1, 1, 4, 4)


def test_packed_equals_alone():
    model = Llama(SHAPE, seed=1).eval()
    examples = dialogs(12)
    batch = pack(examples, None, 40)
    with torch.no_grad():
        logits = model.lm_head(model.hidden(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask()))
        for i, (ids, _) in enumerate(examples):
            alone = model(torch.tensor([ids]))[0]
            assert torch.allclose(logits[batch.documents_BT == i], alone, atol=1e-5)


def test_a_neighbour_in_the_row_changes_nothing_and_gets_no_gradient():
    model = Llama(SHAPE, seed=1)
    one, other = dialogs(2, seed=3)
    seen = []
    for first in (one, ([7] * len(one[0]), one[1])):
        batch = pack([first, other], 1, 40)
        seen.append(token_logps(model, batch)[batch.documents_BT == 1])
    assert torch.equal(seen[0], seen[1])
    batch = pack([([1, 2, 3], [1, 1, 1]), ([4, 5, 6], [1, 1, 1])], 1, 8)
    batch.targets_BT[batch.documents_BT == 0] = IGNORED
    CrossEntropy().sums(model, batch)[0]["ce"].backward()
    touched = model.model.embed_tokens.weight.grad.abs().sum(1)
    assert touched[[1, 2, 3]].tolist() == [0, 0, 0] and bool((touched[[4, 5]] > 0).all())


def test_per_document_sums():
    examples = dialogs(9, seed=5)
    model = Llama(SHAPE, seed=2).eval()
    batch = pack(examples, None, 40)
    with torch.no_grad():
        sums = document_sums(token_logps(model, batch), batch.documents_BT, len(examples))
        for i, (ids, mask) in enumerate(examples):
            logp = torch.log_softmax(model(torch.tensor([ids]))[0], -1)
            expected = sum(float(logp[t - 1, ids[t]]) for t in range(1, len(ids)) if mask[t])
            assert float(sums[i]) == pytest.approx(expected, abs=1e-4)


def test_epochs_are_permutations_by_seed_and_epoch():
    order = epochs(10, 3)
    first, second = [order[i] for i in range(10)], [order[i] for i in range(10, 20)]
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    again = epochs(10, 3)
    assert [again[i] for i in (15, 3, 19)] == [order[i] for i in (15, 3, 19)]
    assert [epochs(10, 4)[i] for i in range(10)] != first


def test_dialog_batches_keep_every_dialog_whole_and_equally_often():
    examples = [([i, *ids], [0, *mask]) for i, (ids, mask) in enumerate(dialogs(23, seed=8))]
    batches = dialog_batches(examples, 32, 96, seed=1)
    seen = Counter()
    for step in range(40):
        (batch,) = batches(step)
        assert batch.ids_BT.shape == (3, 32)
        for document in batch.documents_BT[batch.documents_BT != PADDING].unique().tolist():
            inside = batch.documents_BT == document
            ids, mask = examples[int(batch.ids_BT[inside][0])]
            assert batch.ids_BT[inside].tolist() == ids
            assert batch.positions_BT[inside].tolist() == list(range(len(ids)))
            learnt = batch.targets_BT[inside]
            assert learnt.tolist() == [t if m else IGNORED for t, m in zip(ids[1:], mask[1:], strict=True)] + [IGNORED]
            seen[ids[0]] += 1
    assert set(seen) == set(range(23))
    assert max(seen.values()) - min(seen.values()) <= 2  # whole epochs, and what is still waiting


def test_dialog_batches_are_pure_in_the_step_and_report_overlong_ones():
    examples = [*dialogs(20, seed=2), ([1] * 50, [1] * 50)]
    batches, again = dialog_batches(examples, 24, 72, seed=1), dialog_batches(examples, 24, 72, seed=1)
    assert batches.overlong == [20]
    later = again(7)[0]
    for step in range(8):
        batch = batches(step)[0]
    assert torch.equal(batch.ids_BT, later.ids_BT) and torch.equal(batch.documents_BT, later.documents_BT)
    assert not torch.equal(dialog_batches(examples, 24, 72, seed=2)(7)[0].ids_BT, later.ids_BT)
    with pytest.raises(InputError, match="none of 1 examples fits"):
        dialog_batches(examples[-1:], 24, 72, seed=1)


def test_ranks_share_the_rows_of_a_step():
    examples = dialogs(30, seed=4)
    whole = dialog_batches(examples, 24, 120, seed=1)(3)[0]
    parts = [dialog_batches(examples, 24, 120, seed=1, rank=r, world=2, micro_rows=1)(3) for r in range(2)]
    rows = sorted(row for part in parts for batch in part if batch.tokens() for row in batch.ids_BT.tolist())
    assert rows == sorted(whole.ids_BT.tolist())
    assert [[batch.tokens() > 0 for batch in part] for part in parts] == [[True] * 3, [True, True, False]]  # five rows
    lonely = dialog_batches(examples, 24, 24, seed=1, rank=1, world=2)(0)
    assert lonely[0].tokens() == 0 and empty_batch(1, 24).supervised().numel() == 0
