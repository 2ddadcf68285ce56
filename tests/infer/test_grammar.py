"""Answers of a given form, judged by others: Python's `re` and the package jsonschema, on what random networks write."""

import json
import re

import numpy as np
import pytest
import torch

pytest.importorskip("llguidance")
import jsonschema

from puna.core.errors import InputError
from puna.infer.engine import Engine, Request
from puna.infer.grammar import json_grammar, regex_grammar
from puna.infer.shaping import Shaper, Shaping
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer

PIECES = [
    '{"',
    '": ',
    '":',
    '",',
    '", "',
    "[[",
    "]]",
    '"}',
    "}}",
    "ab",
    "na",
    "12",
    "00",
    "1.5",
    "true",
    "null",
    "é",
    "é😀",
    "\\n",
    ", ",
]
RANKS = [bytes([byte]) for byte in range(256)] + [piece.encode() for piece in PIECES]
TOKENIZER = Tokenizer.from_ranks({token: rank for rank, token in enumerate(RANKS)})
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog", 3, None]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {"v": {"type": "boolean"}, "of": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}},
            "required": ["v"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/tree",
}
SCHEMAS = [
    PERSON,
    TREE,
    {"type": ["string", "null"], "maxLength": 4},
    {"type": "string", "pattern": "^[a-c]{2,5}$"},
    {"type": "string", "format": "date"},
    {"type": "number", "minimum": -2, "maximum": 2.5},
    {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 1000},
    {"type": "array", "prefixItems": [{"const": {"a": [1]}}, {"type": "boolean"}], "items": False, "minItems": 2},
    {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 4}]},
    {"oneOf": [{"type": "integer", "minimum": 5, "maximum": 9}, {"type": "string", "maxLength": 2}]},
    {"allOf": [{"type": "integer", "minimum": 5}, {"maximum": 6}]},
    {"type": "object", "patternProperties": {"^x[0-9]$": {"type": "boolean"}}, "additionalProperties": False},
]
PATTERNS = [
    r"[0-9]{3}-[a-f]+",
    r"(ab|na)*!",
    r"é{1,3}😀?",
    r"(?i)yes|no",
    r"^\{x(, y){0,3}\}$",
    r"[^a]b?",
    r"a{20,30}b*",
    r"\[\[\]\]",
]


def network(vocab_size=TOKENIZER.vocab_size, seed=3):
    config = ModelConfig(vocab_size=vocab_size, dim=32, layers=1, heads=4, kv_heads=2, ffn_dim=48, max_seq_len=256)
    model = Llama(config, seed=seed)
    with torch.no_grad():
        model.lm_head.weight.mul_(30)
    return model


@pytest.fixture(scope="module")
def engine():
    return Engine(network(), stop_ids=TOKENIZER.stop_ids, pages=600)


def answers(engine, grammar, n=8, max_tokens=200, **wishes):
    shaping = Shaping(grammar=grammar, **wishes)
    requests = [Request([5, 6], n=n // 2, temperature=1.0, max_tokens=max_tokens, seed=seed, shaping=shaping) for seed in (1, 2)]
    return [answer for drawn in engine.generate(requests) for answer in drawn]


@pytest.mark.parametrize("schema", SCHEMAS, ids=json.dumps)
def test_answers_are_valid_json_of_the_schema(engine, schema):
    judge = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    found = [answer for answer in answers(engine, json_grammar(TOKENIZER, schema)) if answer.finished]
    assert len(found) >= 4
    for answer in found:
        judge.validate(json.loads(TOKENIZER.decode_bytes(answer.ids).decode()))


def test_properties_come_in_order_with_one_space_at_most(engine):
    found = answers(engine, json_grammar(TOKENIZER, json.dumps(PERSON)))
    for answer in [answer for answer in found if answer.finished]:
        text = TOKENIZER.decode(answer.ids)
        outside = re.sub(r'"[^"]*"', '""', text)
        assert not re.search(r"\s\s|[\n\t]|[{\[]\s|\s[}\]:,]", outside)
        names = list(json.loads(text))
        assert names == [name for name in PERSON["properties"] if name in names]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_answers_match_the_whole_pattern(engine, pattern):
    found = [answer for answer in answers(engine, regex_grammar(TOKENIZER, pattern)) if answer.finished]
    assert len(found) >= 4
    for answer in found:
        assert re.fullmatch(pattern, TOKENIZER.decode_bytes(answer.ids).decode())


def test_an_answer_may_end_exactly_where_it_matches():
    pattern = re.compile("(ab|a)*c?")
    follower = regex_grammar(TOKENIZER, pattern.pattern).follow()
    rng = np.random.default_rng(0)
    for _ in range(100):
        text = "".join(rng.choice(list("aab bc"), int(rng.integers(0, 6))))
        allowed, ends = follower.allowed(np.array(list(text.encode()), np.int64))
        going_on = {chr(token) for token in np.flatnonzero(allowed) if token < 256}
        assert ends == bool(pattern.fullmatch(text))
        beginning = [text + more for more in "abc"]
        alive = {one[-1] for one in beginning if any(pattern.fullmatch(one + rest) for rest in ("", "b"))}
        assert going_on == alive
        assert follower.stuck == (not ends and not alive)


def test_tokens_of_several_bytes_are_allowed_where_they_fit():
    allowed, ends = json_grammar(TOKENIZER, {"type": "array", "items": {"type": "array"}}).follow().allowed(np.zeros(0, np.int64))
    assert {RANKS[token] for token in np.flatnonzero(allowed)} == {b"[", b"[["} and not ends


def test_a_forced_end_and_a_cut_answer(engine):
    grammar = regex_grammar(TOKENIZER, "ab")
    forced = answers(engine, grammar, n=2, max_tokens=10, logit_bias={int(i): -100.0 for i in TOKENIZER.stop_ids})
    assert [(TOKENIZER.decode(answer.ids), answer.finished) for answer in forced] == [("ab", True)] * 2  # the grammar holds
    cut = answers(engine, regex_grammar(TOKENIZER, "[0-9]{50}"), n=2, max_tokens=5)
    assert [answer.finished for answer in cut] == [False, False]
    assert re.fullmatch("[0-9]{5,10}", TOKENIZER.decode(cut[0].ids))


def test_answers_do_not_depend_on_company(engine):
    shaping = [
        Shaping(grammar=json_grammar(TOKENIZER, PERSON)),
        Shaping(grammar=regex_grammar(TOKENIZER, PATTERNS[0])),
        Shaping(),
    ]
    requests = [
        Request([seed + 1], n=2, temperature=1.0, top_p=0.9, max_tokens=30, seed=seed, shaping=shaping[seed % 3])
        for seed in range(9)
    ]
    together = [[c.ids for c in drawn] for drawn in engine.generate(requests)]
    assert together == [[c.ids for c in engine.generate([request])[0]] for request in requests]


def test_a_follower_goes_back_and_starts_anew():
    grammar = json_grammar(TOKENIZER, PERSON)
    text = np.array(TOKENIZER.encode('{"name": "x", "age": 12, "kind": "dog"}'), np.int64)
    fresh = [grammar.follow().allowed(text[:size]) for size in range(len(text) + 1)]
    follower, rng = grammar.follow(), np.random.default_rng(1)
    for size in [*range(len(text) + 1), *rng.integers(0, len(text) + 1, 30)]:
        allowed, ends = follower.allowed(text[:size])
        assert np.array_equal(allowed, fresh[size][0]) and ends == fresh[size][1]
        wrong = np.append(text[:size], ord("#"))  # a draft that the grammar refuses does no harm
        follower.allowed(wrong)


def test_an_answer_outside_the_language_is_cut():
    shaper = Shaper(Shaping(grammar=regex_grammar(TOKENIZER, "ab")), np.array([1]), np.array(TOKENIZER.stop_ids)).for_sample()
    logits = shaper(torch.zeros(TOKENIZER.vocab_size), np.array([ord("x")]), 1.0)
    assert shaper.stuck and set(torch.isfinite(logits).nonzero()[:, 0].tolist()) == set(TOKENIZER.stop_ids)


def test_stuck_rows_end_as_if_cut_by_length(engine, monkeypatch):
    from puna.infer import grammar as module

    monkeypatch.setattr(module.Follower, "_advance", lambda self, text: len(text) < 3)
    [answer, _] = answers(engine, regex_grammar(TOKENIZER, "a*"), n=2, logit_bias={int(i): -100.0 for i in TOKENIZER.stop_ids})
    assert not answer.finished and TOKENIZER.decode(answer.ids[:3], skip_special=True) == "aaa" and len(answer.ids) == 4


def test_an_opening_comes_first(engine):
    grammar = json_grammar(TOKENIZER, {"const": 1}, opening=(TOKENIZER.python_tag_id,))
    assert {tuple(answer.ids) for answer in answers(engine, grammar)} == {(TOKENIZER.python_tag_id, ord("1"))}


REFUSED_PATTERNS = {
    r"(?=a)b": "look-around", r"(?<!a)b": "look-around", r"(a)\1": "backreferences", r"\bx": "lookarounds", "[": "unclosed",
    "[a&&b]": "no answer fits",
}  # fmt: skip
REFUSED_SCHEMAS = [
    ({"not": {"type": "null"}}, "'not'"), ({"if": {}, "then": {}}, "'if'"),
    ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
    ({"type": "array", "items": {"minProperties": 1}}, "'minProperties'"), ({"type": "string", "format": "llama"}, "llama"),
    ({"$ref": "https://example.com/schema"}, "https://example.com/schema"), ({"$dynamicRef": "#a"}, "'$dynamicRef'"),
    ({"oneOf": [{"type": "string"}, {"minLength": 2}]}, "oneOf"), ({"x-guidance": {"lenient": True}}, "'x-guidance'"),
    ({"type": "strnig"}, "strnig"), ({"maxlength": 3}, "'maxlength'"), ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    ({"exclusiveMinimum": True, "minimum": 1}, "'exclusiveMinimum'"), ({"$ref": "#"}, "no answer fits"), ({"enum": []}, "empty"),
    ({"$schema": "http://json-schema.org/draft-04/schema#"}, "draft-04"), ({"properties": 5}, "'properties'"), ("{", "not JSON"),
    ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "no answer fits"),
]  # fmt: skip


@pytest.mark.parametrize("pattern", REFUSED_PATTERNS)
def test_patterns_that_cannot_be_enforced_are_refused(pattern):
    with pytest.raises(InputError) as refused:
        regex_grammar(TOKENIZER, pattern)
    assert REFUSED_PATTERNS[pattern] in refused.value.what


@pytest.mark.parametrize(("schema", "named"), REFUSED_SCHEMAS, ids=str)
def test_schemas_that_cannot_be_enforced_are_refused_by_name(schema, named):
    with pytest.raises(InputError) as refused:
        json_grammar(TOKENIZER, schema)
    assert named in refused.value.what


def test_a_grammar_needs_a_stop_token_and_the_models_tokenizer():
    shaping = Shaping(grammar=regex_grammar(TOKENIZER, "a"))
    with pytest.raises(InputError, match="stop token"):
        Engine(network(), stop_ids=[], pages=20).add(Request([1], shaping=shaping))
    with pytest.raises(InputError, match="another tokenizer"):
        Engine(network(270), stop_ids=[], pages=20).add(Request([1], shaping=shaping))
