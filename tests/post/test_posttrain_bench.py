"""The pieces of `bench/posttrain_sides.py` that say what is compared: losses of TRL's rows, and seconds a token."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from post_toys import toy_model

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from posttrain_sides import NLL, Marks, packed_loss, pair_loss

ONE, TWO = [3, 1, 4, 1, 5, 9], [2, 6, 5, 3]


def logps(ids: list[int], learnt: int) -> torch.Tensor:
    """log p of the last `learnt` tokens, alone in a row."""
    with torch.no_grad():
        logits = toy_model()(torch.tensor([ids]))[0, -learnt - 1 : -1]
    return -F.cross_entropy(logits, torch.tensor(ids[-learnt:]), reduction="none")


def test_loss_of_a_packed_row_is_that_of_its_dialogs_alone():
    row = {"input_ids": ONE + TWO, "labels": [-100] * 3 + ONE[3:] + [-100] * 2 + TWO[2:], "seq_lengths": [6, 4]}
    alone = torch.cat([logps(ONE, 3), logps(TWO, 2)])
    assert packed_loss(toy_model(), [row]) == pytest.approx(-float(alone.mean()), rel=1e-5)


def test_loss_of_pairs_at_the_reference_is_log_2_and_the_nll():
    chosen, rejected = logps(ONE, 4), logps(ONE[:2] + TWO, 4)
    row = {"prompt_ids": ONE[:2], "chosen_ids": ONE[2:], "rejected_ids": TWO,
           "ref_chosen_logps": chosen.sum(), "ref_rejected_logps": rejected.sum()}  # fmt: skip
    assert pair_loss(toy_model(), [row]) == pytest.approx(math.log(2) - NLL * float(chosen.mean()), rel=1e-5)


def test_seconds_a_token_leave_out_warm_steps_and_the_last():
    marks = Marks([(0.0, 0.0), (9.0, 9.0), (10.0, 12.0), (11.0, 15.0)], [0.0, 100.0, 200.0, 300.0])
    assert marks.per_token(1) == (2 / 200, 6 / 200)
    assert marks.per_token(2) == (1 / 100, 3 / 100)
