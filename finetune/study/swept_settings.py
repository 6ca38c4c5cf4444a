"""The settings that a sweep compares: every combination of the values on the command line. Imports no torch."""

import itertools
from collections.abc import Sequence

from finetune.errors import RecipeError
from finetune.recipe.load import load_recipe
from finetune.recipe.schema import Recipe

Settings = tuple[str, ...]  # each key.sub=value


def grid(overrides: Sequence[str]) -> list[Settings]:
    """Every combination of the values in overrides `key=a,b`; commas in brackets belong to a value."""
    keys = [override.partition("=")[0] for override in overrides]
    if repeated := {key for key in keys if keys.count(key) > 1}:
        raise RecipeError(f"{min(repeated)} is set twice; list its values once: {min(repeated)}=a,b")
    values = [
        [f"{key}={value.strip()}" for value in split_outside_brackets(override.partition("=")[2])]
        for key, override in zip(keys, overrides, strict=True)
    ]
    return list(itertools.product(*values))


def split_outside_brackets(text: str) -> list[str]:
    """Split a text at the commas that are outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in ")}]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def swept_keys(points: Sequence[Settings]) -> Settings:
    """Keys that have more than one value."""
    return tuple(values[0].partition("=")[0] for values in zip(*points, strict=True) if len(set(values)) > 1)


def fixed_settings(points: Sequence[Settings]) -> Settings:
    """The settings that all points share."""
    keys = swept_keys(points)
    return tuple(setting for setting in points[0] if setting.partition("=")[0] not in keys)


def refuse_swept_data(keys: Sequence[str]) -> None:
    """Raise RecipeError where data are swept."""
    if swept := [key for key in keys if key == "data" or key.startswith("data.")]:
        raise RecipeError(f"{swept[0]} cannot be swept: all runs must be evaluated on the same clips")


def load_point_recipes(name: str, points: Sequence[Settings]) -> list[Recipe]:
    """The recipe of each point. Raises RecipeError with the problems of all of them, and where data are swept."""
    refuse_swept_data(swept_keys(points))
    recipes, problems = [], []
    for point in points:
        try:
            recipes.append(load_recipe(name, point))
        except RecipeError as error:
            problems += str(error).splitlines()
    if problems:
        raise RecipeError("\n".join(dict.fromkeys(problems)))
    return recipes
