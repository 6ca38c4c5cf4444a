"""`finetune data`: generate, download or pack labelled videos, and exchange annotation files with other tools."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from finetune.annotations.format_names import AnyExportFormat, AnyFormat, Content
from finetune.cli.manifest import print_manifest_notes
from finetune.cli.progress import progress_bar, progress_bars
from finetune.errors import DataError, RecipeError

if TYPE_CHECKING:
    from finetune.annotations.import_files import Imported
    from finetune.annotations.objects.import_objects import ImportedObjects

app = typer.Typer(no_args_is_help=True)
Archive = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Official archive, if you have it; otherwise it is downloaded.")
]
Splits = Annotated[
    Path | None,
    typer.Option("--splits-archive", metavar="FILE", help="Archive of the official split lists, if you have it."),
]


@app.command()
def quickstart(
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Output folder.", show_default="data/quickstart, or data/quickstart_recordings"
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Seed of the generator; each seed gives another data set.")
    ] = 0,
    recordings: Annotated[
        bool, typer.Option("--recordings", help="Generate recordings of one to two minutes, with labelled events.")
    ] = False,
) -> None:
    """Generate short labelled clips in under half a minute.

    manifest.csv: 520 clips of an arrow or a heart that rises, falls or spins.
    objects.csv: frames of 380 clips in which several objects move, with boxes,
    identities and masks. actors.csv: 228 clips of two shapes that do different
    things, a row for each. With --recordings, events are intervals of 26
    recordings, between pauses.

    Example: finetune data quickstart --out data/quickstart
    """
    if recordings:
        from finetune.datasets.quickstart_recordings import draw_recordings

        with progress_bar("generating recordings") as progress:
            manifest = draw_recordings(out or Path("data/quickstart_recordings"), seed=seed, progress=progress)
        print(manifest)
    else:
        _draw_clips(out or Path("data/quickstart"), seed=seed)


def _draw_clips(out: Path, *, seed: int) -> None:
    from finetune.datasets.quickstart import draw_quickstart
    from finetune.datasets.quickstart_actors import draw_actors
    from finetune.datasets.quickstart_objects import draw_objects

    drawings: dict[str, Callable[..., Path]] = {
        "clips": draw_quickstart,
        "objects": draw_objects,
        "actors": draw_actors,
    }
    manifests = []
    for name, draw in drawings.items():
        with progress_bar(f"generating {name}") as progress:
            manifests.append(draw(out, seed=seed, progress=progress))
    print("\n".join(map(str, manifests)))


@app.command()
def ucf101(
    root: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the clips, existing or new.")] = Path(
        "data/ucf101"
    ),
    archive: Archive = None,
    splits: Splits = None,
) -> None:
    """Download UCF101 (13,320 clips, 101 classes).

    Unpacks the archive and writes split1.csv to split3.csv, the manifests of the
    three official splits.

    Example: finetune data ucf101 --root data/ucf101
    """
    from finetune.datasets.ucf101 import prepare_ucf101

    with progress_bars() as progress:
        manifests = prepare_ucf101(root, archive=archive, splits_archive=splits, progress=progress)
    print("\n".join(map(str, manifests)))


@app.command()
def hmdb51(
    root: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the clips, existing or new.")] = Path(
        "data/hmdb51"
    ),
    archive: Archive = None,
    splits: Splits = None,
) -> None:
    """Download HMDB51 (6,766 clips, 51 classes).

    Unpacks the archive and writes split1.csv to split3.csv, the manifests of the
    three official splits.

    Example: finetune data hmdb51 --root data/hmdb51
    """
    from finetune.datasets.hmdb51 import prepare_hmdb51

    with progress_bars() as progress:
        manifests = prepare_hmdb51(root, archive=archive, splits_archive=splits, progress=progress)
    print("\n".join(map(str, manifests)))


@app.command()
def pack(
    manifest: Annotated[
        Path, typer.Argument(metavar="VIDEOS", help="CSV with columns path,label, or a folder of class folders.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder; an interrupted run resumes there.")],
    short_side: Annotated[
        int, typer.Option(min=16, metavar="N", help="Maximum short side of the frames, in pixels.")
    ] = 256,
    multilabel: Annotated[bool, typer.Option("--multilabel", help="Labels list several classes, a;b;c.")] = False,
    frames: Annotated[
        str, typer.Option(metavar="N|all", help="Frames kept per video, evenly spaced: a number, or all.")
    ] = "all",
) -> None:
    """Decode videos once into small JPEG frames, for faster reading.

    A recipe reads them with data.packed=OUT. OUT/manifest.csv lists the videos
    with absolute paths: use it as data.manifest where the videos are missing.

    Example: finetune data pack clips.csv --out packed
    """
    if frames != "all" and not (frames.isdecimal() and int(frames) > 0):
        raise RecipeError(f"--frames must be a number or all, not {frames!r}")
    from finetune.data.manifest import Manifest
    from finetune.video.pack.write import pack as pack_videos

    if manifest.is_dir():
        videos = print_manifest_notes(Manifest.from_folder(manifest, val=0, test=0))
    else:
        videos = print_manifest_notes(Manifest.from_csv(manifest, val=0, test=0, multilabel=multilabel))
    count = None if frames == "all" else int(frames)
    try:
        with progress_bar("packing") as progress:
            result = pack_videos(videos, out, short_side=short_side, frames=count, progress=progress)
    except KeyboardInterrupt:
        print("Stopped; packed videos are kept. Resume with the same command.", file=sys.stderr)
        raise
    for reason in result.bad.values():
        print(reason, file=sys.stderr)
    videos.to_csv_without_splits(out / "manifest.csv")
    print(f"{result.packed} videos packed, {result.kept} already packed, {len(result.bad)} cannot be read")
    print(out)


Videos = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of the videos, with its subfolders; or the one video."),
]
Tier = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Read one tier: of ELAN; a BORIS subject, a tag's name, an attribute."),
]
OnError = Annotated[
    Literal["raise", "skip"],
    typer.Option(help="skip: leave out entries that cannot be read and missing videos, and list them."),
]


@app.command("import")
def import_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Annotation files.")],
    out: Annotated[Path, typer.Option(metavar="CSV", help="Manifest to write.")],
    videos: Videos = None,
    tier: Tier = None,
    point_seconds: Annotated[
        float, typer.Option(min=0.001, metavar="N", help="Length of point events, around the point.")
    ] = 1.0,
    fps: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="N", help="Frame rate of files that count frames; else the video's times."),
    ] = None,
    kind: Annotated[AnyFormat | None, typer.Option("--from", help="Format; else recognised by content.")] = None,
    content: Annotated[
        Content | None,
        typer.Option("--as", help="What to read from CVAT and Label Studio files that hold both."),
    ] = None,
    every: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Objects: keep labelled frames at least N frames apart.")
    ] = None,
    first_frame: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Objects: number of a video's first frame in names of images. Default: 0."
        ),
    ] = None,
    on_error: OnError = "raise",
) -> None:
    """Turn annotation files into a manifest whose rows are parts of videos.

    Events become intervals with a label: CSV and TSV tables, BORIS, ELAN, VIA 3,
    Label Studio, CVAT, ActivityNet, Audacity, WebVTT and SRT are read. Objects
    become labelled frames: COCO, YOLO, CVAT, MOTChallenge, Pascal VOC and Label
    Studio are read, from files or folders.

    Example: finetune data import rec1.eaf rec2.eaf --out clips.csv --videos recordings
    """
    from finetune.annotations.import_files import ImportOptions, import_annotations, write_manifest
    from finetune.annotations.objects.import_objects import ObjectImportOptions, import_objects, write_object_manifest
    from finetune.annotations.objects.object_formats import event_format, holds_objects

    if holds_objects(files, kind, content if tier is None else "events"):
        object_options = ObjectImportOptions(kind, videos, fps, every or 1, first_frame or 0)
        with progress_bar("reading videos") as progress:
            objects = import_objects(files, object_options, progress=progress)
        _report_import(objects, on_error)
        write_object_manifest(objects, out)
        print(objects.summary())
    elif every is not None or first_frame is not None:
        raise DataError(f"{files[0]}: --every and --first-frame are for files of objects; this one is read as events")
    else:
        options = ImportOptions(event_format(kind), videos, tier, point_seconds, fps)
        with progress_bar("reading frame times") as progress:
            imported = import_annotations(files, options, progress=progress)
        _report_import(imported, on_error)
        write_manifest(imported, out)
        print(imported.summary())
    print(out)


@app.command()
def export(
    events: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="events.csv of a timeline, clips.csv, or any file that `import` reads."),
    ],
    to: Annotated[AnyExportFormat, typer.Option(help="Format to write; of objects: coco, mot, cvat.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="File to write; for elan, audacity, vtt, mot and cvat a folder. Default: beside FILE.",
        ),
    ] = None,
    videos: Videos = None,
    tier: Tier = None,
    on_error: OnError = "raise",
) -> None:
    """Write events or objects as files of an annotation tool, for corrections.

    ELAN, Audacity, WebVTT, MOTChallenge and CVAT get one file for each recording.
    Existing files are never replaced. `finetune data import` reads corrected ones.

    Example: finetune data export events.csv --to elan --out corrected
    """
    from finetune.annotations.export_files import default_output, export_events
    from finetune.annotations.import_files import ImportOptions, import_annotations
    from finetune.annotations.objects.export_objects import default_object_output, export_objects, read_labelled_frames

    if to == "coco" or to == "mot" or to == "cvat":
        with progress_bar("reading videos") as progress:
            objects = read_labelled_frames(events, videos, progress=progress)
        _report_import(objects, on_error)
        exported = export_objects(objects.rows, to, out or default_object_output(events, to))
        summary = objects.summary()
    else:
        options = ImportOptions(videos=videos, tier=tier, point_seconds=0)
        with progress_bar("reading frame times") as progress:
            imported = import_annotations([events], options, progress=progress)
        _report_import(imported, on_error)
        exported = export_events(imported, to, out or default_output(events, to))
        summary = imported.summary()
    for note in exported.notes:
        print(f"note: {note}", file=sys.stderr)
    print(summary)
    print("\n".join(map(str, exported.files)))


@app.command("apply")
def apply_command(
    manifest: Annotated[
        Path, typer.Argument(metavar="MANIFEST", help="CSV or folder of clips whose labels were corrected.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="CSV", help="File to write. Default: NAME.corrected.csv beside MANIFEST.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run whose recipe reads the manifest, and whose splits fill empty ones."),
    ] = None,
    new_class: Annotated[
        list[str] | None, typer.Option("--new-class", metavar="NAME", help="Accept a class that no row had before.")
    ] = None,
    conflicts: Annotated[
        Literal["fail", "journal", "manifest"],
        typer.Option(help="Whose value counts where MANIFEST was edited after the change."),
    ] = "fail",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file; it is kept as NAME.bak.")
    ] = False,
) -> None:
    """Write a new manifest with the corrections of the journal, and list them.

    The journal is the file MANIFEST.changes.jsonl. Clips marked bad are left out,
    newly labelled ones are added; all else stays as it is in the file.

    Example: finetune data apply clips.csv
    """
    from finetune.labelling.apply import ApplyOptions, apply_changes
    from finetune.run.read import open_run

    options = ApplyOptions(
        run=None if run is None else open_run(run),
        new_classes=new_class or (),
        of_journal=None if conflicts == "fail" else conflicts == "journal",
        overwrite=overwrite,
    )
    applied = apply_changes(manifest, options, out=out)
    for note in (*applied.manifest.notes, *applied.notes):
        print(f"note: {note}", file=sys.stderr)
    print("\n".join(applied.lines()))
    print(applied.out if applied.is_written else f"{applied.out} (unchanged)")


def _report_import(imported: "Imported | ImportedObjects", on_error: Literal["raise", "skip"]) -> None:
    """Print the notes; raise for problems, or print them where they may be skipped."""
    for note in imported.notes:
        print(f"note: {note}", file=sys.stderr)
    imported.require_rows(skip_problems=on_error == "skip")
    for problem in imported.problems:
        print(f"skipped: {problem}", file=sys.stderr)
