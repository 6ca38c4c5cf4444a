"""Errors of a recipe's keys in words: what is wrong with the value, and which key or word was perhaps meant."""

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from finetune.errors import suggest_similar

TASK_SECTION = "tasks.<name>"
OWN_PART_MESSAGE = "should be your own module, class or function"
MESSAGES = {
    "tuple_type": "should be a list",
    "dict_type": "should be a mapping",
    "too_short": "needs at least one item",
}


def describe_errors(
    section: type[BaseModel], details: Sequence[ErrorDetails], *, lists: Sequence[str] = ()
) -> list[str]:
    """One line for each invalid key of a section; the errors of a union's members are joined into one line.

    `lists` are keys that have a list of sections as their value: one of their keys is suggested as `phases.0.lr`.
    """
    known = section_keys(section)
    reasons: dict[str, list[str]] = {}
    for detail in details:
        kind, place = detail["type"], _dotted_key(detail, known)
        if kind == "extra_forbidden":
            reasons[f"unknown key {place!r}{_nearest_key(place, known, lists)}"] = []
        elif kind == "missing":
            reasons[f"{place} is missing"] = []
        elif kind == "too_short" and any(_lies_inside(other, detail) for other in details):
            continue  # an invalid item is not counted, and has its own line
        else:
            value = detail["input"]
            shown = f" is {value!r}" if isinstance(value, str | int | float | None) else ""
            reasons.setdefault(f"{place}{shown}: " if place else "", []).append(_message(detail))
    return [start + _join(messages) for start, messages in reasons.items()]


def section_keys(section: type[BaseModel]) -> list[str]:
    """All keys of a section and of the sections in it, dotted, without list indices; keys of a task under <name>."""
    keys = []
    for name, field in section.model_fields.items():
        inner = f"{name}.<name>" if name == "tasks" else name
        keys += [name, *(f"{inner}.{key}" for part in _sections_in(field.annotation) for key in section_keys(part))]
    return list(dict.fromkeys(keys))


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that a value of this type may be or contain."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)


def _join(messages: Sequence[str]) -> str:
    """Messages of a union's members as one; that a key also takes own parts is said only where nothing else is."""
    others = [message for message in dict.fromkeys(messages) if message != OWN_PART_MESSAGE]
    return " or ".join(others or messages)


def _lies_inside(detail: ErrorDetails, outer: ErrorDetails) -> bool:
    inner, place = detail["loc"], outer["loc"]
    return len(inner) > len(place) and inner[: len(place)] == place


def _message(detail: ErrorDetails) -> str:
    """What is wrong with a value, in the words of a recipe."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in MESSAGES:
        return MESSAGES[kind]
    if kind == "model_type":
        other = (
            "" if isinstance(detail["input"], str | int | float | None) else f", not {type(detail['input']).__name__}"
        )
        return f"should be {context['class_name']} or a mapping of its keys{other}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ").partition(", unable to")[0]
    if kind == "literal_error" and isinstance(detail["input"], str):
        message += suggest_similar(detail["input"], re.findall("'([^']*)'", context["expected"]))
    return message


def _dotted_key(detail: ErrorDetails, known: Sequence[str]) -> str:
    """The key as in an override, without the names that pydantic gives to members of a union."""
    parts, words = detail["loc"], {word for key in known for word in key.split(".")}
    unknown_last = detail["type"] == "extra_forbidden"
    own = parts[1:2] if parts[:1] == ("tasks",) else ()  # the name of a task
    shown = [str(part) for part in parts if isinstance(part, int) or part in words or part in own]
    return ".".join([*shown, str(parts[-1])] if unknown_last and str(parts[-1]) not in words else shown)


def _nearest_key(place: str, known: Sequence[str], lists: Sequence[str]) -> str:
    """Suggestions for an unknown key: the same name in another section, else similar ones of its section, else of any
    section, else all of its section."""
    parent, dot, word = place.rpartition(".")
    keys = [key.rpartition(".") for key in known]
    within = re.sub(r"\.\d+", "", parent) if not parent.startswith("tasks.") else TASK_SECTION
    siblings = {last: f"{parent}{dot}{last}" for section, _, last in keys if section == within}
    # Of keys that several sections have, another section's goes before a task's.
    sections = sorted((key for key in keys if key[0]), key=lambda key: key[0] != TASK_SECTION)
    elsewhere = {last: f"{section}{'.0' if section in lists else ''}.{last}" for section, _, last in sections}
    same_name = {word: elsewhere[word]} if word in elsewhere else {}
    for words in (same_name, siblings, elsewhere):
        if near := get_close_matches(word, words):
            return f" (nearest: {', '.join(words[other] for other in near)})"
    return f" (there are {', '.join(siblings)})"
