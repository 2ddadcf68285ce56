"""Forms of answers: OpenAI's `response_format`, vLLM's `guided_json` and `guided_regex`, a tool that must be called.

A schema means what JSON Schema says: where `additionalProperties` is not false, further properties may come. What cannot be
enforced is refused, whatever `strict` says.
"""

from __future__ import annotations

from typing import Any

from puna.infer.grammar import Grammar, json_grammar, regex_grammar
from puna.infer.grammar_schema import JSON_OBJECT
from puna.serve.protocol import ApiError, Sampling
from puna.tokenizer.bpe import Tokenizer


def grammar_of(asked: Sampling, tokenizer: Tokenizer) -> Grammar | None:
    """What the answers must be; None if nothing is asked. ApiError or InputError for what cannot be enforced."""
    forms = asked.forms()
    if len(forms) > 1:
        raise ApiError(400, f"an answer has one form: {' and '.join(forms)} are two", param=list(forms)[1])
    for kind, source in forms.items():
        if kind == "guided_regex":
            return regex_grammar(tokenizer, source)
        if kind == "tool_choice":
            return json_grammar(tokenizer, _calls(source), opening=(tokenizer.python_tag_id,))
        return json_grammar(tokenizer, JSON_OBJECT if source is None else source)
    return None


def _calls(functions: list[dict[str, Any]]) -> dict[str, Any]:
    """The schema of a call of one of these functions, each a scope of its own for the references in it."""
    cases = []
    for number, function in enumerate(functions):
        parameters = function.get("parameters") or JSON_OBJECT
        if not isinstance(parameters, dict):
            raise ApiError(400, f"the parameters of '{function['name']}' are no JSON schema", param="tools")
        properties = {"name": {"const": function["name"]}, "parameters": {"$id": f"puna:tool/{number}", **parameters}}
        cases.append({"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False})
    return {"anyOf": cases}
