"""`finetune suspects` and `next-to-label`: labels that are likely wrong, and which clips to label next."""

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.table import print_table
from finetune.cli.wrap import print_wrapped
from finetune.errors import RunError

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
    from finetune.text import count

    predictions = read_out_of_fold(folder, task)
    found = rank_suspects(predictions)
    _print_suspects(found[:number])
    for group, (suspicious, size) in suspect_groups(found, predictions.clips).items():
        print_wrapped(f"group {group}: {suspicious} of {count(size, 'clip')} are suspects")
    print_wrapped(f"{count(len(found), 'suspect')} among {count(len(predictions.clips), 'clip')} {predictions.origin}")
    if not RunFolder(folder).study.is_file():
        print("other clips were trained on, or not evaluated; `finetune kfold` predicts all", file=sys.stderr)
    if out is not None:
        _write_suspects(out, found)
        print(out)


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
    from finetune.storage.atomic import atomic_file, check_writable
    from finetune.text import spreadsheet_row

    check_writable(out)
    with atomic_file(out) as partial, partial.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(["path", "start", "end", "label", "suggested", "score", "group"])
        for suspect in found:
            clip = suspect.clip
            times = seconds_text(clip.start), seconds_text(clip.end)
            cells = [clip.path, *times, clip.label, suspect.suggested, round(suspect.score, 6), clip.group]
            writer.writerow(spreadsheet_row(cells))
