"""Which settings of a recipe differ from the defaults."""

import json
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from finetune.recipe.renamed_keys import rename_recipe_keys
from finetune.recipe.schema import Phase, Recipe


class ChangedSetting(NamedTuple):
    """A setting, dotted, and its value here and by default, as text."""

    key: str
    here: str
    default: str


def recipe_changes(recipe: str) -> list[ChangedSetting]:
    """Of a recipe's YAML, in its order; none of one that cannot be read."""
    try:
        written = OmegaConf.to_container(OmegaConf.create(recipe))
        if not isinstance(written, dict):
            return []
        here, _ = rename_recipe_keys({str(key): value for key, value in written.items()})
    except (OmegaConfBaseException, YAMLError, ValueError, AssertionError):  # the last of a single number
        return []
    defaults = Recipe().model_dump(mode="json")
    changed = _changed({key: value for key, value in here.items() if key != "phases"}, defaults, "")
    phases = here.get("phases")
    if isinstance(phases, list):
        usual = Phase(unfreeze="head").model_dump(mode="json") | {"unfreeze": "none"}
        for number, phase in enumerate(phases):
            changed += _changed(phase, usual, f"phases.{number}.") if isinstance(phase, dict) else []
    return changed


def _changed(here: dict[str, Any], defaults: dict[str, Any], prefix: str) -> list[ChangedSetting]:
    found = []
    for key, value in here.items():
        default = defaults.get(key) if isinstance(defaults, dict) else None
        if isinstance(value, dict) and isinstance(default, dict) and default:
            found += _changed(value, default, f"{prefix}{key}.")
        elif value != default:
            found.append(ChangedSetting(f"{prefix}{key}", _text(value), _text(default)))
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
