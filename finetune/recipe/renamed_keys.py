"""Recipe keys that were renamed: the one table old -> new, and what applies it.

Old keys keep working for one version, with a warning that names the new key. Recipes of runs trained before are
upgraded without one.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# By section of a recipe: `tasks` has the keys of every task, `phases` those of every phase and of a built-in schedule.
RENAMED_KEYS: dict[str, dict[str, str]] = {
    "data": {"time_limit": "decode_timeout"},
    "clip": {"short": "short_clips"},
    "augment": {
        "color": "color_jitter",
        "auto": "auto_augment",
        "erase": "random_erasing",
        "views": "cached_views",
    },
    "tasks": {"at": "feature_stage", "space": "spatial_pooling"},
    "multitask": {
        "divide_by": "normalize_losses",
        "relation": "soft_sharing_heads",
        "structure": "soft_sharing_towers",
    },
    "phases": {
        "train": "unfreeze",
        "carry": "keep_optimizer_state",
        "anchor": "l2_sp",
        "every": "epochs_per_stage",
    },
    "train": {
        "anchor": "l2_sp",
        "recalibrate": "precise_bn",
        "skip_nan": "max_nan_steps",
        "keep": "keep_checkpoints",
        "checkpointing": "activation_checkpointing",
    },
}
SECTION_OF_CLASS = {"Task": "tasks", "Phase": "phases", "Schedule": "phases"}  # other classes have their section's name


class RenamedKeyWarning(DeprecationWarning):
    """A recipe key with an old name."""


def current_key(section: str, key: str) -> str:
    """The name that a key of a section has now."""
    return RENAMED_KEYS.get(section, {}).get(key, key)


def rename_section_keys(values: Any, section: str) -> tuple[Any, dict[str, str]]:
    """The values of one section by their new keys, and the old keys among them with their new names.

    A value that is not a mapping is returned unchanged. Raises ValueError where an old and its new key are both set.
    """
    if not isinstance(values, Mapping):
        return values, {}
    renamed = {old: new for old, new in RENAMED_KEYS.get(section, {}).items() if old in values}
    if both := [(old, new) for old, new in renamed.items() if new in values]:
        old, new = both[0]
        raise ValueError(f"{old} is the old name of {new}, and both are set; keep {new}")
    return {renamed.get(key, key): value for key, value in values.items()}, renamed


def rename_recipe_keys(recipe: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A recipe as plain dictionaries and lists by its new keys, and each old key found in it with its new name, dotted.

    Values of any other shape are returned as they are. Raises ValueError where an old and its new key are both set.
    """
    result = dict(recipe)
    renamed: dict[str, str] = {}
    for path, parent, key in _sections(result):
        section = path.partition(".")[0]
        try:
            parent[key], renamed_in_section = rename_section_keys(parent[key], section)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        renamed |= {f"{path}.{old}": f"{path}.{new}" for old, new in renamed_in_section.items()}
    return result, renamed


def _sections(recipe: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Each section's dotted path, its parent and its key there; lists and mappings of sections become copies."""
    for name in [name for name in recipe if name in RENAMED_KEYS]:
        if name == "tasks" and isinstance(recipe[name], Mapping):
            recipe[name] = dict(recipe[name])
            yield from ((f"tasks.{task}", recipe[name], task) for task in list(recipe[name]))
        elif isinstance(recipe[name], list):
            recipe[name] = list(recipe[name])
            yield from ((f"{name}.{index}", recipe[name], index) for index in range(len(recipe[name])))
        else:
            yield name, recipe, name


def rename_override_keys(overrides: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Overrides `key.sub=value` by their new keys, and each old key among them with its new name.

    Raises ValueError where an old and its new key are both set.
    """
    keys = [override.partition("=")[0] for override in overrides]
    renamed = {key: new for key in keys if (new := _current_dotted_key(key)) != key}
    if both := [(old, new) for old, new in renamed.items() if new in keys]:
        old, new = both[0]
        raise ValueError(f"{old} is the old name of {new}, and both are set; keep {new}")
    return [
        renamed.get(key, key) + override[len(key) :] for key, override in zip(keys, overrides, strict=True)
    ], renamed


def _current_dotted_key(key: str) -> str:
    section, *rest = key.split(".")
    own = (
        1 if section == "tasks" or (rest and re.fullmatch(r"-?\d+", rest[0])) else 0
    )  # after a task's name, or a number
    if len(rest) > own:
        rest[own] = current_key(section, rest[own])
    return ".".join([section, *rest])


def warn_of_renamed_keys(renamed: Mapping[str, str], *, where: str = "", stacklevel: int = 2) -> None:
    """A RenamedKeyWarning for each old key; `where` is a file or a class, `stacklevel` counts from the caller."""
    for old, new in renamed.items():
        text = f"{where}: {old}" if where else old
        text += f" is now called {new}; the old name works in this version only"
        warnings.warn(text, RenamedKeyWarning, stacklevel=stacklevel + 1)
