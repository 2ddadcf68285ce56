"""Capability experts: the recipe puts a branch on a domain mix before the rounds, and such a branch learns its domain."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from stage_corpus import write_tokens

from puna.core.graph import build_graph
from puna.core.recipe import load_recipe
from puna.core.stage import local_artifact, local_context
from puna.train import anneal, pretrain


def test_the_experts_samples_join_every_round():
    graph = build_graph(load_recipe("expert"))
    assert graph["expert"].sources == ("flagship-long", "tokens") and graph["expert"].settings.mix["maths"] >= 0.85
    assert graph["expert-samples"].settings.capabilities == ("maths",) and graph["expert-samples"].settings.k == 10
    for number in (1, 2):
        assert "expert-samples" in graph[f"flagship-chat.r{number}.sft-a"].sources
        assert "expert-samples" in graph[f"flagship-chat.r{number}.reward"].sources
    assert "expert-samples" not in graph["flagship-chat.control"].sources
    drawn = [
        node.settings.prompts for name, node in graph.items() if name.startswith("flagship-chat.r") and node.kind == "samples"
    ]
    assert max(one.start + one.count for one in drawn) == 7000  # of 12000 in all; expert-samples begins later
    plain = build_graph(load_recipe("cria"))
    assert {name: node.raw for name, node in plain.items()}.items() <= {name: node.raw for name, node in graph.items()}.items()
    other = build_graph(load_recipe("expert", ["expert.mix={code: 0.9, general: 0.1}", "expert-samples.capabilities=[code]"]))
    assert other["expert"].settings.mix["code"] == 0.9


@pytest.mark.parametrize("domain", ["code", "general"])
def test_a_branch_learns_the_domain_of_its_mix(tmp_path, domain: str):
    tokens = local_artifact(write_tokens(tmp_path / "tokens"), "tokens")
    watch = {"evaluate_every": 0}
    shape = {"layers": 2, "dim": 24, "heads": 2, "kv_heads": 1}
    ctx = local_context(tmp_path / "base", inputs=[tokens])
    pretrain.run(pretrain.Settings(model=shape, steps=30, batch_tokens=256, seq_len=64, watch=watch), ctx)
    losses = {}
    for group in ("code", "general"):
        ctx = local_context(tmp_path / group, inputs=[tokens, local_artifact(tmp_path / "base", "model")])
        mix = {group: 0.9, "general" if group == "code" else "code": 0.1}
        settings = anneal.Settings(
            steps=20, batch_tokens=256, seq_len=64, mix=mix, watch=watch, optim={"name": "muon", "lr": 5e-3}
        )
        losses[group] = anneal.run(settings, ctx)[f"held_loss/{domain}"]
    assert losses[domain] == min(losses.values()) < max(losses.values())
