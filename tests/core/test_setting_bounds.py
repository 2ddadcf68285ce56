"""Every number in the settings of every stage has a bound, so that a recipe with an impossible one is refused before it runs."""

import types
import typing

import pytest
from pydantic import BaseModel, ValidationError

from puna.core.errors import InputError
from puna.core.graph import build_graph
from puna.core.modules import load_stage, stage_files
from puna.core.recipe import load_recipe

ANY_NUMBER = {"seed", "seed_offset"}  # of a random stream


def numbers(annotation, metadata=()):
    """(type, metadata) of every int or float inside an annotation, and the settings classes inside it."""
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *more = typing.get_args(annotation)
        yield from numbers(inner, (*metadata, *more))
    elif annotation in (int, float):
        yield annotation, metadata
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple, dict, list):
        for inner in typing.get_args(annotation):
            yield from numbers(inner, metadata)


def classes(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from classes(inner)


def fields(model, path=()):
    """(dotted name, field) of a settings class and of those inside it."""
    for name, field in model.model_fields.items():
        yield ".".join((*path, name)), field
        for inner in classes(field.annotation):
            yield from fields(inner, (*path, name))


def bounded(metadata):
    constraints = [c for m in metadata for c in (m, *getattr(m, "metadata", ()))]
    return any(getattr(c, "ge", None) is not None or getattr(c, "gt", None) is not None for c in constraints)


@pytest.mark.parametrize("uses", stage_files())
def test_every_number_of_a_stage_has_a_least_value(uses):
    free = [
        name
        for name, field in fields(load_stage(uses).Settings)
        for _, metadata in numbers(field.annotation, tuple(field.metadata))
        if not bounded(metadata) and name.rpartition(".")[2] not in ANY_NUMBER
    ]
    assert free == []


@pytest.mark.parametrize("uses", stage_files())
def test_negative_numbers_are_refused_by_name(uses):
    model = load_stage(uses).Settings
    for name, field in model.model_fields.items():
        if not list(numbers(field.annotation)) or name in ANY_NUMBER or typing.get_origin(field.annotation) in (tuple, dict):
            continue
        with pytest.raises(ValidationError) as caught:
            model.model_validate({name: -1})
        assert name in {error["loc"][0] for error in caught.value.errors()}


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("flagship.steps=0", "'steps' is 0 and should be a number greater than 0"),
        ("flagship.optim.lr=-1", "'optim.lr' is -1"),
        ("flagship.optim.lr=.inf", "'optim.lr' is inf and should be a finite number"),
        ("documents.words.max_deviations=.nan", "'words.max_deviations' is nan"),
        ("flagship.seq_len=0", "'seq_len' is 0"),
        ("flagship.batch_tokens=64", "batch_tokens 64 is less than one row of seq_len 128"),
        ("flagship.phases=[{after_tokens: 9, seq_len: 4096}]", "batch_tokens 1024 is less than one row of seq_len 4096"),
        ("flagship.model.layers=0", "'model.layers' is 0"),
        ("flagship.model.heads=-4", "'model.heads' is -4"),
        ("flagship.model.dim=50", "model: dim 50 is not a multiple of heads 4"),
        ("flagship.model.kv_heads=3", "heads 4 is not a multiple of kv_heads 3"),
        ("flagship.model=llama3.1-9b", "no model preset is called 'llama3.1-9b'"),
        ("flagship-long.steps=-3", "'steps' is -3"),
        ("flagship-long.batch_tokens=500", "less than one row of seq_len 1024"),
        ("flagship-base.steps=-1", "'steps' is -1"),
        ("flagship-chat.gold_steps=0", "'gold_steps' is 0"),
        ("student-chat.weight=2", "'weight' is 2"),
        ("documents.minhash.threshold=1.5", "'minhash.threshold' is 1.5"),
        ("documents.spam.dirty_share=-0.1", "'spam.dirty_share' is -0.1"),
        ("documents.general.max_short_lines=3", "'general.max_short_lines' is 3"),
        ("tokens.held=5", "'held' is 5 and should be a number less than 1"),
        ("tokens.mix={general: -1}", "'mix.general' is -1"),
        ("needle.n=0", "'n' is 0"),
        ("needle.queries=9", "queries 9 is more than pairs 4"),
        ("flagship-long.needles.pairs=1", "queries 4 is more than pairs 1"),
        ("scores.max_tokens=0", "'max_tokens' is 0"),
        ("perplexity.length=0", "'length' is 0"),
    ],
)
def test_an_impossible_value_is_refused_before_anything_runs(override, what):
    with pytest.raises(InputError) as caught:
        build_graph(load_recipe("cria", [override]))
    assert what in caught.value.what and caught.value.where == f"override {override}" and caught.value.fix


def test_more_problems_are_counted_once_each():
    with pytest.raises(InputError, match=r"'model.layers' is 0 .* \(and 1 more\)"):
        build_graph(load_recipe("cria", ["flagship.steps=0", "flagship.model.layers=0"]))
