"""The annotation page: two answers side by side, four strengths each way, an edit of the better one (paper 4.1.2, 4.2.1, 4.3.5).

A page on loopback for one or several annotators, each with a file of their own. The server holds no state of its own: what is
open follows from the source and the annotator's file, so it can be stopped at any moment. Which model wrote an answer is not
told, and which side it stands on is drawn anew for each annotator.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from pydantic import BaseModel, ValidationError

from puna.core.errors import InputError, PunaError
from puna.core.lease import Lease
from puna.post.annotations import Annotations, Decision, follow_up, left_of, preference
from puna.post.comparisons import Comparison
from puna.post.paired_models import PairedModels
from puna.serve.local import BODY_BYTES, address, bind, listen, local_app, read_body
from puna.serve.protocol import ApiError, as_api_error
from puna.tokenizer.dialog import MessageRow, Row, reason_of

HOST = "127.0.0.1"
PAGE_FILES = {
    "/": ("annotate.html", "text/html"),
    "/chat.css": ("chat.css", "text/css"),
    "/annotate.css": ("annotate.css", "text/css"),
    "/annotate.js": ("annotate.js", "text/javascript"),
}
Asked = TypeVar("Asked", bound=BaseModel)


class Who(Row):
    """A request that needs no more than a name."""

    annotator: str


class Which(Who):
    """A request about one comparison."""

    item: str


class Decided(Decision):
    """A decision and whose it is."""

    annotator: str


def serve(
    comparisons: Sequence[Comparison], folder: Path, *, seed: int = 0, models: PairedModels | None = None, port: int = 8010
) -> None:
    """Serve the page until Ctrl-C; annotations go to `folder`. InputError when the port or the folder is in use."""
    listening = bind(HOST, port)
    try:
        with Lease(folder / "annotate.lock").held("the folder of annotations", fix="stop the other page, or name another --out"):
            print(
                f"{len(comparisons)} comparisons · page {address(HOST, listening)}/ · rows in {folder} · Ctrl-C stops", flush=True
            )
            listen(build_app(comparisons, folder, seed=seed, models=models), listening)
    except KeyboardInterrupt:
        print("stopped")
    finally:
        listening.close()
        if models is not None:
            models.close()


def build_app(comparisons: Sequence[Comparison], folder: Path, *, seed: int = 0, models: PairedModels | None = None) -> FastAPI:
    """The app around these comparisons; `models` write the answers of those that have none."""
    desk = Desk(comparisons, folder, seed, models)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        if models is not None:
            models.close()

    app = local_app("annotate", HOST, PAGE_FILES, lifespan)

    @app.get("/api/state")
    async def state(annotator: str = "") -> Any:
        return await desk.state(annotator)

    @app.post("/api/decide")
    async def decide(request: Request) -> Any:
        asked = await _read(request, Decided)
        await desk.decide(asked)
        return await desk.state(asked.annotator)

    @app.post("/api/skip")
    async def skip(request: Request) -> Any:
        asked = await _read(request, Which)
        comparison = await desk.at_hand(asked.annotator, asked.item)
        desk.of(asked.annotator).skip(comparison.id)
        return await desk.state(asked.annotator)

    @app.post("/api/undo")
    async def undo(request: Request) -> Any:
        asked = await _read(request, Who)
        desk.of(asked.annotator).undo()
        return await desk.state(asked.annotator)

    return app


class Desk:
    """Who has decided what, and what is shown to whom."""

    def __init__(self, comparisons: Sequence[Comparison], folder: Path, seed: int, models: PairedModels | None):
        self.comparisons, self.folder, self.seed, self.models = comparisons, folder, seed, models
        self._annotators: dict[str, Annotations] = {}
        self._shown: dict[str, Comparison] = {}
        self._alike: set[str] = set()  # comparisons for which the models gave no two answers

    def of(self, name: str) -> Annotations:
        """The annotations of one person; ApiError 400 for a name or a file that cannot be used."""
        if name not in self._annotators:
            try:
                self._annotators[name] = Annotations(self.folder, name)
            except InputError as error:
                raise as_api_error(error) from None
        return self._annotators[name]

    async def state(self, name: str) -> dict[str, Any]:
        """What the page shows: progress, and the comparison at hand (null when all is done)."""
        own = self.of(name)
        waiting = (comparison for comparison in own.open(self.comparisons) if comparison.id not in self._alike)
        found = None
        for comparison in waiting:
            found = comparison if comparison.candidates else await self._answered(comparison)
            if found is not None:
                break
            self._alike.add(comparison.id)
        if self.models is not None:
            for comparison in islice(waiting, 1):
                self.models.start(comparison)  # the next one, while this one is read
        item = None
        if found is not None:
            self._shown[name] = found
            item = _view(found, left_of(found, name, self.seed))
        return {
            **own.counts,
            "annotator": name,
            "total": len(self.comparisons) + own.counts["opened"] - len(self._alike),
            "no_choice": len(self._alike),
            "can_undo": bool(own.done),
            "can_follow": self.models is not None,
            "item": item,
        }

    async def at_hand(self, name: str, item: str) -> Comparison:
        """The comparison this annotator was shown last; ApiError 409 if it is another one by now."""
        if self._shown.get(name) is None:
            await self.state(name)
        shown = self._shown.get(name)
        if shown is None or shown.id != item or self.of(name).knows(item):
            raise ApiError(409, "this comparison was decided elsewhere, or another one is at hand")
        return shown

    async def decide(self, asked: Decided) -> None:
        """Write the row; ApiError for an edit or a message to go on with that does not fit."""
        comparison = await self.at_hand(asked.annotator, asked.item)
        decision = Decision(**asked.model_dump(exclude={"annotator"}))
        left = left_of(comparison, asked.annotator, self.seed)
        if decision.edited is not None and decision.edited.role != "assistant":
            raise ApiError(400, "an edited answer is the assistant's", param="edited")
        if decision.follow is not None:
            self._check_follow(comparison, left, decision, asked.annotator)
        self.of(asked.annotator).decide(comparison, left, decision, self.seed)

    def _check_follow(self, comparison: Comparison, left: int, decision: Decision, name: str) -> None:
        if self.models is None:
            raise ApiError(400, "dialogs go on only where models write the answers (--models)", param="follow")
        row = preference(comparison, left, decision, name, self.seed)
        best, then = row.candidates[row.ranking[0]].messages[0], follow_up(row)
        role = "user" if best.tool_calls is None else "ipython"
        if decision.follow is None or decision.follow.role != role:
            raise ApiError(400, f"after this answer comes a message of role '{role}'", param="follow")
        if then is None or not self.models.fits(then):
            raise ApiError(400, "the dialog would be longer than the models read: save without going on", param="follow")

    async def _answered(self, comparison: Comparison) -> Comparison | None:
        assert self.models is not None
        try:
            return await asyncio.shield(asyncio.wrap_future(self.models.start(comparison)))
        except asyncio.CancelledError:  # Ctrl-C, which does not wait for a draw
            raise ApiError(503, "the page is being stopped") from None
        except PunaError as error:
            raise as_api_error(error) from None


def _view(comparison: Comparison, left: int) -> dict[str, Any]:
    """What the page is told of a comparison: nothing about who wrote what."""
    followed = comparison.followed or ([], [])
    sides = [
        {"message": _plain(candidate.messages[0]), "followed": [_plain(message) for message in after]}
        for candidate, after in zip(comparison.candidates, followed, strict=True)
    ]
    context = [_plain(message) for message in comparison.context]
    return {"id": comparison.id, "context": context, "tools": comparison.tools, "left": sides[left], "right": sides[1 - left]}


def _plain(message: MessageRow) -> dict[str, Any]:
    return {"role": message.role, "content": message.content, "tool_calls": message.tool_calls}


async def _read(request: Request, cls: type[Asked]) -> Asked:
    """A checked request body; ApiError 400 or 413."""
    try:
        return cls.model_validate_json(await read_body(request, BODY_BYTES))
    except ValidationError as error:
        raise ApiError(400, reason_of(error)) from None
