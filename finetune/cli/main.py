"""The `finetune` command: all groups of commands, and how a run of it ends.

Exit status: 0 done · 1 what was checked must be mended, some files of many could not be predicted, or a bug of ours,
with its traceback · 2 something the user can mend, in plain words on stderr · 130 interrupted.
"""

import sys
from typing import Annotated

import typer
import typer.exceptions

from finetune.cli import check, compare, data, features, predict, recipes, results, run, search, study
from finetune.cli.terminal import sanitized_output
from finetune.errors import FinetuneError
from finetune.version import VERSION

app = typer.Typer(
    name="finetune",
    help="Fine-tune pretrained backbones on your own labelled videos.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)
app.command()(check.check)
app.command()(features.probe)
app.command()(run.train)
app.command()(study.kfold)
app.command("tasks-ablation")(study.tasks_ablation)
app.command("lr-find")(search.lr_find)
app.command()(search.sweep)
app.command("sweep-stages")(study.sweep_stages)
app.command()(study.average)
app.command()(features.features)
app.command()(results.evaluate)
app.command()(predict.predict)
app.command()(results.report)
app.command()(compare.compare)
app.command()(compare.runs)
app.add_typer(recipes.app, name="recipes")
app.add_typer(data.app, name="data")


def _version(show: bool) -> None:
    if show:
        print(f"finetune {VERSION}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run a command and exit with its status."""
    with sanitized_output():
        status = _status()
    sys.exit(status)


def _status() -> int:
    try:
        status = app(standalone_mode=False)
    except FinetuneError as error:
        print(f"finetune: {error}", file=sys.stderr)
        status = 2
    except typer.exceptions.TyperException as error:  # a command or option that is not there, and the like
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        status = getattr(error, "exit_code", 2)
    except MemoryError:
        print(
            "finetune: needs more memory than there is; take fewer frames, smaller pictures or batches", file=sys.stderr
        )
        status = 2
    except (KeyboardInterrupt, typer.Abort):
        print("finetune: interrupted", file=sys.stderr)
        status = 130
    return status if isinstance(status, int) else 0
