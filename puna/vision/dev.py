"""How adapter stages judge a model: the share of held-out questions that it answers word for word.

An answer is right where the likeliest token at each of its places, given the picture, the question and the true answer before
it, is the true one; then and only then a greedy answer is the true one. One pass tells it for a packed batch, so a look costs
little.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from puna.core.intervals import wilson
from puna.post.gate import Verdict
from puna.train.objectives import beside, document_sums, hidden_at_targets
from puna.train.packing import pack
from puna.train.world import World
from puna.vision.collate import with_media
from puna.vision.rows import MediaRows

TOGETHER = 32  # questions of a forward pass


@torch.no_grad()
def judged(model: Any, rows: MediaRows, limit: int) -> Verdict:
    """The verdict on the first `limit` rows that are not left out, of which every process finds a part.

    `families` are by the rows' `capability`. The model's mode stays as it is; "none" where there is nothing to judge by.
    """
    asked = list(islice((i for i in range(len(rows)) if rows.length(i)), limit))
    if not asked:
        return Verdict("none", 0.0, 0)
    training = model.training
    model.eval()
    passed = World.current().shared(asked, lambda mine: _passed(model, rows, mine))
    model.train(training)
    low, high = wilson(sum(passed), len(passed))
    groups: dict[str, list[bool]] = {}
    for i, right in zip(asked, passed, strict=True):
        groups.setdefault(rows.dialog(i).capability, []).append(right)
    families = {name: round(sum(found) / len(found), 4) for name, found in sorted(groups.items())}
    return Verdict("accuracy", sum(passed) / len(passed), len(passed), low, high, tuple(passed), families)


def _passed(model: Any, rows: MediaRows, asked: Sequence[int]) -> list[bool]:
    found: list[bool] = []
    for start in range(0, len(asked), TOGETHER):
        part = asked[start : start + TOGETHER]
        batch = pack([rows[i] for i in part], None, rows.row_length)
        batch = beside(model, with_media(batch, [rows.shown(i) for i in part], rows.tokenizer.image_id, rows.tiles.shape))
        states_ND, targets_N = hidden_at_targets(model, batch)
        wrong_BT = torch.zeros(batch.targets_BT.numel(), device=states_ND.device)
        wrong_BT[batch.supervised()] = _wrong(model, states_ND, targets_N)
        found += (document_sums(wrong_BT.view_as(batch.targets_BT), batch.documents_BT, len(part)) == 0).tolist()
    return found


def _wrong(model: Any, states_ND: Tensor, targets_N: Tensor) -> Tensor:
    """1.0 where the target is not the likeliest token, [N]."""
    return (model.lm_head(states_ND).argmax(-1) != targets_N).float()
