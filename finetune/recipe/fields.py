"""Building blocks of the recipe's sections: base class, number ranges, paths, and choices shared by sections."""

import os
import textwrap
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic._internal._model_construction import ModelMetaclass

from finetune.errors import RecipeError
from finetune.recipe.renamed_keys import SECTION_OF_CLASS, current_key, rename_section_keys, warn_of_renamed_keys
from finetune.recipe.validation_errors import describe_errors

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Pooling = Literal[
    "mean",
    "max",
    "topk",
    "vlad",
    "diff",
    "slope",
    "concat",
    "changes",
    "conv1d",
    "gru",
    "lstm",
    "attention",
    "transformer",
]
Head = Literal["linear", "mlp", "cosine"]


def _expand_home(value: object) -> object:
    """The path with `~` and `~user` expanded to the home folder, if it exists; other values stay."""
    return os.path.expanduser(value) if isinstance(value, str | Path) else value  # noqa: PTH111, that of Path raises


def _parse_path_or_url(value: object) -> object:
    """A Path; URLs of an object store stay text."""
    return Path(str(_expand_home(value))) if isinstance(value, str) and "://" not in value else value


LocalPath = Annotated[Path, BeforeValidator(_expand_home)]
PathOrUrl = Annotated[Path | str, BeforeValidator(_parse_path_or_url)]
FileOrName = Annotated[str, BeforeValidator(_expand_home)]


class SectionType(ModelMetaclass):
    """The type of sections: a call with wrong arguments, `Phase(unfreez="head")`, raises RecipeError."""

    def __call__(self, *args: Any, **values: Any) -> Any:
        section: Any = self
        name = section.__name__
        if args:
            first = next(iter(section.model_fields))
            raise RecipeError(f"{name} takes its settings by name, for example {name}({first}=…)")
        try:
            return super().__call__(**values)
        except ValidationError as error:
            lines = describe_errors(section, error.errors())
            raise RecipeError("\n".join(f"{name}: {line}" for line in lines)) from None


class Section(BaseModel, metaclass=SectionType):
    """Base of a recipe's sections: frozen, refuses unknown keys, takes old names of keys with a warning."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _take_old_keys(cls, values: Any) -> Any:
        values, renamed = rename_section_keys(values, cls._section())
        warn_of_renamed_keys(renamed, where=cls.__name__, stacklevel=4)  # the caller of the class
        return values

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Adds what the keys mean to the docstring, for `help` in Python."""
        texts = [f"{key}: {field.description}" for key, field in cls.model_fields.items() if field.description]
        lines = [textwrap.fill(text, width=100, subsequent_indent="    ") for text in texts]
        cls.__doc__ = "\n".join([cls.__doc__ or "", "", *lines])

    def __repr_args__(self) -> Any:
        """Only keys with another value than their default, so that a section or a recipe is one readable line."""
        fields = type(self).model_fields
        return [(key, value) for key, value in super().__repr_args__() if key and value != fields[key].default]

    def __setattr__(self, key: str, value: Any) -> None:
        name = type(self).__name__
        raise RecipeError(
            f"{name}: {key} cannot be changed; make a changed copy with model_copy(update={{{key!r}: …}})"
        )

    @classmethod
    def current_key(cls, key: str) -> str:
        """The name that a key has now."""
        return current_key(cls._section(), key)

    @classmethod
    def _section(cls) -> str:
        return SECTION_OF_CLASS.get(cls.__name__, cls.__name__.lower())
