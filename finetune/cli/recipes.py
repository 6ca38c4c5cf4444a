"""`finetune recipes`: list, show, copy and validate them."""

import re
import shutil
from pathlib import Path
from typing import Annotated

import typer

from finetune.errors import RecipeError
from finetune.recipe import find_recipe, list_recipes, load_recipe

app = typer.Typer(help="List, show, copy and validate recipes.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of a recipe or a YAML file.")]


@app.command("list")
def list_command() -> None:
    """Every recipe with the first line of its opening comment."""
    recipes = list_recipes()
    width = max(map(len, recipes), default=0)
    for name, path in sorted(recipes.items()):
        print(f"{name:{width}}  {purpose(path)}")


@app.command()
def show(recipe: Name) -> None:
    """Print a recipe as it is written."""
    print(find_recipe(recipe).read_text(encoding="utf-8"), end="")


@app.command()
def copy(recipe: Name, target: Annotated[Path, typer.Argument(help="New file, or a folder to put it in.")]) -> None:
    """Copy a recipe to a file of yours, to edit it."""
    source = find_recipe(recipe)
    target = target / source.name if target.is_dir() else target
    if target.exists():
        raise RecipeError(f"{target}: is there already")
    if target.suffix not in {".yaml", ".yml"}:
        raise RecipeError(f"{target}: a recipe's name ends in .yaml")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as error:
        raise RecipeError(f"{target}: cannot be written: {error.strerror}") from None
    print(target)


@app.command()
def validate(
    recipe: Name,
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, each key.sub=value.")] = None,
) -> None:
    """Check a recipe's keys, types and ranges, and the name of its backbone; looks at no data."""
    from finetune.model.names import check_name

    settings = load_recipe(recipe, overrides or [])
    check_name(settings.model.backbone)
    epochs = sum(phase.epochs for phase in settings.phases)
    print(f"{find_recipe(recipe)}: valid, {epochs} epochs in {len(settings.phases)} phases")


def purpose(path: Path) -> str:
    """The first line of a recipe's opening comment."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return re.sub(r"^#\s*", "", first)
