"""Recipe files: find, read, override, check and write them; every mistake in one is said at once."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from yaml import YAMLError

from finetune.errors import RecipeError, nearest
from finetune.recipe import Phase, Recipe, Schedule, Section
from finetune.recipe_values import parse_value, quote_texts
from finetune.tasks import Task

A_TASK = "tasks.<name>"


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by its name (`resnet50_ucf`) or file, apply `key.sub=value` overrides, check all of it.

    Raises RecipeError with every mistake in it, one a line.
    """
    path = find_recipe(name)
    tree = _read(path)
    for override in overrides:
        _override(tree, override)
    try:
        plain = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise RecipeError(f"{path}: {str(error).splitlines()[0]}") from None
    return check_recipe(plain, where=str(path))


def check_recipe(plain: object, *, where: str) -> Recipe:
    """A Recipe from plain dictionaries and lists; `where` is named in the message of the RecipeError."""
    if not isinstance(plain, dict):
        raise RecipeError(f"{where}: a recipe is a mapping of sections, this is {type(plain).__name__}")
    try:
        return Recipe.model_validate(plain)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{where}: {line}" for line in _in_words(error.errors()))) from None


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe, defaults included, as YAML that `load_recipe` reads back to an equal value."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(recipe.model_dump(mode="json"))), encoding="utf-8")


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, `recipes/<name>.yaml` here, or one that came with the package."""
    direct = Path(name)
    if direct.suffix in {".yaml", ".yml"} or "/" in name:
        if direct.is_file():
            return direct
        raise RecipeError(f"there is no recipe file {name!r}")
    for folder in recipe_folders():
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = list_recipes()
    raise RecipeError(f"there is no recipe {name!r}{nearest(name, known)}; there are {', '.join(sorted(known))}")


def recipe_folders() -> list[Path]:
    """Where recipes are looked for, first match first: the current folder's, then the package's own."""
    package = Path(__file__).parent
    installed, checkout = package / "recipes", package.parent / "recipes"
    return [Path("recipes"), installed if installed.is_dir() else checkout]


def list_recipes() -> dict[str, Path]:
    """Every recipe that can be named, with its file."""
    found = (path for folder in reversed(recipe_folders()) for path in sorted(folder.glob("*.yaml")))
    return {path.stem: path for path in found}


def _read(path: Path) -> DictConfig:
    try:
        text = path.read_text(encoding="utf-8")
        OmegaConf.create(text)  # for messages with the lines of the file
        tree = OmegaConf.create(quote_texts(text))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{path}: cannot be read as YAML: {reason}") from None
    if not isinstance(tree, DictConfig):
        raise RecipeError(f"{path}: a recipe is a mapping of sections")
    if isinstance(tree.get("phases"), str):  # so that phases.epochs=30 can be set
        tree.phases = {"schedule": tree.phases}
    return tree


def _override(tree: DictConfig, override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"{override!r} is no override; write key.sub=value, for example train.batch_size=16")
    try:
        OmegaConf.update(tree, key, parse_value(key.split("."), value), merge=False, force_add=True)
    except (YAMLError, OmegaConfBaseException, IndexError, ValueError, TypeError, AssertionError) as error:
        raise RecipeError(f"{override!r} cannot be applied: {str(error).splitlines()[0]}") from None


def _in_words(details: Sequence[ErrorDetails]) -> list[str]:
    """One line for each wrong place; a union reports its place once for each member, and is said once."""
    reasons: dict[str, list[str]] = {}
    for detail in details:
        place = _place(detail)
        if detail["type"] == "extra_forbidden":
            reasons[f"unknown key {place!r}{_nearest_key(place)}"] = []
            continue
        if detail["type"] == "too_short" and any(other.startswith(f"{place}.") for other in reasons):
            continue  # an item that is wrong is not counted; it has its own line
        value = detail["input"]
        shown = f" is {value!r}" if isinstance(value, str | int | float | None) else ""
        message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
        reasons.setdefault(f"{place or 'recipe'}{shown}: ", []).append(message)
    return [what + " or ".join(dict.fromkeys(messages)) for what, messages in reasons.items()]


def _place(detail: ErrorDetails) -> str:
    """The place as an override writes it, without the names that pydantic gives the members of a union."""
    parts, words = detail["loc"], {word for key in known_keys() for word in key.split(".")}
    unknown_last = detail["type"] == "extra_forbidden"
    own = parts[1:2] if parts[:1] == ("tasks",) else ()  # the name of a task
    kept = [str(part) for part in parts if isinstance(part, int) or part in words or part in own]
    return ".".join([*kept, str(parts[-1])] if unknown_last and str(parts[-1]) not in words else kept)


def _nearest_key(place: str) -> str:
    """The known keys nearest to an unknown one: in its own section first, then anywhere, else all of the section."""
    parent, dot, word = place.rpartition(".")
    known = [key.rpartition(".") for key in known_keys()]
    within = re.sub(r"\.\d+", "", parent) if not parent.startswith("tasks.") else A_TASK
    siblings = {last: f"{parent}{dot}{last}" for section, _, last in known if section == within}
    # Of keys that several sections have, another section's goes before a task's.
    sections = sorted((key for key in known if key[0]), key=lambda key: key[0] != A_TASK)
    elsewhere = {last: f"{section}.{last}" for section, _, last in sections}
    for words in (siblings, elsewhere):
        if near := get_close_matches(word, words):
            return f" (nearest: {', '.join(words[other] for other in near)})"
    return f" (there are {', '.join(siblings)})"


def known_keys() -> list[str]:
    """Every key of a recipe as it is written in an override, list positions left out; those of a task under <name>."""
    keys = []
    for name, field in Recipe.model_fields.items():
        sections = {"phases": (Phase, Schedule), "tasks": (Task,)}.get(name, (field.annotation,))
        keys.append(name)
        for section in sections:
            if isinstance(section, type) and issubclass(section, Section):
                keys += [f"{A_TASK if name == 'tasks' else name}.{sub}" for sub in section.model_fields]
    return list(dict.fromkeys(keys))
