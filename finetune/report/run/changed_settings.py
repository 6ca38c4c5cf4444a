"""List the settings of a recipe that differ from the defaults."""

import json
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from finetune.recipe.renamed_keys import rename_recipe_keys
from finetune.recipe.schema import Phase, Recipe


class ChangedSetting(NamedTuple):
    """A dotted key, with its value in the recipe and its default, as text."""

    key: str
    value: str
    default: str


def recipe_changes(recipe: str) -> list[ChangedSetting]:
    """Changed settings of a recipe's YAML text, in its order; empty for a text that cannot be parsed."""
    try:
        written = OmegaConf.to_container(OmegaConf.create(recipe))
        if not isinstance(written, dict):
            return []
        settings, _ = rename_recipe_keys({str(key): value for key, value in written.items()})
    except (OmegaConfBaseException, YAMLError, ValueError, AssertionError):  # AssertionError for a single number
        return []
    defaults = Recipe().model_dump(mode="json")
    changed = _changed({key: value for key, value in settings.items() if key != "phases"}, defaults, "")
    phases = settings.get("phases")
    if isinstance(phases, list):
        phase_defaults = Phase(unfreeze="head").model_dump(mode="json") | {"unfreeze": "none"}
        for number, phase in enumerate(phases):
            changed += _changed(phase, phase_defaults, f"phases.{number}.") if isinstance(phase, dict) else []
    return changed


def _changed(settings: dict[str, Any], defaults: dict[str, Any], prefix: str) -> list[ChangedSetting]:
    changed = []
    for key, value in settings.items():
        default = defaults.get(key) if isinstance(defaults, dict) else None
        if isinstance(value, dict) and isinstance(default, dict) and default:
            changed += _changed(value, default, f"{prefix}{key}.")
        elif value != default:
            changed.append(ChangedSetting(f"{prefix}{key}", _text(value), _text(default)))
    return changed


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
