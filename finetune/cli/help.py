"""What the help of a command shows beside its options, and what a shell completes."""

import re
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from finetune.recipe.load import known_keys, list_recipes


class _PlainTypes:
    """Help without types that say nothing: `<bool>` of a flag, and that of an argument, which its name tells."""

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if isinstance(param, TyperOption) and param.is_flag:
                param.metavar = ""
            elif isinstance(param, TyperArgument):
                param.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
        return params


class Command(_PlainTypes, TyperCommand):
    pass


class Group(_PlainTypes, TyperGroup):
    pass


def complete_recipe(incomplete: str) -> list[str]:
    """Recipes by name; the shell itself completes files where none fits."""
    return [name for name in sorted(list_recipes()) if name.startswith(incomplete)]


def complete_override(incomplete: str) -> list[str]:
    """Keys of a recipe as in an override, with `=`: of a list of phases those of the first."""
    keys = [re.sub(r"^phases\.", "phases.0.", key) for key in known_keys() if "<" not in key]
    return [f"{key}=" for key in keys if key.startswith(incomplete)]
