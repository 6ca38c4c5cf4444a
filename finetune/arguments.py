"""Wrong arguments in a call of a public function or class: refused in words, before anything is computed."""

import inspect
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from functools import cache, wraps
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from typing_extensions import is_typeddict

from finetune.errors import ArgumentError, suggest_similar

Target = TypeVar("Target", bound=Callable[..., Any])
NUMPY_FRIENDLY: dict[Any, Any] = {int: Integral, float: Real, Path: (str, PathLike)}  # what else stands for a type
PARAMETER = inspect.Parameter


def check_arguments(target: Target) -> Target:
    """A function, or a class by its constructor, that raises ArgumentError for arguments that it does not take.

    Names, number and types are checked by the signature and its annotations; signature and docstring stay.
    """
    if isinstance(target, type):
        target.__init__ = _checked(target.__init__)  # type: ignore[misc]
        return target
    return _checked(target)


def check_range(value: float, low: float, high: float = math.inf, *, name: str) -> None:
    """Raises ArgumentError where an argument, named `name`, is not between `low` and `high`, both included."""
    if not low <= value <= high:
        needed = f"at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
        raise ArgumentError(f"{name} is {value}; it is {needed}")


def _checked(function: Target) -> Target:
    name = function.__qualname__.removesuffix(".__init__")
    signature = inspect.signature(function)

    @cache
    def annotations() -> dict[str, Any]:
        return get_type_hints(function, include_extras=True)

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            arguments = signature.bind(*args, **kwargs).arguments
        except TypeError:
            raise ArgumentError(f"{name}: {_wrong_call(signature, args, kwargs)}") from None
        for argument, value in arguments.items():
            annotation = annotations().get(argument, Any)
            if not _fits(value, annotation):
                raise ArgumentError(f"{name}: {argument} is {_shown(value)}; it takes {_words(annotation)}")
            if isinstance(value, str | PathLike) and "\0" in str(value):
                raise ArgumentError(f"{name}: {argument} is {str(value)!r}; no text or path has a zero character")
        return function(*args, **kwargs)

    return checked  # type: ignore[return-value]


def _wrong_call(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """What is wrong with arguments that cannot be bound to a signature."""
    known = {name: parameter for name, parameter in signature.parameters.items() if name != "self"}
    for name in kwargs:
        if name not in known:
            near = suggest_similar(name, known) or f"; there are {', '.join(known)}"
            return f"there is no argument {name!r}{near}"
    by_position = [name for name, parameter in known.items() if parameter.kind == PARAMETER.POSITIONAL_OR_KEYWORD]
    given = args[1:] if "self" in signature.parameters else args
    if len(given) > len(by_position):
        named = [name for name in known if name not in by_position]
        return (
            f"takes {len(by_position)} arguments by position, not {len(given)}; by name: {', '.join(named) or 'none'}"
        )
    if twice := [name for name in by_position[: len(given)] if name in kwargs]:
        return f"{twice[0]} is given by position and by name"
    needed = [name for name, parameter in known.items() if parameter.default is PARAMETER.empty]
    return f"needs {', '.join(name for name in needed if name not in [*by_position[: len(given)], *kwargs])}"


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value may stand for an annotation; True for annotations that this module does not know."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in inner)
    if origin is Annotated:
        return _fits(value, inner[0])
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is Iterable:
        return _is_listed(value)  # an iterator must not be used up
    if origin is Sequence:
        return _is_listed(value) and all(_fits(item, inner[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _fits(key, inner[0]) and _fits(item, inner[1]) for key, item in value.items()
        )
    if origin is tuple:
        kinds = inner[:1] * len(value) if inner[-1] is ... and isinstance(value, Sized) else inner
        return isinstance(value, tuple | list) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if is_typeddict(annotation):
        return isinstance(value, Mapping)
    if annotation in (int, float) and isinstance(value, bool):
        return False
    kind = origin or annotation
    return kind is Any or not isinstance(kind, type) or isinstance(value, NUMPY_FRIENDLY.get(kind, kind))


def _is_listed(value: Any) -> bool:
    """Whether a value is a list, an array with an axis, or the like; a text or a mapping is none."""
    if isinstance(value, str | bytes | Mapping):
        return False
    return isinstance(value, Iterable) and getattr(value, "shape", True) != ()


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str | int | float | None) else f"of type {type(value).__name__}"


def _words(annotation: Any) -> str:
    """An annotation as text, such as `str, Path or Run`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        *others, last = [_words(part) for part in inner]
        return f"{', '.join(others)} or {last}"
    if origin is Annotated:
        return _words(inner[0])
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in (Sequence, Iterable):
        return f"a list of {_words(inner[0])}"
    if origin in (Callable, Mapping):
        return {Callable: "a function", Mapping: "a mapping"}[origin]
    if origin is tuple:
        return "a tuple" if inner[-1] is ... else f"({', '.join(map(_words, inner))})"
    return "None" if annotation is type(None) else getattr(origin or annotation, "__name__", str(annotation))
