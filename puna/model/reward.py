"""The head of a reward model: a number from the last state of an answer, and if wanted from how likely the trunk finds it.

The paper reads the last state alone (section 4.1.2). A small trunk already knows more of an answer than its last state shows:
that each token follows from those before it. With `likelihood` the score is the head's number plus a learnt multiple of the
answer's log-probability, which ranking trains through the output matrix as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CHUNK = 1024  # tokens whose logits exist at a time, of which a backward pass keeps none: 0.5 GB at 128,256 ids


@dataclass(frozen=True)
class AnswerTokens:
    """Tokens of N answers: flat position of the one before each, the token itself, and the number of its answer ([S] each)."""

    before_S: Tensor
    ids_S: Tensor
    answer_S: Tensor


class RewardHead(nn.Linear):
    """Linear from a state to a score, zero at first; `likelihood` is the weight of an answer's log-probability, or None."""

    def __init__(self, dim: int, *, likelihood: bool = False):
        super().__init__(dim, 1)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self.likelihood = nn.Parameter(torch.zeros(1)) if likelihood else None

    def scores(self, lm_head: nn.Module, x_BTD: Tensor, ends_N: Tensor, tokens: AnswerTokens | None) -> Tensor:
        """Score per answer, [N] float32.

        Args:
            lm_head: the trunk's output matrix; it and `tokens` are read with `likelihood` only.
            x_BTD: states after the final norm; `ends_N` flat positions of the answers' last tokens.
        """
        x_SD = x_BTD.flatten(0, 1)
        with torch.autocast(x_SD.device.type, enabled=False):  # differences of scores are small
            found_N = self(x_SD[ends_N].float())[:, 0]
        if self.likelihood is None or tokens is None:
            return found_N
        parts = zip(x_SD[tokens.before_S].split(CHUNK), tokens.ids_S.split(CHUNK), strict=True)
        one = len(tokens.ids_S) <= CHUNK
        logps = [_logps(lm_head, *part) if one else checkpoint(_logps, lm_head, *part, use_reentrant=False) for part in parts]
        return found_N + self.likelihood * torch.zeros_like(found_N).index_add(0, tokens.answer_S, torch.cat(logps))


def _logps(lm_head: nn.Module, x_SD: Tensor, ids_S: Tensor) -> Tensor:
    return -F.cross_entropy(lm_head(x_SD).float(), ids_S, reduction="none")
