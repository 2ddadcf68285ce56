"""A claim named in the recipe before the numbers are known: model `better` passes more of the same items than model `control`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from puna.core.errors import InputError
from puna.evals.stats import paired


class Comparison(BaseModel):
    """`name` is the claim's title in the report, `better` and `control` are stages that make a model.

    With `family` it is a claim about the items of that family alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    better: str
    control: str
    family: str | None = None

    def items(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The items that the claim is about."""
        return [item for item in items if self.family in (None, item["family"])]

    def test(self, better: Sequence[bool], control: Sequence[bool]) -> dict[str, Any]:
        """The paired test as JSON: names, n, difference, low, high, wins, losses, p."""
        return {**self.model_dump(exclude_none=True), "n": len(better), **dataclasses.asdict(paired(better, control))}


def check_names(comparisons: Iterable[Comparison], models: Sequence[str], where: str) -> None:
    """InputError when a comparison names a model that is not scored."""
    for comparison in comparisons:
        for model in (comparison.better, comparison.control):
            if model not in models:
                raise InputError(
                    f"compare names '{model}', which is not among the models scored",
                    where=f"{where}: {comparison.name}",
                    fix=f"add it under `from`, or use one of: {', '.join(models)}",
                )
