"""Tool calls as the chat format writes them and as OpenAI's API and Hugging Face's chat templates list them.

The format's text is `{"name": ..., "parameters": {...}}`, several joined by "; "; the list is
`[{"type": "function", "function": {"name": ..., "arguments": "{...}"}}]`. Arguments stay the text they are: parsed and
written again they would have other spaces, and so other tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

ROLE_OF = {"developer": "system", "tool": "ipython", "function": "ipython"}  # of OpenAI's messages in the chat format
NAME, PARAMETERS, END, BETWEEN = '{"name": ', ', "parameters": ', "}", "; "


def calls_text(calls: Iterable[dict[str, Any]]) -> str:
    """The text of listed calls; ValueError for one without a name."""
    return BETWEEN.join(_text(call) for call in calls)


def _text(call: dict[str, Any]) -> str:
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError("a tool call needs function.name and function.arguments")
    arguments = function.get("arguments") or "{}"
    arguments = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return NAME + json.dumps(function["name"], ensure_ascii=False) + PARAMETERS + arguments + END


def calls_list(text: str) -> list[dict[str, Any]] | None:
    """The calls that `calls_text` makes exactly this text of; None if there are none such (code, or other spaces)."""
    decoder, calls, at = json.JSONDecoder(), [], 0
    try:
        while True:
            name, after_name = decoder.raw_decode(text, at + len(NAME))
            first = after_name + len(PARAMETERS)
            _, last = decoder.raw_decode(text, first)
            calls.append({"type": "function", "function": {"name": name, "arguments": text[first:last]}})
            at = last + len(END + BETWEEN)
            if last + len(END) >= len(text):
                break
        return calls if calls_text(calls) == text else None
    except (ValueError, RecursionError):
        return None
