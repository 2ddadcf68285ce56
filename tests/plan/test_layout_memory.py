"""Memory of one process under the paper's layouts: the closed form against models really placed, one rank of thousands."""

from dataclasses import replace

import pytest
import torch
from fake_ranks import Held, forward_and_backward, placed
from torch.distributed.tensor import DTensor, Shard

from puna.model.config import PRESETS, ModelConfig
from puna.plan.layout_memory import Work, layer_bytes, rank_memory, stage_parameters, stage_shares
from puna.train.objectives import cross_entropy_sum
from puna.train.parallel.layout import Layout
from puna.train.shares import local

B405, B8 = PRESETS["llama3.1-405b"], PRESETS["llama3.1-8b"]
ENDS = {"tp": 8, "pp": 16, "lean_ends": True, "schedule": "interleaved_1f1b", "virtual_stages": 8}
TABLE_4 = [Layout(dp=64, **ENDS), Layout(dp=128, **ENDS), Layout(dp=8, cp=16, **ENDS)]


@pytest.mark.parametrize("layout", TABLE_4, ids=["8,192", "16,384", "16,384 at 131,072"])
@pytest.mark.parametrize("place", [0, 7, 15])
def test_shares_of_405b_are_those_of_a_placed_model(layout, place):
    need = rank_memory(B405, layout, Work(8192, 32), place)
    with placed(B405, layout, place) as model:
        shares = [local(weight) for weight in model.parameters()]
        optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
        for weight in model.parameters():
            weight.grad = torch.empty_like(weight)
        optimizer.step()
        moments = [local(state[name]) for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
        assert sum(share.nbytes for share in shares) == pytest.approx(need.weights, rel=0.001)
        assert sum(local(weight.grad).nbytes for weight in model.parameters()) == pytest.approx(need.gradients, rel=0.001)
        assert sum(moment.nbytes for moment in moments) == pytest.approx(need.moments, rel=0.001)
        assert {share.dtype for share in shares} == {torch.float32} and {share.device.type for share in shares} == {"meta"}


def test_shares_of_all_ranks_are_the_model():
    for layout in (*TABLE_4, Layout(dp=4, tp=2), Layout(pp=2, dp=8, replicate=2)):
        copies = layout.tp * layout.shards
        norms = (2 * B405.layers + 1) * B405.dim * (layout.tp - 1)  # each tp rank has them
        held = copies * sum(stage_shares(B405, layout, stage) for stage in range(layout.stages))
        assert held - norms == pytest.approx(B405.parameters(), rel=1e-6)


PIPE = {"tp": 8, "pp": 16, "lean_ends": True}
CASES = {
    "middle stage": (B405, {"dp": 64, **ENDS}, 7, "bf16"),
    "selective": (B405, {"dp": 64, "recompute": "selective", **ENDS}, 7, "bf16"),
    "full": (B405, {"dp": 64, "recompute": "full", **ENDS}, 7, "bf16"),
    "first stage": (B405, {"dp": 64, **PIPE}, 0, "bf16"),
    "last stage": (B405, {"dp": 64, **PIPE}, 15, "bf16"),
    "131,072 tokens": (B405, {"dp": 8, "cp": 16, **ENDS}, 7, "bf16"),
    "float32": (B405, {"dp": 64, **ENDS}, 7, "fp32"),
    "float32, selective": (B405, {"dp": 64, "recompute": "selective", **ENDS}, 7, "fp32"),
    "8b, no tp": (B8, {"dp": 8, "pp": 16}, 1, "bf16"),
    "8b, no pipeline": (replace(B8, layers=4), {"dp": 8, "tp": 2}, 0, "bf16"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_stage_holds_after_its_passes(case):
    """One micro-batch through the first stage of a rank: whole weights, activations, what it hands on; then summed gradients."""
    config, axes, place, precision = CASES[case]
    layout, tokens, element = Layout(**axes), 8192, 2 if precision == "bf16" else 4
    context, last = tokens * layout.cp, place == layout.pp - 1
    with placed(config, layout, place, precision) as model:
        forward, backward = forward_and_backward(model, 0, tokens, context if layout.cp > 1 else None)
    if layout.virtual_stages > 1:  # the formula for a rank of this one stage, which has one layer
        layout, config = Layout(**{**axes, "virtual_stages": 1, "schedule": "1f1b"}), replace(config, layers=14)
    one = rank_memory(config, layout, Work(context, 1, element=element, dense_mask=layout.cp > 1), place)
    more = rank_memory(config, layout, Work(context, 2, element=element), place)
    vocabulary = -(-config.vocab_size // layout.tp) * config.dim
    whole = one.gathered if layout.pp > 1 else element * (2 * vocabulary + config.dim)  # its layers' are freed on the way
    out = 0 if last else element * config.dim * tokens // layout.tp
    again = tokens * layer_bytes(config, layout, element, "none") if layout.recompute != "none" else 0
    learnt = tokens * element * config.dim if last else 0  # states that the loss chooses, and there is no loss here
    assert forward - whole == pytest.approx(one.activations - again - learnt + out, rel=0.005)
    unused = 4 * vocabulary if last else 0  # gradient of the output matrix
    assert backward == pytest.approx((whole if layout.pp > 1 else 0) + more.summed - unused, rel=0.005)


def test_what_a_stage_keeps_under_the_paper_s_layout():
    need = rank_memory(B405, TABLE_4[0], Work(8192, 32), 7)
    layers, tokens, chunks = 8, 8192, 7 * 16 + 2 * (15 - 7) + 1
    assert need.weights == 4 * layers * (B405.layer_parameters() - 2 * B405.dim) // (8 * 64) + 4 * layers * 2 * B405.dim // 64
    assert need.gathered * 2 == need.summed == 4 * sum(sum(stage_parameters(B405, TABLE_4[0], s)) for s in range(7, 128, 16))
    each = layer_bytes(B405, TABLE_4[0], 2, "none")
    assert need.activations == chunks * tokens * (each + 2 * 4 * 128)
    handed = 2 * 16384 * tokens // 8
    assert need.passed == handed * (32 * 2 * layers + chunks)


def test_bf16_layers_are_given_rotations_in_float32():
    seen = []
    with placed(replace(B8, layers=2), Layout(dp=2, tp=2), 0) as model:
        model.parts[0].model.layers[1].register_forward_pre_hook(lambda _, given: seen.append([given[0], *given[1]]))
        forward_and_backward(model, 0, 64)
    assert [tensor.dtype for tensor in seen[0]] == [torch.bfloat16, torch.float32, torch.float32]


@pytest.mark.parametrize("chunk", [None, 16])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("tp", [1, 4])
def test_logits_at_their_most(tp, precision, chunk):
    layout, config, tokens = Layout(tp=tp, pp=2), ModelConfig(16_000, 32, 2, 4, 4, 64), 64
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    need = rank_memory(config, layout, Work(tokens, 2, element=dtype.itemsize, loss_chunk=chunk), 1)
    with placed(config, layout, 1, precision) as model:
        mesh, weight = model.meshes.params["tp"], torch.zeros(config.vocab_size // tp, config.dim, dtype=dtype)

        def lm_head(states_ND):
            logits = states_ND @ weight.T
            return DTensor.from_local(logits, mesh, [Shard(1)], run_check=False) if tp > 1 else logits

        states, targets = torch.zeros(tokens, config.dim, dtype=dtype, requires_grad=True), torch.zeros(tokens, dtype=torch.long)
        with Held([states, weight], peak=True) as held:
            cross_entropy_sum(lm_head, states, targets, None, chunk).backward()
    assert held.most == pytest.approx(need.logits, rel=0.03)
