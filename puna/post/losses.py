"""The losses of post-training as pure functions of tensors: each returns a sum and what it was summed over.

No function here divides by a batch size. The training loop divides by the count of the whole optimiser step, so one batch of
eight pairs and eight batches of one pair give the same gradient; a mean taken inside a micro-batch would not. Paper: section
4.1.2 (reward model), 4.1.4 (DPO with masked format tokens and an NLL term). Shapes: N tokens, P pairs, R ranked responses of one
prompt (best first), K teacher entries per token, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class DpoSums:
    """Sums over P pairs; divide by `pairs` for the usual figures. `margin` is beta times the difference of the log-ratios."""

    loss: Tensor
    pairs: int
    correct: Tensor
    margin: Tensor
    chosen_shift: Tensor
    rejected_shift: Tensor


def dpo(
    policy_chosen_P: Tensor, policy_rejected_P: Tensor, reference_chosen_P: Tensor, reference_rejected_P: Tensor, beta: float
) -> DpoSums:
    """Direct preference optimisation, -log sigmoid(beta * (chosen log-ratio - rejected log-ratio)) (Rafailov et al. 2023, eq. 7).

    Args:
        policy_chosen_P: log-probability of each chosen answer, summed over its unmasked tokens; the others alike.
        beta: how strongly the policy is held to the reference (paper: 0.1).

    Returns:
        the sum of the losses, and detached sums for the log: right orderings, margins, shifts of the two log-probabilities.
    """
    chosen_P = policy_chosen_P - reference_chosen_P
    rejected_P = policy_rejected_P - reference_rejected_P
    margin_P = beta * (chosen_P - rejected_P)
    with torch.no_grad():
        correct, margin = (margin_P > 0).float().sum(), margin_P.sum()
        chosen_shift, rejected_shift = chosen_P.sum(), rejected_P.sum()
    return DpoSums(-F.logsigmoid(margin_P).sum(), margin_P.shape[0], correct, margin, chosen_shift, rejected_shift)


def bradley_terry(scores_PR: Tensor, present_PR: Tensor) -> tuple[Tensor, int, Tensor]:
    """Ranking loss without a margin over two or three responses a row (edited > chosen > rejected).

    Every ordered pair of a row counts and a row weighs one, so three ranked answers do not outvote two.

    Args:
        scores_PR: rewards, best response first.
        present_PR: False where a row has fewer than R responses.

    Returns:
        (sum over rows of the mean pair loss, rows, sum over rows of the share of pairs in the right order).
    """
    rows, columns = scores_PR.shape
    better, worse = torch.triu_indices(columns, columns, offset=1, device=scores_PR.device)
    difference = scores_PR[:, better] - scores_PR[:, worse]
    exists = (present_PR[:, better] & present_PR[:, worse]).to(scores_PR.dtype)
    pairs_P = exists.sum(1).clamp(min=1)
    loss = ((-F.logsigmoid(difference) * exists).sum(1) / pairs_P).sum()
    correct = (((difference > 0) * exists).sum(1) / pairs_P).sum().detach()
    return loss, rows, correct


def top_k_log_probs(logits_NV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The teacher's k best entries per token: (indices_NK, log-probabilities_NK under the full softmax, not renormalised)."""
    log_probs_NV = F.log_softmax(logits_NV.float(), dim=-1)
    values_NK, indices_NK = log_probs_NV.topk(min(k, logits_NV.shape[-1]), dim=-1)
    return indices_NK, values_NK


def top_k_kl(student_logits_NV: Tensor, indices_NK: Tensor, teacher_log_probs_NK: Tensor) -> tuple[Tensor, int]:
    """Forward KL(teacher || student) over the teacher's top k and one bucket holding the rest of the mass.

    Renormalising the k entries would teach over-confidence; the tail bucket keeps the missing mass where it was. With k = V the
    bucket is empty and this is the dense KL. Never negative (a coarse-grained KL), and zero with zero gradient when equal.

    Returns:
        (sum over tokens in nats, tokens).
    """
    student_NV = F.log_softmax(student_logits_NV.float(), dim=-1)
    student_NK = student_NV.gather(-1, indices_NK)
    teacher_NK = teacher_log_probs_NK.float()
    head_N = (teacher_NK.exp() * (teacher_NK - student_NK)).sum(-1)
    tokens, vocabulary = student_NV.shape
    if indices_NK.shape[-1] == vocabulary:
        return head_N.sum(), tokens
    tail_teacher_N, tail_student_N = _tail_log_mass(teacher_NK), _tail_log_mass(student_NK)
    tail_N = tail_teacher_N.exp() * (tail_teacher_N - tail_student_N)
    return (head_N + tail_N).sum(), tokens


def _tail_log_mass(log_probs_NK: Tensor) -> Tensor:
    """log(1 - sum of the given probabilities), kept finite when rounding leaves nothing."""
    return torch.log((1 - log_probs_NK.exp().sum(-1)).clamp(min=1e-7))
