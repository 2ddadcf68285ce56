"""Stages made several times over: names, what reads what, what is refused."""

import pytest

from puna.core.errors import InputError
from puna.core.recipe import load_recipe

RECIPE = """
name: herd
seed: 3
copies: {of: [base, chat, scores], names: [b, c]}
stages:
  tasks: {uses: post.collect, sources: [world]}
  base: {uses: train.pretrain, from: tasks, steps: 5}
  chat: {uses: post.rounds, from: [base, tasks]}
  scores:
    uses: evals.scores
    from: [tasks, base, chat.sft, chat]
    compare: [{name: chat, better: chat.sft, control: base}]
  report: {uses: report.paper, from: all}
"""


def loaded(tmp_path, text=RECIPE, overrides=()):
    path = tmp_path / "herd.yaml"
    path.write_text(text)
    return load_recipe(path, overrides)


def test_copies_read_copies_and_share_the_rest(tmp_path):
    recipe = loaded(tmp_path)
    made = ["b-base", "b-chat", "b-scores", "c-base", "c-chat", "c-scores"]
    assert list(recipe.stages) == ["tasks", "base", "chat", "scores", *made, "report"]
    assert recipe.stages["c-chat"].sources == ("c-base", "tasks")
    assert recipe.stages["b-scores"].sources == ("tasks", "b-base", "b-chat.sft", "b-chat")
    assert recipe.stages["b-scores"].settings["compare"] == [{"name": "chat", "better": "b-chat.sft", "control": "b-base"}]
    assert recipe.stages["base"].settings == recipe.stages["b-base"].settings == {"steps": 5}
    assert "copies" not in recipe.data and "b-base" in recipe.data["stages"]
    assert recipe.origin("stages", "b-base", "steps") == recipe.origin("stages", "base", "steps")


def test_only_inputs_are_renamed(tmp_path):
    text = RECIPE.replace("of: [base, chat, scores]", "of: [base, chat, oracle]").replace(
        "from: [base, tasks]}", "from: [base, tasks], style: oracle, of: base.best}"
    )
    text = text.replace("  report:", "  oracle: {uses: oracle.py, from: tasks}\n  report:")
    copy = loaded(tmp_path, text).stages["b-chat"]
    assert (copy.sources, copy.settings) == (("b-base", "tasks"), {"style": "oracle", "of": "b-base.best"})
    assert loaded(tmp_path, text).stages["b-oracle"].uses == "oracle.py"


def test_an_override_changes_every_copy(tmp_path):
    recipe = loaded(tmp_path, overrides=["base.steps=7"])
    assert [recipe.stages[name].settings["steps"] for name in ("base", "b-base", "c-base")] == [7, 7, 7]
    assert recipe.origin("stages", "c-base", "steps") == "override base.steps=7"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("of: [base,", "of: [bsae,", "'bsae', which is no stage"),
        ("names: [b, c]", "names: [b, b]", "taken"),
        ("  report:", "  c-chat: {uses: post.collect}\n  report:", "'c-chat', which is taken"),
        ("names: [b, c]", "names: []", "names"),
    ],
)
def test_what_cannot_be_copied_is_refused(tmp_path, old, new, message):
    with pytest.raises(InputError, match=message) as error:
        loaded(tmp_path, RECIPE.replace(old, new))
    assert "herd.yaml" in (error.value.where or "")
