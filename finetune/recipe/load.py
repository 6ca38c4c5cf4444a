"""Find, read, override, check and write recipe files; all errors of a recipe are reported together."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from finetune.arguments import check_arguments
from finetune.errors import RecipeError, suggest_similar
from finetune.recipe.own_parts import import_parts, own_parts, part_name
from finetune.recipe.parse_values import escape_interpolation, parse_value, quote_strings, unescape_interpolation
from finetune.recipe.renamed_keys import rename_override_keys, rename_recipe_keys, warn_of_renamed_keys
from finetune.recipe.schema import Data, Recipe
from finetune.recipe.validation_errors import describe_errors, section_keys
from finetune.storage.object_store import UntrustedUrl, is_url

BRACKETED = re.compile(r"\[([^\[\]]*)\]")  # [0] in phases[0].lr, the same as phases.0.lr
REFERENCE = re.compile(r"(?<!\\)(\\\\)*\$\{")  # with a backslash before it, it is text
RUN_FOLDER_FILES = ("manifest.csv", "classes.json", "environment.json", "checkpoints", "evaluation", "study.json")
MAX_CHARACTERS, MAX_DEPTH = 1_000_000, 16
YAML_ERRORS = (OSError, ValueError, TypeError, RecursionError, YAMLError, OmegaConfBaseException)


@check_arguments
def load_recipe(name: str, overrides: str | Sequence[str] = (), *, allow_code: bool = False) -> Recipe:
    """Read a recipe by its name (`resnet50_ucf`) or file, apply `key.sub=value` overrides, check all of it.

    References such as `${oc.env:HOME}` are resolved, but not in the recipe of a run folder, which somebody else may
    have written: there they are refused, and URLs of object stores are marked as untrusted (see `mark_untrusted_urls`).
    With `allow_code`, own parts that the recipe or an override names, `package.module:Name`, are imported; without it
    they are refused. The recipe of a run folder keeps their names as text. Raises RecipeError with all errors, one per
    line.
    """
    path, overrides = find_recipe(name), list_overrides(overrides)
    in_run_folder = _is_in_run_folder(path)
    tree, renamed = _read_tree(path, in_run_folder=in_run_folder)
    if not in_run_folder:
        warn_of_renamed_keys(renamed, where=str(path))
    _apply_overrides(tree, overrides)
    try:
        plain = OmegaConf.to_container(tree, resolve=not in_run_folder)
        plain = unescape_interpolation(plain) if in_run_folder else plain
    except OmegaConfBaseException as error:
        raise RecipeError(f"{path}: {str(error).splitlines()[0]}") from None
    recipe = check_recipe(plain, where=str(path))
    recipe = _import_own_parts(recipe, overrides, path, in_run_folder=in_run_folder, allow_code=allow_code)
    return mark_untrusted_urls(recipe, overrides) if in_run_folder else recipe


def _import_own_parts(
    recipe: Recipe, overrides: Sequence[str], path: Path, *, in_run_folder: bool, allow_code: bool
) -> Recipe:
    """The recipe with own parts imported that the user names: not those that only a run folder names."""
    given = {override.partition("=")[0] for override in overrides}
    named = {key: part for key, part in own_parts(recipe).items() if key in given or not in_run_folder}
    if named and not allow_code:
        listed = ", ".join(f"{key} ({part_name(part)})" for key, part in named.items())
        raise RecipeError(
            f"{path}: {listed} would import and run code; if you trust it, use --allow-code with `finetune train` or "
            "`finetune kfold`, or load_recipe(…, allow_code=True) in Python"
        )
    return import_parts(recipe, named)


def list_overrides(overrides: str | Sequence[str]) -> list[str]:
    """Overrides as a list; one override may be given as text."""
    return [overrides] if isinstance(overrides, str) else list(overrides)


def check_recipe(plain: object, *, where: str) -> Recipe:
    """A Recipe from plain dictionaries and lists. Raises RecipeError, whose message names `where`."""
    if not isinstance(plain, dict):
        raise RecipeError(f"{where}: a recipe is a mapping of sections, this is {type(plain).__name__}")
    try:
        return Recipe.model_validate(plain)
    except ValidationError as error:
        lists = [key for key, value in plain.items() if isinstance(value, list)]
        lines = describe_errors(Recipe, error.errors(), lists=lists)
        raise RecipeError("\n".join(f"{where}: {line}" for line in lines)) from None


def check_saved_recipe(plain: dict[str, Any], *, where: str) -> Recipe:
    """A Recipe from plain values that a run has saved: old names of keys are accepted without a warning."""
    try:
        renamed, _ = rename_recipe_keys(plain)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from None
    return check_recipe(renamed, where=where)


def data_section(overrides: Sequence[str]) -> Data:
    """The section `data` from overrides alone. Raises RecipeError for keys of other sections."""
    tree = OmegaConf.create({})
    _apply_overrides(tree, overrides)
    if others := sorted(set(map(str, tree)) - {"data"}):
        raise RecipeError(
            f"{others[0]}: is a setting of training; only data.manifest, data.folder and the like fit here"
        )
    return check_recipe(OmegaConf.to_container(tree, resolve=True), where="settings on the command line").data


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe, see `recipe_yaml`."""
    path.write_text(recipe_yaml(recipe), encoding="utf-8")


def recipe_yaml(recipe: Recipe) -> str:
    """A resolved recipe, defaults included, as YAML that `load_recipe` reads back to an equal value."""
    return OmegaConf.to_yaml(OmegaConf.create(escape_interpolation(recipe.model_dump(mode="json"))))


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, `recipes/<name>.yaml` in the current folder, or a recipe of the package."""
    direct = Path(name)
    if direct.suffix in {".yaml", ".yml"} or "/" in name:
        if direct.is_file():
            return direct
        raise RecipeError(f"there is no recipe file {name!r}")
    for folder in recipe_folders():
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = list_recipes()
    raise RecipeError(
        f"there is no recipe {name!r}{suggest_similar(name, known)}; there are {', '.join(sorted(known))}"
    )


def recipe_folders() -> list[Path]:
    """Folders that are searched for recipes, in this order: in the current folder, then in the package."""
    package = Path(__file__).parent.parent
    installed, checkout = package / "recipes", package.parent / "recipes"
    return [Path("recipes"), installed if installed.is_dir() else checkout]


def list_recipes() -> dict[str, Path]:
    """All recipes that can be given by name, with their files."""
    paths = (path for folder in reversed(recipe_folders()) for path in sorted(folder.glob("*.yaml")))
    return {path.stem: path for path in paths}


def read_yaml(text: str, *, where: Path) -> object:
    """Plain dictionaries and lists from a recipe of unknown origin; references in it stay text.

    Raises RecipeError for invalid YAML, and for YAML that could exhaust the memory: too long, nested too deep, or with
    aliases.
    """
    try:
        _check_harmless(text, where)
        return OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except YAML_ERRORS as error:
        raise _yaml_error(where, error) from None


def mark_untrusted_urls(recipe: Recipe, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a run folder with its object-store URLs marked as untrusted, except those given in an override.

    Nothing is downloaded from an untrusted URL (see `object_store.local_copy`).
    """
    given = {override.partition("=")[2].strip(" '\"") for override in overrides}

    def marked(place: object) -> object:
        return UntrustedUrl(place) if isinstance(place, str) and is_url(place) and place not in given else place

    data = {key: marked(getattr(recipe.data, key)) for key in ("manifest", "packed")}
    tasks = {name: task.model_copy(update={"manifest": marked(task.manifest)}) for name, task in recipe.tasks.items()}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=data), "tasks": tasks})


def _is_in_run_folder(path: Path) -> bool:
    """Whether a recipe file is in a run folder, next to files that training wrote."""
    return path.name == "recipe.yaml" and any((path.parent / name).exists() for name in RUN_FOLDER_FILES)


def _read_tree(path: Path, *, in_run_folder: bool) -> tuple[DictConfig, dict[str, str]]:
    """The tree of a recipe file by its new keys, and the old keys found in it with their new names."""
    try:
        text = path.read_text(encoding="utf-8")
        if in_run_folder:
            _check_harmless(text, path, references=False)
        OmegaConf.create(text)  # for messages with the lines of the file
        tree = OmegaConf.create(quote_strings(text))
    except YAML_ERRORS as error:
        raise _yaml_error(path, error) from None
    if not isinstance(tree, DictConfig):
        raise RecipeError(f"{path}: a recipe is a mapping of sections")
    if isinstance(tree.get("phases"), str):  # so that phases.epochs=30 can be set
        tree.phases = {"schedule": tree.phases}
    try:
        plain, renamed = rename_recipe_keys(OmegaConf.to_container(tree, resolve=False))  # type: ignore[arg-type]
    except ValueError as error:
        raise RecipeError(f"{path}: {error}") from None
    return OmegaConf.create(plain), renamed


def _yaml_error(where: Path, error: Exception) -> RecipeError:
    return RecipeError(f"{where}: cannot be read as YAML: {' '.join(str(error).split()) or type(error).__name__}")


def _check_harmless(text: str, where: Path, *, references: bool = True) -> None:
    depth = 0
    if len(text) > MAX_CHARACTERS:
        raise RecipeError(f"{where}: is not a recipe: it has {len(text):,} characters")
    for event in yaml.parse(text):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        line = event.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise RecipeError(f"{where}, line {line}: is not a recipe: nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.AliasEvent):
            raise RecipeError(f"{where}, line {line}: an alias *{event.anchor} is not followed here; write the value")
        if not references and isinstance(event, yaml.ScalarEvent) and REFERENCE.search(event.value):
            raise RecipeError(
                f"{where}, line {line}: a reference {event.value!r} is not resolved in a run folder, which somebody "
                "else may have written; write the value, or use a recipe of your own"
            )


def _apply_overrides(tree: DictConfig, overrides: Sequence[str]) -> None:
    try:
        overrides, renamed = rename_override_keys([_without_brackets(override) for override in overrides])
    except ValueError as error:
        raise RecipeError(str(error)) from None
    warn_of_renamed_keys(renamed, stacklevel=3)
    for override in overrides:
        _override(tree, override)


def _without_brackets(override: str) -> str:
    """The override with `phases[0].lr` in its key as `phases.0.lr`; its value stays as it is."""
    key, equals, value = override.partition("=")
    return BRACKETED.sub(r".\1", key) + equals + value


def _override(tree: DictConfig, override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"{override!r} is not an override; write key.sub=value, for example train.batch_size=16")
    section, *rest = key.split(".")
    if rest and isinstance(tree.get(section), ListConfig) and not re.fullmatch(r"-?\d+", rest[0]):
        raise RecipeError(
            f"{override!r} cannot be applied: {section} is a list, whose items have numbers; write {section}.0 for "
            "the first"
        )
    try:
        OmegaConf.update(tree, key, parse_value([section, *rest], value), merge=False, force_add=True)
    except IndexError:
        raise RecipeError(f"{override!r} cannot be applied: the list has no such item; the first item is 0") from None
    except (YAMLError, OmegaConfBaseException, ValueError, TypeError, AssertionError) as error:
        raise RecipeError(f"{override!r} cannot be applied: {str(error).splitlines()[0]}") from None


def known_keys() -> list[str]:
    """All keys of a recipe as in an override, without list indices; keys of a task under <name>."""
    return section_keys(Recipe)
