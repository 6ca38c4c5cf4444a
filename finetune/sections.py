"""What the sections of a recipe are made of: their base, ranges of numbers, and choices that several of them have."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Pooling = Literal[
    "mean",
    "max",
    "topk",
    "vlad",
    "diff",
    "slope",
    "concat",
    "conv1d",
    "gru",
    "lstm",
    "attention",
    "transformer",
]
Head = Literal["linear", "mlp", "cosine"]


def _place(value: object) -> object:
    """A path, but for places in an object store, which stay text."""
    return Path(value) if isinstance(value, str) and "://" not in value else value


Place = Annotated[Path | str, BeforeValidator(_place)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
