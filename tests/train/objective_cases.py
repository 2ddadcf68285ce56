"""One optimiser step of every objective, its rows divided in three ways; importable by the processes that the test spawns."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from loop_cases import SHAPE, batches

from puna.core.stage import local_context
from puna.model.llama import Llama
from puna.post.answer_rows import AnswerRows
from puna.post.dpo import PairLoss
from puna.post.examples import Encoded, Ranked
from puna.post.grpo import GroupLoss
from puna.post.logits import LogitLoss
from puna.post.online import DivergenceLoss
from puna.post.pairs import RankedBatches
from puna.post.reward import RankingLoss, RewardModel
from puna.post.step_reward import StepLoss, Worked, step_batch
from puna.train.loop import train
from puna.train.objectives import CrossEntropy
from puna.train.optim import Optimizer, OptimSettings
from puna.train.schedule import Schedule

ROWS = 8
SPLIT = 3  # micro-batches of the first of two ranks; the other has the rest


class Kept(Optimizer):
    """Keeps the gradient and never moves a weight."""

    def __init__(self, model):
        super().__init__([], {name: p for name, p in model.named_parameters() if p.requires_grad})
        self.gradient = {}

    def step(self, lr):
        self.gradient = {name: p.grad.clone() for name, p in self.named.items()}


def rows_of_dialogs(micro_rows):
    return batches(micro_rows=micro_rows)(0)


def weighted_rows(micro_rows):
    """Weights that a token brings with it, whatever batch it is in; some are zero."""
    found = rows_of_dialogs(micro_rows)
    for batch in found:
        batch.weights_BT = (batch.targets_BT.clamp(0) % 5).float() / 2
    return found


def ranked_rows(ranks):
    """Rows of `ranks` answers, some with one fewer if more than two, all lengths very unequal."""
    draw = np.random.default_rng(7)
    rows = []
    for i in range(ROWS):
        prompt, answers = int(draw.integers(1, 9)), []
        for _ in range(ranks - (ranks > 2 and i % 3 == 0)):
            n = int(draw.integers(2, 21))
            ids = draw.integers(0, 40, prompt + n).tolist()
            answers.append(Encoded(ids, [0] * prompt + [1] * n, [1] * prompt + [0] * (n - 1) + [1]))
        rows.append(Ranked(str(i), str(i), answers))
    return rows


def pairs(micro_rows):
    reference = -10 * torch.rand(ROWS, 2, generator=torch.Generator().manual_seed(2))
    return RankedBatches(ranked_rows(2), ROWS, 32, seed=1, micro=micro_rows, reference=reference)(0)


def rankings(micro_rows):
    return RankedBatches(ranked_rows(3), ROWS, 32, seed=1, micro=micro_rows)(0)


def rankings_in_one_row(form, micro_rows):
    return AnswerRows(ranked_rows(3), ROWS, 64, seed=1, form=form, micro=micro_rows)(0)


def answers_by_steps(micro_rows):
    """Answers of one to five steps."""
    draw = np.random.default_rng(9)
    rows = []
    for i in range(ROWS):
        ends = np.cumsum(draw.integers(1, 6, draw.integers(1, 6))).tolist()
        rows.append(Worked(str(i), draw.integers(0, 40, ends[-1] + 1).tolist(), ends, draw.random(len(ends)).tolist(), True))
    size = micro_rows or ROWS
    return [step_batch(rows[start : start + size], 32) for start in range(0, ROWS, size)]


def drawn_answers(micro_rows):
    """Answers with advantages, what the policy that drew them and the reference said of them, and the counts of the draw."""
    found = rows_of_dialogs(micro_rows)
    for i, batch in enumerate(found):
        mixed_BT = (batch.ids_BT * 7 + batch.positions_BT) % 11
        batch.extra = {
            "advantages_BT": mixed_BT / 5 - 1,
            "sampled_BT": -3.6 - mixed_BT / 50,
            "reference_BT": -3.8 + mixed_BT / 40,
            "drawn": torch.tensor([16.0, 5.0, 2.0, 4.0, 1.0]) * (i == 0),
        }
    return found


def network():
    return Llama(SHAPE, seed=3)


def scorer():
    """A reward model whose head is not zero, so that its trunk learns too."""
    model = RewardModel(Llama(SHAPE, seed=3))
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(5))
    return model


def taught():
    return LogitLoss(Llama(SHAPE, seed=11), k=6, weight=0.4)


def scored():
    return DivergenceLoss(Llama(SHAPE, seed=11), "jensen-shannon", 0.3, 1.5, 0.4, own=True)


CASES = {  # objective, model, batches of one step by rows (pairs) of a micro-batch
    "cross-entropy": (CrossEntropy, network, rows_of_dialogs),
    "cross-entropy in chunks": (lambda: CrossEntropy(chunk=5), network, rows_of_dialogs),
    "weighted cross-entropy": (CrossEntropy, network, weighted_rows),
    "dpo": (lambda: PairLoss(beta=0.1, nll=0.2), network, pairs),
    "ipo": (lambda: PairLoss(beta=0.1, nll=0.2, kind="ipo"), network, pairs),
    "simpo": (lambda: PairLoss(beta=2.0, nll=0.2, kind="simpo", gamma=1.0), network, pairs),
    "grpo": (lambda: GroupLoss(clip=0.2, kl=0.3), network, drawn_answers),
    "reward": (RankingLoss, scorer, rankings),
    "reward, answers in blocks": (RankingLoss, scorer, partial(rankings_in_one_row, "blocks")),
    "reward, answers in a row": (RankingLoss, scorer, partial(rankings_in_one_row, "row")),
    "reward of steps": (StepLoss, scorer, answers_by_steps),
    "distillation by logits": (taught, network, rows_of_dialogs),
    "distillation by all logits": (scored, network, weighted_rows),
}


def step_of(name: str, out: Path, micro_rows: int | None, part: slice = slice(None)):
    """Gradient by parameter, and the metric row, of one step on a part of its micro-batches."""
    objective, model, cut = CASES[name]
    network = model()
    kept = Kept(network)
    result = train(network, objective(), lambda step: cut(micro_rows)[part], Schedule(steps=1), OptimSettings(clip=0.0),
                   local_context(out), optimizer=kept, log_every=1)  # fmt: skip
    return kept.gradient, result.rows[0]


def two_ranks(rank: int, folder: str) -> None:
    """Every objective in one gloo session of two ranks that have unequal numbers of micro-batches."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    part = slice(SPLIT) if rank == 0 else slice(SPLIT, None)
    found = {name: step_of(name, Path(folder) / f"{name}-{rank}", 1, part) for name in CASES}
    if rank == 0:
        torch.save(found, f"{folder}/answers.pt")
    dist.destroy_process_group()
