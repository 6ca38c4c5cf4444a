"""`finetune recipes`: list, show, copy and validate them."""

import re
import shutil
from pathlib import Path
from typing import Annotated

import typer
import yaml

from finetune.cli.arguments import Overrides, RecipeName, recipe_source
from finetune.cli.help import complete_recipe
from finetune.errors import RecipeError, shorten_list
from finetune.recipe.load import find_recipe, list_recipes, load_recipe
from finetune.recipe.schema import Phase, Schedule
from finetune.text import count

app = typer.Typer(no_args_is_help=True)
RecipeFile = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        autocompletion=complete_recipe,
        help="Recipe name (see `finetune recipes list`) or YAML file.",
    ),
]


@app.command("list")
def list_command() -> None:
    """List all recipes, each with the first line of its description.

    Example: finetune recipes list
    """
    recipes = list_recipes()
    width = max(map(len, recipes), default=0)
    for name, path in sorted(recipes.items()):
        print(f"{name:{width}}  {first_comment_line(path)}")


@app.command()
def show(recipe: RecipeFile) -> None:
    """Print a recipe file.

    Example: finetune recipes show folder
    """
    print(find_recipe(recipe).read_text(encoding="utf-8"), end="")


@app.command()
def copy(
    recipe: RecipeFile,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="New file, or folder to copy into.")],
) -> None:
    """Copy a recipe to a file that you can edit.

    Example: finetune recipes copy folder mine.yaml
    """
    source = find_recipe(recipe)
    target = target / source.name if target.is_dir() else target
    if target.exists():
        raise RecipeError(f"{target}: already exists; give another name")
    if target.suffix not in {".yaml", ".yml"}:
        raise RecipeError(f"{target}: a recipe file must end in .yaml")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as error:
        raise RecipeError(f"{target}: cannot be written: {error.strerror}") from None
    print(target)


@app.command()
def validate(
    recipe: RecipeName,
    overrides: Overrides = None,
) -> None:
    """Check the keys, types and ranges of a recipe; reads no data.

    Example: finetune recipes validate mine.yaml phases.0.epochs=3
    """
    from finetune.model.backbone.known_names import check_name

    source = recipe_source(recipe, overrides)
    settings = load_recipe(source.recipe, source.overrides)
    check_name(settings.model.backbone)
    file = find_recipe(source.recipe)
    if isinstance(settings.phases, Schedule):
        print(f"{file}: valid, phases from schedule {settings.phases.schedule}")
        return
    lengths = [
        count(phase.steps, "step") if phase.steps else count(phase.num_epochs(1), "epoch") for phase in settings.phases
    ]
    print(f"{file}: valid, {count(len(lengths), 'phase')}: {shorten_list(lengths)}")


@app.command()
def phases(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Print the phases of a recipe with the learning rates of all stages.

    The phases of a built-in schedule are written out.

    Example: finetune recipes phases folder phases=gradual
    """
    source = recipe_source(recipe, overrides)
    settings = load_recipe(source.recipe, source.overrides)

    from finetune.model.begin_phase import begin_phase
    from finetune.model.classifier import build_from_settings
    from finetune.model.freezing.freeze import describe
    from finetune.model.lora import check_lora, merge_lora
    from finetune.recipe.phase_presets import resolve_phases

    chosen = settings.model.model_copy(update={"weights": "none"})
    model = build_from_settings(chosen, ["one", "two"], num_frames=settings.clip.num_frames, size=settings.clip.size)
    written_out = resolve_phases(settings.phases, tuple(model.stages))
    print("phases:")
    for phase in written_out:
        print(f"  - {phase_as_yaml(phase)}")
    for index, phase in enumerate(written_out):
        check_lora(phase.unfreeze)
        _, groups = begin_phase(model, phase)
        print(f"\nphases.{index}: {phase.words}\n{describe(model, groups)}")
        merge_lora(model)


def phase_as_yaml(phase: Phase) -> str:
    """A phase as one line of YAML, without the keys that have their default value."""
    chosen = {"unfreeze": phase.unfreeze, **phase.model_dump(mode="json", exclude_defaults=True)}
    return yaml.safe_dump(chosen, default_flow_style=True, sort_keys=False, width=1000).strip()


def first_comment_line(path: Path) -> str:
    """First line of the comment at the top of a recipe."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return re.sub(r"^#\s*", "", first)
