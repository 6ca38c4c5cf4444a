"""Own parts: a module, class or function of the user in place of a name that a recipe offers.

In Python a key holds the object itself. In a file it is text, `package.module:Name`. Only `import_parts` and
`import_named_parts` import such text, when the user asks for it; text in a run folder, which somebody else may have
written, is never imported.
"""

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, PlainSerializer, PlainValidator
from pydantic_core import PydanticCustomError

from finetune.errors import RecipeError, suggest_similar
from finetune.recipe.validation_errors import OWN_PART_MESSAGE

CODE_NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_<][\w.<>]*")
KEYS = (
    *("model.backbone", "model.temporal", "model.head"),
    *("train.loss", "train.sampler", "augment.transform", "evaluate.metric"),
)
SomeRecipe = TypeVar("SomeRecipe", bound=BaseModel)


def is_own(part: object) -> bool:
    """Whether the value of a key is an own part: an object, or text that names one."""
    return part is not None and (not isinstance(part, str) or CODE_NAME.fullmatch(part) is not None)


def part_name(part: object) -> str:
    """The text for an own part in a file: `package.module:Name` of a function or class, or of an object's class."""
    if isinstance(part, str):
        return part
    named = part if hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}:{named.__qualname__}"


def _validate(part: object) -> object:
    if callable(part) or (isinstance(part, str) and CODE_NAME.fullmatch(part)):
        return part
    raise PydanticCustomError("own_part", OWN_PART_MESSAGE)


OwnPart = Annotated[Callable[..., Any], PlainValidator(_validate), PlainSerializer(part_name, return_type=str)]


def own_parts(recipe: BaseModel) -> dict[str, Any]:
    """The own parts of a recipe by key."""
    return {key: part for key in KEYS if is_own(part := _value(recipe, key))}


def imported_parts(recipe: BaseModel) -> dict[str, Any]:
    """The own parts of a recipe that are objects, by key."""
    return {key: part for key, part in own_parts(recipe).items() if not isinstance(part, str)}


def require_object(part: Any, key: str) -> Any:
    """The own part of a key. Raises RecipeError where it is only named, as in the recipe of a run folder."""
    if isinstance(part, str):
        _refuse_named({key: part})
    return part


def require_imported_model(recipe: BaseModel) -> None:
    """Raises RecipeError for all own parts of the section `model` that are only named."""
    model_parts = {key: part for key, part in own_parts(recipe).items() if key.startswith("model.")}
    if named := {key: part for key, part in model_parts.items() if isinstance(part, str)}:
        _refuse_named(named)


def _refuse_named(named: Mapping[str, str]) -> NoReturn:
    listed = ", ".join(f"{key} is {name}" for key, name in named.items())
    raise RecipeError(
        f"{listed}: code that was not imported, as the recipe of a run folder may be somebody else's. "
        f"{how_to_give(named)}"
    )


def how_to_give(named: Mapping[str, str]) -> str:
    """What to do to have own parts of a run, {key: name}, imported."""
    options = " ".join(f"--part {key}={name.replace('__main__:', 'MODULE:')}" for key, name in named.items())
    objects = ", ".join(f"{key!r}: …" for key in named)
    return (
        f"To use it, give it again: {options} with finetune evaluate, predict, timeline, watch, report --explain and "
        "train --resume, or "
        f"open_run(run, parts={{{objects}}}) in Python"
    )


def replace_parts(recipe: SomeRecipe, parts: Mapping[str, Any], *, where: str) -> SomeRecipe:
    """The recipe with its own parts replaced by objects. Raises RecipeError for one that it does not name."""
    named = own_parts(recipe)
    for key, part in parts.items():
        if key not in named:
            has = f"; it has {', '.join(named)}" if named else ""
            raise RecipeError(f"{where}: has no own part {key!r}{suggest_similar(key, named)}{has}")
        if not _same_name(part_name(part), part_name(named[key])):
            raise RecipeError(f"{where}: {key} is {part_name(named[key])}, not {part_name(part)}")
        recipe = _with_value(recipe, key, part)
    return recipe


def _same_name(one: str, other: str) -> bool:
    """Whether two names may be of one part; a script or notebook, the module `__main__`, may be any module."""
    (module, _, name), (other_module, _, other_name) = one.partition(":"), other.partition(":")
    return name == other_name and (module == other_module or "__main__" in {module, other_module})


def import_named_parts(named: Iterable[str]) -> dict[str, Any]:
    """{key: object} of texts `KEY=package.module:Name`, which are imported; for the parts of a run, by `open_run`."""
    parts = {}
    for text in named:
        key, _, name = text.partition("=")
        if not CODE_NAME.fullmatch(name):
            raise RecipeError(f"{text!r} names no own part; write it as model.head=package.module:Name")
        parts[key] = _import(name, key)
    return parts


def import_parts(recipe: SomeRecipe, keys: Iterable[str]) -> SomeRecipe:
    """The recipe with what these keys name imported; modules in the current folder are found too."""
    for key in keys:
        part = _value(recipe, key)
        if isinstance(part, str) and is_own(part):
            recipe = _with_value(recipe, key, _import(part, key))
    return recipe


def _import(name: str, key: str) -> Any:
    module, _, path = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        part = importlib.import_module(module)
        for attribute in path.split("."):
            part = getattr(part, attribute)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"{key}: {name} cannot be imported: {error}") from None
    if not callable(part):
        raise RecipeError(f"{key}: {name} is not a module, class or function, but {type(part).__name__}")
    return part


def _value(recipe: BaseModel, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(recipe, section), name)


def _with_value(recipe: SomeRecipe, key: str, value: Any) -> SomeRecipe:
    section, _, name = key.partition(".")
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update={name: value})})
