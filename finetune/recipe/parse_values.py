"""Parse values of a recipe by the types of their keys: text is taken as typed, everything else is YAML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from omegaconf import OmegaConf

from finetune.recipe.fields import Section
from finetune.recipe.schema import Recipe


def parse_value(key: Sequence[str], text: str) -> Any:
    """The value of `text`, from a command line, for a key given by its parts, such as `("data", "folder")`.

    Text stays as typed, `${…}` included. Empty text, and `null` for a key that may be null, is None. An unknown key
    takes text. Raises YAMLError where the key takes no text and the value is not valid YAML.
    """
    types = key_types(key)
    known = [member for member in types if member is not type(None)]
    if not text or (text == "null" and len(known) < len(types)):
        return None
    lists_texts = any(map(_is_string_tuple_type, known))
    if all(_is_string_type(member) or _is_string_tuple_type(member) for member in known) and not (
        lists_texts and text.startswith("[")
    ):
        return escape_interpolation(text)
    try:
        value = parse_yaml_mapping(f"value: {text}", {"value": types})["value"]
    except yaml.YAMLError:
        value = {}
        if not any(map(_is_string_type, known)):
            raise
    return escape_interpolation(text if isinstance(value, dict) and any(map(_is_string_type, known)) else value)


def escape_interpolation(value: Any) -> Any:
    """The value with `${` escaped, so that OmegaConf does not take it for a reference to another key."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value)
    if isinstance(value, dict):
        return {key: escape_interpolation(item) for key, item in value.items()}
    return [escape_interpolation(item) for item in value] if isinstance(value, list) else value


def unescape_interpolation(value: Any) -> Any:
    """The inverse of `escape_interpolation`; nothing is resolved."""
    if isinstance(value, str):
        return re.sub(r"(\\+)\$\{", lambda match: match[1][: len(match[1]) // 2] + "${", value)
    if isinstance(value, dict):
        return {key: unescape_interpolation(item) for key, item in value.items()}
    return [unescape_interpolation(item) for item in value] if isinstance(value, list) else value


def parse_yaml_mapping(document: str, types: dict[str, list[Any]]) -> dict[str, Any]:
    """The values of a YAML mapping; those that are text, by the `types` of their keys, stay as written."""
    return OmegaConf.to_container(OmegaConf.create(quote_strings(document, types)))  # type: ignore[return-value]


def quote_strings(document: str, keys: dict[str, list[Any]] | None = None) -> str:
    """The same YAML with quotes around values of keys that take text, so that `yes`, `1` and `2024-05-01` stay text.

    `keys` are types of the outermost keys, by default those of a recipe. Raises YAMLError.
    """
    node = yaml.compose(document, Loader=yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode):
        return document
    for name, value in node.value:
        _quote(value, key_types([name.value]) if keys is None else keys.get(name.value, []))
    return yaml.serialize(node, Dumper=yaml.SafeDumper, allow_unicode=True, width=10**6)


def _quote(node: yaml.Node, types: Sequence[Any]) -> None:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            _quote(value, _child_types(types, name.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _quote(item, _child_types(types, str(index)))
    elif node.style is None and not node.tag.endswith(":null"):
        known = [member for member in types if member is not type(None)]
        if known and all(_is_string_type(member) or _is_string_tuple_type(member) for member in known):
            node.tag, node.style = "tag:yaml.org,2002:str", "'"


def key_types(key: Sequence[str]) -> list[Any]:
    """The types of a key's values, the members of a union one by one; none for an unknown key."""
    types: list[Any] = [Recipe]
    for part in key:
        types = _child_types(types, part)
    return types


def _child_types(types: Sequence[Any], part: str) -> list[Any]:
    return [member for outer in types for inner in _inner(outer, part) for member in _union_members(inner)]


def _inner(outer: Any, part: str) -> Iterator[Any]:
    """The type of one field, item or value of a section, a tuple or a dictionary."""
    origin = get_origin(outer)
    if isinstance(outer, type) and issubclass(outer, Section):
        field = outer.model_fields.get(part) or outer.model_fields.get(outer.current_key(part))
        if field is not None:
            yield field.annotation
    elif origin is tuple and re.fullmatch(r"-?\d+", part):
        yield get_args(outer)[0]
    elif origin is dict:
        yield get_args(outer)[1]


def _union_members(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _union_members(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _union_members(member)
    else:
        yield annotation


def _is_string_type(member: Any) -> bool:
    words = get_args(member) if get_origin(member) is Literal else ()
    return member in (str, Path) or (bool(words) and all(isinstance(word, str) for word in words))


def _is_string_tuple_type(member: Any) -> bool:
    return get_origin(member) is tuple and all(_is_string_type(item) for item in get_args(member) if item is not ...)
