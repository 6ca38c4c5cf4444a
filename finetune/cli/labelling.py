"""`finetune suspects` and `next-to-label`: labels that are likely wrong, and which clips to label next."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.arguments import OwnParts, RunArgument
from finetune.cli.heavy_imports import import_quickly
from finetune.cli.progress import progress_bar
from finetune.cli.table import print_table
from finetune.cli.wrap import print_wrapped
from finetune.errors import RunError
from finetune.recipe.own_parts import import_named_parts

if TYPE_CHECKING:
    from finetune.labelling.suspects import Suspect


def suspects(
    folder: Annotated[
        Path, typer.Argument(metavar="KFOLD|RUN", help="Folder that `finetune kfold` wrote, or a run folder.")
    ],
    task: Annotated[str | None, typer.Option(metavar="NAME", help="Task. Default: the first one with classes.")] = None,
    number: Annotated[int, typer.Option("-n", min=1, metavar="N", help="Number of suspects to print.")] = 20,
    out: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write all suspects into a CSV.")] = None,
) -> None:
    """List labels that are likely wrong, the most doubtful first.

    A suspect is a clip whose label is contradicted by a model that was not
    trained on it (confident learning). `kfold` gives such predictions for all
    clips, a run only for val and test.

    Example: finetune suspects runs/mine-5-fold -n 50
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: there is no such folder; give one of `finetune kfold`, or a run")
    from finetune.labelling.out_of_fold import read_out_of_fold
    from finetune.labelling.suspects import rank_suspects, suspect_groups
    from finetune.run.folder import RunFolder
    from finetune.storage.atomic import check_writable
    from finetune.text import count

    if out is not None:
        check_writable(out)
    predictions = read_out_of_fold(folder, task)
    every = rank_suspects(predictions)
    found = _not_corrected(every, folder, task)
    _print_suspects(found[:number])
    for group, (suspicious, size) in suspect_groups(found, predictions.clips).items():
        print_wrapped(f"group {group}: {suspicious} of {count(size, 'clip')} are suspects")
    if len(found) < len(every):
        print_wrapped(f"{count(len(every) - len(found), 'suspect')} left out, as corrected in the journal since")
    print_wrapped(f"{count(len(found), 'suspect')} among {count(len(predictions.clips), 'clip')} {predictions.origin}")
    if not RunFolder(folder).study.is_file():
        print("other clips were trained on, or not evaluated; `finetune kfold` predicts all", file=sys.stderr)
    if out is not None:
        _write_suspects(out, found)
        print(out)


def next_to_label(
    run: RunArgument,
    clips: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of clips, of which some have no label yet.")],
    number: Annotated[int, typer.Option("-n", min=1, metavar="N", help="Number of clips.")] = 20,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the clustering.")] = 0,
    out: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write them into a CSV too.")] = None,
    parts: OwnParts = None,
) -> None:
    """List the unlabelled clips that teach most, with the guess of the run.

    Left out are the rows of the run, and clips that were labelled since in the
    journal of its data or of DIR.

    Example: finetune next-to-label runs/mine new_clips/ -n 50
    """
    from finetune.run.read import open_run
    from finetune.storage.atomic import check_writable

    if out is not None:
        check_writable(out)
    opened = open_run(open_run(run), parts=import_named_parts(parts or ()))
    import_quickly("finetune.labelling.next_to_label")
    from finetune.labelling.next_to_label import next_to_label
    from finetune.labelling.unlabelled import find_unlabelled
    from finetune.run.manifest import saved_manifest
    from finetune.text import count

    paths = find_unlabelled(opened, clips)
    with progress_bar("computing features") as progress:
        chosen = next_to_label(
            opened, paths, saved_manifest(opened, needs_files=False), count=number, seed=seed, progress=progress
        )
    columns = {
        "guess": [clip.guess or "(none)" for clip in chosen],
        "probability": [f"{clip.probability:.3f}" for clip in chosen],
        "clip": [str(clip.path) for clip in chosen],
    }
    print_table(columns, right={"probability"})
    print_wrapped(f"{len(chosen)} of {count(len(paths), 'unlabelled clip')}; chosen as {chosen[0].reason}")
    if out is not None:
        _write_csv(out, ["path", "guess", "probability"], [(c.path, c.guess, round(c.probability, 6)) for c in chosen])
        print(out)


def _not_corrected(found: "list[Suspect]", folder: Path, task: str | None) -> "list[Suspect]":
    """The suspects that were not corrected since in the journal of the data, where these are on this machine."""
    from finetune.labelling.journal import Journal
    from finetune.labelling.suspects import without_corrected
    from finetune.labelling.unlabelled import label_column, manifest_of
    from finetune.recipe.tasks import primary_task
    from finetune.run.folder import RunFolder
    from finetune.run.read import open_run

    run = folder / "fold-1" if RunFolder(folder).study.is_file() else folder
    if not RunFolder(run).checkpoints.is_dir():
        return found
    opened = open_run(run)
    place = manifest_of(opened)
    if place is None:
        return found
    is_copy = place.resolve() == RunFolder(run).manifest.resolve()
    column = label_column(opened, task or primary_task(opened.outputs), is_copy=is_copy)
    return found if column is None else without_corrected(found, Journal(place), column)


def _print_suspects(found: "list[Suspect]") -> None:
    columns = {
        "score": [f"{suspect.score:.3f}" for suspect in found],
        "label": [suspect.clip.label or "(none)" for suspect in found],
        "suggested": [suspect.suggested or "(none)" for suspect in found],
        "clip": [suspect.clip.name for suspect in found],
    }
    if found:
        print_table(columns, right={"score"})


def _write_suspects(out: Path, found: "list[Suspect]") -> None:
    from finetune.data.intervals import seconds_text

    has_boxes = any(suspect.clip.boxes for suspect in found)
    rows = []
    for suspect in found:
        clip = suspect.clip
        times = seconds_text(clip.start), seconds_text(clip.end)
        boxes = [clip.boxes] if has_boxes else []
        rows.append((clip.path, *times, *boxes, clip.label, suspect.suggested, round(suspect.score, 6), clip.group))
    _write_csv(
        out, ["path", "start", "end", *(["boxes"] if has_boxes else []), "label", "suggested", "score", "group"], rows
    )


def _write_csv(out: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from finetune.storage.atomic import atomic_file
    from finetune.text import spreadsheet_row

    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as partial, partial.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(columns)
        writer.writerows(map(spreadsheet_row, rows))
