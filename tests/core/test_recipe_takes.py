"""What a recipe takes from its user: given by a short word, refused without, and said where it belongs."""

import pytest

from puna.core.errors import InputError
from puna.core.recipe import recipe_from_data


def recipe(*overrides, takes=None, **settings):
    data = {
        "name": "mine",
        "takes": takes or {"model": "base.path", "data": "rows.sources.files"},
        "stages": {"base": {"uses": "x.y"}, "rows": {"uses": "x.z", "from": "base", **settings}},
    }
    return recipe_from_data(data, "mine.yaml", overrides)


def test_a_short_word_sets_the_value_it_stands_for():
    made = recipe("model=DIR", "data=[a, b]")
    assert made.stages["base"].settings == {"path": "DIR"} and made.stages["rows"].settings == {"sources": {"files": ["a", "b"]}}
    assert made.origin("stages", "base", "path") == "override model=DIR"
    longer = recipe("base.path=DIR", "rows.sources.files=a")
    assert longer.stages["base"].settings == {"path": "DIR"}


def test_what_is_missing_is_named():
    with pytest.raises(InputError, match="recipe 'mine' needs model=") as caught:
        recipe("data=a")
    assert caught.value.where == "mine.yaml" and caught.value.fix == "add model=... data=... after its name"
    with pytest.raises(InputError, match="needs data="):
        recipe("model=DIR", "data=null")
    assert recipe("model=DIR", sources={"files": "a"}).stages["rows"].settings["sources"] == {"files": "a"}


def test_words_that_stand_for_nothing_are_refused():
    with pytest.raises(InputError, match="'modle' is no value") as caught:
        recipe("modle=DIR", "data=a")
    assert "did you mean 'model'" in caught.value.fix
    with pytest.raises(InputError, match=r"'bse[.]path', which is no setting of a stage") as caught:
        recipe(takes={"model": "bse.path"})
    assert "'base'" in caught.value.fix
    with pytest.raises(InputError, match="no setting of a stage"):
        recipe(takes={"model": "base"})
    with pytest.raises(InputError, match="takes"):
        recipe(takes=["model"])
