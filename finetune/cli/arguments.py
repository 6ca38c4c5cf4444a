"""Arguments and options that several commands take, each with its help text."""

from pathlib import Path
from typing import Annotated

import typer

RecipeName = Annotated[str, typer.Argument(help="Recipe name (see `finetune recipes list`) or YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Recipe settings to override, as key.sub=value.")]
RunArgument = Annotated[Path, typer.Argument(help="Run folder, as printed by `finetune train`.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder that now holds the run's files, if they were moved.")]
Views = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Clips sampled per video; predictions are combined. Default: the recipe's."),
]
