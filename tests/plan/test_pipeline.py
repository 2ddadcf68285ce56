"""Activations waiting in a pipeline against the order of passes in torch's own schedules, and the bubble against the paper's."""

import pytest
import torch
from torch.distributed.pipelining.schedules import get_schedule_class

from puna.plan.layout import Axes
from puna.plan.pipeline import bubble, waiting
from puna.train.parallel.pipeline import SCHEDULES


class Stage:
    """What a schedule of torch asks of a stage before it runs."""

    def __init__(self, number, axes):
        self.stage_index, self.num_stages, self.group_size, self.group_rank = number, axes.stages, axes.pp, 0
        self.is_first, self.is_last = number == 0, number == axes.stages - 1
        self.device, self.submod, self.has_backward = torch.device("cpu"), torch.nn.Identity(), True
        self.group = self.stage_index_to_group_rank = None


def most_waiting(axes, rank, micro_batches, layers):
    """Most layers' activations at once by torch's order: kept from the forward pass to that for the weights' gradients."""
    kind = get_schedule_class(SCHEDULES[axes.schedule])
    stages = [Stage(number, axes) for number in axes.stages_of(0)]
    schedule = kind(stages, micro_batches, loss_fn=torch.add, scale_grads=False)
    depth, now, most = dict(zip(axes.stages_of(rank), layers, strict=True)), 0, 0
    for action in schedule.pipeline_order[rank]:
        for part in () if action is None else action.sub_actions or (action,):
            change = {"FORWARD": 1, "FULL_BACKWARD": -1, "BACKWARD_WEIGHT": -1}.get(part.computation_type.name, 0)
            now += change * depth[part.stage_index]
            most = max(most, now)
    return most


@pytest.mark.parametrize("schedule, stages", [("interleaved_1f1b", 2), ("interleaved_1f1b", 8), ("looped_bfs", 2)])
@pytest.mark.parametrize("pp, micro_batches", [(2, 8), (4, 4), (4, 6), (4, 16), (16, 32)])
@pytest.mark.parametrize("lean", [False, True])
def test_waiting_follows_torch_s_order(schedule, stages, pp, micro_batches, lean):
    axes = Axes(pp=pp, schedule=schedule, virtual_stages=stages, lean_ends=lean)
    for rank in {0, 1, pp - 1}:
        layers = [len(axes.layers_of(stage, 2 * axes.stages)) for stage in axes.stages_of(rank)]
        kept = waiting(axes, rank, micro_batches, layers)
        assert sum(n * depth for n, depth in zip(kept, layers, strict=True)) == most_waiting(axes, rank, micro_batches, layers)


@pytest.mark.parametrize("schedule, stages", [("interleaved_zero_bubble", 4), ("zbv_zero_bubble", 2), ("dualpipe_v", 2)])
@pytest.mark.parametrize("pp, micro_batches", [(2, 8), (4, 16), (16, 32)])
def test_waiting_of_zero_bubble_schedules_is_a_bound_near_torch_s_order(schedule, stages, pp, micro_batches):
    axes = Axes(pp=pp, schedule=schedule, virtual_stages=stages)
    for rank in (0, pp - 1):
        found = most_waiting(axes, rank, micro_batches, [1] * stages)
        assert found <= sum(waiting(axes, rank, micro_batches, [1] * stages)) <= found + 1


def test_waiting_of_one_stage_schedules():
    axes = Axes(pp=4)
    assert [waiting(axes, rank, 8, [3]) for rank in range(4)] == [[4], [3], [2], [1]]
    assert waiting(axes, 0, 2, [3]) == [2]
    assert waiting(Axes(pp=4, schedule="gpipe"), 3, 8, [3]) == [8]
    assert waiting(Axes(dp=4), 0, 8, [32]) == [1]


def test_bubble_is_the_paper_s():
    paper = Axes(pp=16, schedule="interleaved_1f1b", virtual_stages=8)
    assert bubble(paper, 32) == pytest.approx(15 / 256) and bubble(paper, 16) == pytest.approx(15 / 128)
    assert bubble(Axes(pp=4, schedule="interleaved_1f1b", virtual_stages=2), 10) == pytest.approx(3 / 20)  # Figure 6
    assert bubble(Axes(dp=8), 4) == 0
    zero = Axes(pp=4, schedule="interleaved_zero_bubble", virtual_stages=2)
    assert bubble(zero, 10) == pytest.approx(1 / 20) and bubble(Axes(pp=4, schedule="dualpipe_v", virtual_stages=2), 10) is None
