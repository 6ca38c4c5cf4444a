"""Arguments and options that several commands take, each with its help text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from finetune.cli.help import complete_override, complete_recipe
from finetune.errors import RecipeError, RunError, suggest_similar
from finetune.recipe.load import list_recipes

_RECIPE = typer.Argument(
    metavar="RECIPE",
    autocompletion=complete_recipe,
    help="Recipe name (see `finetune recipes list`), YAML file, or your videos: a folder or a CSV file.",
)
RecipeName = Annotated[str, _RECIPE]
OptionalRecipeName = Annotated[str | None, _RECIPE]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        autocompletion=complete_override,
        help="Recipe settings to override, such as train.batch_size=16.",
    ),
]


def _run_folder(text: str) -> Path:
    """The run folder that is named; a published model is downloaded."""
    if not text.startswith("hf:"):
        return Path(text)
    from finetune.run.hub import local_folder  # slow to import

    return local_folder(text)


RunArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", parser=_run_folder, help="Run folder, as printed by `finetune train`, or hf://OWNER/NAME."
    ),
]
RunOption = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="RUN",
        parser=_run_folder,
        help="Run folder, or hf://OWNER/NAME. Default: a frozen pretrained backbone.",
    ),
]
DataRoot = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder that now holds the run's files, if they were moved.")
]
Views = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Clips sampled per video; predictions are combined. Default: the recipe's."),
]
AllowCode = Annotated[
    bool,
    typer.Option("--allow-code", help="Import and run your own parts that the recipe names, package.module:Name."),
]
OwnParts = Annotated[
    list[str] | None,
    typer.Option("--part", metavar="KEY=PART", help="Import an own part of the run: its recipe key, and module:Name."),
]
SplitName = Literal["train", "val", "test"]
DATA_RECIPE = "folder"  # for videos that are given instead of a recipe


@dataclass(frozen=True)
class RecipeSource:
    """A recipe with its overrides; `name` is that of the recipe, or of the videos, for the default output folder."""

    recipe: str
    overrides: list[str]
    name: str


def recipe_source(argument: str, overrides: Sequence[str] | None = None) -> RecipeSource:
    """The recipe of a name or a YAML file; for a folder or a CSV file of videos, DATA_RECIPE with these data."""
    path, settings, known = Path(argument), list(overrides or ()), list_recipes()
    if argument in known or path.suffix in {".yaml", ".yml"}:
        return RecipeSource(argument, settings, path.stem)
    if not path.exists():
        raise RecipeError(
            f"there is no recipe, folder or CSV file {argument!r}{suggest_similar(argument, known)}; "
            f"recipes are {', '.join(sorted(known))}"
        )
    key = "folder" if path.is_dir() else "manifest"
    return RecipeSource(DATA_RECIPE, [f"data.{key}={argument}", *settings], path.resolve().stem)


def check_positive_seconds(options: Mapping[str, float | None]) -> None:
    """Raise RunError for an option, by its name, that is not a number of seconds above 0."""
    for name, value in options.items():
        if value is not None and not 0 < value < float("inf"):
            raise RunError(f"{name} is {value:g}: it must be a number of seconds above 0")
