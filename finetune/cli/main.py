"""The `finetune` command: all groups of commands, and how a run of it ends.

Exit status: 0 success · 1 `check` found errors, `predict` could not read some files, or a bug of ours, with its
traceback · 2 a mistake that the user can fix, explained on stderr · 130 interrupted.
"""

import gc
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
import typer.exceptions

from finetune.cli import (
    check,
    compare,
    data,
    export,
    features,
    index,
    labelling,
    predict,
    publish,
    recipes,
    results,
    search,
    serve,
    study,
    summarize,
    sweep,
    timeline,
    train,
    tubes,
    watch,
)
from finetune.cli.help import Command, Group
from finetune.cli.terminal import renamed_keys_on_stderr, sanitized_output
from finetune.errors import FinetuneError
from finetune.version import VERSION

INTERRUPTED = 130
DATA, TRAIN, EVALUATE, USE = "Data", "Train", "Evaluate", "Use"
# Groups in the order of `finetune --help`; each command with its line there, which fits into 80 columns.
COMMANDS: tuple[tuple[str, str, Callable[..., Any] | typer.Typer, str], ...] = (
    (DATA, "data", data.app, "Generate, download or pack labelled videos."),
    (DATA, "check", check.check, "Find unreadable files, duplicates, leaks and shortcuts."),
    (DATA, "probe", features.probe, "Score simple classifiers on frozen features."),
    (DATA, "features", features.features, "Precompute and cache frozen-stage features."),
    (TRAIN, "recipes", recipes.app, "List, show, copy and validate recipes."),
    (TRAIN, "train", train.train, "Train from a recipe, evaluate, and write a report."),
    (TRAIN, "lr-find", sweep.lr_find, "Run a learning-rate range test."),
    (TRAIN, "sweep", sweep.sweep, "Compare recipe settings by grid or Optuna search."),
    (TRAIN, "sweep-stages", study.sweep_stages, "Fine-tune each backbone stage alone and compare them."),
    (TRAIN, "tasks-ablation", study.tasks_ablation, "Compare multi-task training with one model per task."),
    (TRAIN, "kfold", study.kfold, "Cross-validate: train one model per fold."),
    (TRAIN, "average", study.average, "Average weights: WiSE-FT of one run, a soup of several."),
    (EVALUATE, "evaluate", results.evaluate, "Score a run on a split or on another labelled set."),
    (EVALUATE, "report", results.report, "Rebuild a report from the saved results of a run."),
    (EVALUATE, "compare", compare.compare, "Test whether runs differ significantly on shared clips."),
    (EVALUATE, "suspects", labelling.suspects, "List labels that are likely wrong."),
    (EVALUATE, "runs", compare.runs, "List the runs in a folder."),
    (USE, "next-to-label", labelling.next_to_label, "List the unlabelled clips that teach most."),
    (USE, "predict", predict.predict, "Predict classes, boxes, motion or numbers for videos."),
    (USE, "tubes", tubes.tubes, "List tracked objects as rows to label and train on."),
    (USE, "timeline", timeline.timeline, "Find events in recordings: classes over time."),
    (USE, "search", search.search, "Find the clips of an index that are most like a query."),
    (USE, "summarize", summarize.summarize, "Summarize recordings: the parts that show most."),
    (USE, "watch", watch.watch, "Predict a camera or a stream while it runs."),
    (USE, "index", index.index, "Compute a vector for each clip, to be searched."),
    (USE, "serve", serve.serve, "Serve a page and an API to try, browse and label."),
    (USE, "export", export.export, "Export a run to ONNX, OpenVINO or torch.export."),
    (USE, "card", publish.card, "Write a model card: figures, limits, licence."),
    (USE, "push", publish.push, "Publish a model on the Hugging Face hub."),
)

app = typer.Typer(
    name="finetune",
    help="Fine-tune pretrained backbones on your own labelled videos.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for panel, name, command, line in COMMANDS:
    if isinstance(command, typer.Typer):
        for member in command.registered_commands:
            member.cls = Command
        app.add_typer(command, name=name, help=line, rich_help_panel=panel, cls=Group)
    else:
        app.command(name, cls=Command, short_help=line, rich_help_panel=panel)(command)


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
    try:
        with sanitized_output(), renamed_keys_on_stderr():
            status = _status()
    finally:  # also where the reader of a pipe has gone
        gc.unfreeze()  # of `import_quickly`: a library prints objects that are never collected as leaks
    sys.exit(status)


def _status() -> int:
    try:
        status = app(prog_name="finetune", standalone_mode=False)
        if status == INTERRUPTED:  # a KeyboardInterrupt that Typer has caught
            raise KeyboardInterrupt
    except FinetuneError as error:
        print(f"finetune: {error}", file=sys.stderr)
        status = 2
    except typer.exceptions.TyperException as error:  # an unknown command or option, and the like
        error.message = error.message.replace("Value error, ", "")
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        status = getattr(error, "exit_code", 2)
    except MemoryError:
        print("finetune: out of memory; use fewer frames, smaller frames or smaller batches", file=sys.stderr)
        status = 2
    except (KeyboardInterrupt, typer.Abort):
        print("finetune: interrupted", file=sys.stderr)
        status = INTERRUPTED
    return status if isinstance(status, int) else 0
