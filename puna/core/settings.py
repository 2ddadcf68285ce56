"""Settings of a stage: a frozen pydantic model whose fields are the identity of the work, unless marked otherwise.

An execution field (device, workers, paths, log cadence) changes how the work is done and not what comes out, so it is
left out of the fingerprint by type and not by habit.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

# bounds of a number stand in its type, beside pydantic's PositiveInt, NonNegativeFloat, ...
Share = Annotated[float, Field(ge=0, le=1)]
Portion = Annotated[float, Field(ge=0, lt=1)]  # never the whole


class Settings(BaseModel):
    """Base of every stage's settings: unknown keys and infinite numbers are refused, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """The fields that decide what comes out, as JSON values, execution fields left out at every depth."""
        return _identity(self)


def execution(default: Any, **kwargs: Any) -> Any:
    """A field that says how the work is done (threads, device, workers), never what comes out."""
    return Field(default, json_schema_extra={"execution": True}, **kwargs)


def _identity(model: BaseModel) -> dict[str, Any]:
    dumped = model.model_dump(mode="json")
    kept: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("execution"):
            continue
        value = getattr(model, name)
        kept[name] = _identity(value) if isinstance(value, BaseModel) else dumped[name]
    return kept
