"""The losses of post-training as pure functions of tensors: each returns a sum and what it was summed over.

No function here divides by a batch size. The training loop divides by the count of the whole optimiser step, so one batch of
eight pairs and eight batches of one pair give the same gradient; a mean taken inside a micro-batch would not. Paper: section
4.1.2 (reward model), 4.1.4 (DPO with masked format tokens and an NLL term). Shapes: N tokens, P pairs, R ranked responses of one
prompt (best first), K teacher entries per token, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PairLossKind = Literal["sigmoid", "ipo", "simpo"]
Divergence = Literal["forward", "reverse", "jensen-shannon"]


@dataclass(frozen=True)
class DpoSums:
    """Sums over P pairs; divide by `pairs` for the usual figures. `margin` is beta times the difference of the shifts.

    An answer's shift is its log-ratio to the reference: of the whole answer for `sigmoid`, per token for `ipo`; for `simpo`,
    which has no reference, it is the log-probability per token itself.
    """

    loss: Tensor
    pairs: int
    correct: Tensor
    margin: Tensor
    chosen_shift: Tensor
    rejected_shift: Tensor


def dpo(
    policy_chosen_P: Tensor,
    policy_rejected_P: Tensor,
    reference_chosen_P: Tensor | None,
    reference_rejected_P: Tensor | None,
    beta: float,
    *,
    kind: PairLossKind = "sigmoid",
    tokens: tuple[Tensor, Tensor] | None = None,
    gamma: float = 0.0,
) -> DpoSums:
    """Direct preference optimisation and its two next of kin, of chosen and rejected answers in pairs.

    With the difference d of the shifts (`DpoSums`): `sigmoid` is -log sigmoid(beta d) (Rafailov et al. 2023, eq. 7); `ipo`
    (d - 1 / (2 beta))^2, which stops at a finite margin (Azar et al. 2023, eq. 17; per token, as its authors ran it and TRL has
    it); `simpo` -log sigmoid(beta d - gamma) (Meng et al. 2024, eq. 6).

    Args:
        policy_chosen_P: log-probability of each chosen answer, summed over its unmasked tokens; the others alike.
        reference_chosen_P, reference_rejected_P: not read by `simpo`, None there.
        beta: how strongly the policy is held to the reference (paper: 0.1); for `ipo` its tau, over 0.
        tokens: unmasked tokens of each chosen and of each rejected answer; not read by `sigmoid`.
        gamma: margin that `simpo` aims at; not read by the others.

    Returns:
        the sum of the losses, and detached sums for the log: right orderings, margins, shifts of both sides.
    """
    chosen_P, rejected_P = policy_chosen_P, policy_rejected_P
    if kind != "simpo":
        assert reference_chosen_P is not None and reference_rejected_P is not None
        chosen_P, rejected_P = chosen_P - reference_chosen_P, rejected_P - reference_rejected_P
    if kind != "sigmoid":
        assert tokens is not None
        chosen_P, rejected_P = chosen_P / tokens[0], rejected_P / tokens[1]
    difference_P = chosen_P - rejected_P
    margin_P = beta * difference_P
    if kind == "ipo":
        losses_P = (difference_P - 1 / (2 * beta)).square()
    else:
        losses_P = -F.logsigmoid(margin_P - gamma if kind == "simpo" else margin_P)
    with torch.no_grad():
        correct, margin = (margin_P > 0).float().sum(), margin_P.sum()
        chosen_shift, rejected_shift = chosen_P.sum(), rejected_P.sum()
    return DpoSums(losses_P.sum(), margin_P.shape[0], correct, margin, chosen_shift, rejected_shift)


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


def dense_kl(
    student_logits_NV: Tensor,
    teacher_logits_NV: Tensor,
    kind: Divergence = "forward",
    weight: float = 0.5,
    temperature: float = 1.0,
) -> tuple[Tensor, int]:
    """How far a student is from a teacher over the whole vocabulary: the sum over tokens in nats, and the tokens.

    `forward` is KL(teacher || student): the student must cover what the teacher says; `reverse` is KL(student || teacher): it may
    not say what the teacher would not; `jensen-shannon` with m = weight * teacher + (1 - weight) * student is
    weight * KL(teacher || m) + (1 - weight) * KL(student || m) (Agarwal et al. 2024, eq. 1), between the two and bounded.

    Never negative, and zero with zero gradient when equal. `weight` lies between 0 and 1, both excluded; the teacher's logits
    come without a gradient. A `temperature` over 1 softens both; the result is multiplied by its square, which keeps the size of
    the gradient (Hinton et al. 2015, section 2).
    """
    student_NV = F.log_softmax(student_logits_NV.float() / temperature, -1)
    teacher_NV = F.log_softmax(teacher_logits_NV.float() / temperature, -1)
    tokens, scale = len(student_NV), temperature**2
    if kind == "forward":
        return scale * _kl(teacher_NV, student_NV), tokens
    if kind == "reverse":
        return scale * _kl(student_NV, teacher_NV), tokens
    mixed_NV = torch.logaddexp(teacher_NV + math.log(weight), student_NV + math.log1p(-weight))
    return scale * (weight * _kl(teacher_NV, mixed_NV) + (1 - weight) * _kl(student_NV, mixed_NV)), tokens


def _kl(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities, summed."""
    return (p_NV.exp() * (p_NV - q_NV)).sum()


def group_advantages(rewards_GK: Tensor) -> Tensor:
    """How much better each of K answers is than its group, in standard deviations of the group; 0 where all are alike.

    (Shao et al. 2024, section 4.1.2, outcome supervision.)
    """
    centred_GK = rewards_GK - rewards_GK.mean(1, keepdim=True)
    return centred_GK / centred_GK.square().mean(1, keepdim=True).sqrt().clamp(min=torch.finfo(rewards_GK.dtype).tiny)


def clipped_policy(logps_N: Tensor, sampled_N: Tensor, advantages_N: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """The clipped surrogate of PPO, -min(r A, clip(r, 1 - clip, 1 + clip) A) with r the ratio to the policy that sampled, summed.

    Where the policy is still that one (r = 1) the gradient is that of -A log p (Schulman et al. 2017, eq. 7).

    Args:
        logps_N: log-probability of each sampled token under the policy; sampled_N: under the one that sampled it.

    Returns:
        (sum over tokens, detached count of the tokens whose gradient the clipping took away).
    """
    ratio_N = (logps_N - sampled_N).exp()
    plain_N, bounded_N = ratio_N * advantages_N, ratio_N.clamp(1 - clip, 1 + clip) * advantages_N
    return -torch.minimum(plain_N, bounded_N).sum(), (bounded_N < plain_N).float().sum().detach()


def k3(logps_N: Tensor, reference_N: Tensor) -> Tensor:
    """An estimate of KL(policy || reference) from the policy's own samples that is never negative, summed over tokens.

    r - log r - 1 with r = reference / policy (Schulman 2020, "Approximating KL divergence"); zero with zero gradient when equal.
    """
    difference_N = reference_N - logps_N
    return (difference_N.exp() - difference_N - 1).sum()
