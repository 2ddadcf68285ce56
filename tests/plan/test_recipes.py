"""The recipes that come with Puna say what they claim to."""

from pathlib import Path

import pytest

from puna.core.graph import build_graph
from puna.core.recipe import load_recipe
from puna.plan.recipe import plan_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def test_the_8b_recipe_reads_what_the_paper_says():
    recipe = load_recipe(RECIPES / "llama_8b.yaml", ())
    graph = build_graph(recipe)
    base = graph["base"].settings
    batches = [step for _, _, step in base.token_parts()]
    assert batches == [4 << 20, 8 << 20, 16 << 20] and [row for _, row, _ in base.token_parts()] == [4096, 8192, 8192]
    first, second, _ = (tokens for tokens, _, _ in base.token_parts())
    assert 252e9 <= first < 252e9 + batches[0] and 2.87e12 <= first + second < 2.87e12 + batches[1]
    long = graph["long"].settings
    assert len(long.stages) == 6 and long.stages[-1] == 131_072 and long.gate.required
    stages = plan_recipe(recipe).values["stages"]
    assert stages["base"]["tokens"] == pytest.approx(15.6e12, rel=0.01)
    assert stages["long"]["tokens"] == pytest.approx(800e9, rel=0.01)
    assert stages["base"]["parameters"] == 8_030_261_248
