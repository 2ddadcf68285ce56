"""One request to an OpenAI-compatible address, tried again while what is wrong may pass.

Labels of documents and synthetic data come from such an address where a recipe names one; nothing is asked anywhere else. The
key is read from the environment when it is needed and stands in no record and no message.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any

from puna.core.errors import InputError, RunError

RETRIED = (408, 409, 429, 500, 502, 503, 504)  # HTTP states that pass
FIRST_WAIT_S = 0.5  # before the second try; doubled before every further one
LONGEST_WAIT_S = 60.0  # however long a server asks for
TOLD = 300  # bytes of a refusal that are shown


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Follows no address to another one: the key would go there too, and a question would arrive without its body."""

    def redirect_request(self, *args: Any) -> None:
        return None


def post_json(
    url: str, body: dict[str, Any], *, key_variable: str = "", timeout_s: float = 120.0, tries: int = 4,
    who: str = "the model", fix: str = "check its address, name and key", again: str = "start it and run again",
) -> Any:  # fmt: skip
    """The JSON value that comes back for `body`.

    Args:
        key_variable: environment variable that holds the key; empty for an address that asks for none.
        who, fix, again: for messages: who is asked, and what to do about a refusal and about silence.

    Raises:
        InputError: the address is none, the key is not there, or the address refuses the request or sends it elsewhere.
        RunError: it does not answer.
    """
    if not url.startswith(("http://", "https://")):
        raise InputError("an address begins with http:// or https://", where=url, fix="for one, http://127.0.0.1:8000/v1")
    headers, key = {"Content-Type": "application/json"}, _key(key_variable) if key_variable else ""
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    opener = urllib.request.build_opener(_StayHere)
    for attempt in range(1, tries + 1):
        try:
            with opener.open(request, timeout=timeout_s) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            if error.code not in RETRIED:
                told = error.read(TOLD).decode("utf-8", "replace")
                told = told.replace(key, "(the key)") if key else told
                raise InputError(f"{who} refused the request ({error.code}): {told}", where=url, fix=fix) from error
            failure: Exception = error
        except (OSError, ValueError, http.client.HTTPException) as error:
            failure = error
        if attempt < tries:
            time.sleep(max(FIRST_WAIT_S * 2 ** (attempt - 1), _asked_wait(failure)))
    what = "answers with what is no JSON" if isinstance(failure, ValueError) else f"does not answer: {failure}"
    raise RunError(f"{who} {what}", where=url, fix=again) from failure


def _asked_wait(failure: Exception) -> float:
    """Seconds that a refusal in passing asks to wait (`Retry-After`, RFC 9110 10.2.3; its form with a date is not read)."""
    asked = failure.headers.get("Retry-After", "") if isinstance(failure, urllib.error.HTTPError) else ""
    return min(float(asked), LONGEST_WAIT_S) if asked.isdecimal() else 0.0


def _key(variable: str) -> str:
    key = os.environ.get(variable, "")
    if not key:
        raise InputError(f"the environment variable {variable} is empty", where="key_variable", fix=f"export {variable}=...")
    return key
