"""`finetune data`: generate, download or pack labelled videos; each set gets the manifest that its recipe names."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.manifest import print_manifest_notes
from finetune.cli.progress import progress_bar, progress_bars
from finetune.errors import RecipeError

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
    """Generate 520 short labelled clips in under half a minute.

    Each shows an arrow or a heart that rises, falls or spins. With --recordings,
    such events are intervals of 26 recordings, between pauses.

    Example: finetune data quickstart --out data/quickstart
    """
    if recordings:
        from finetune.datasets.quickstart_recordings import draw_recordings

        with progress_bar("generating recordings") as progress:
            manifest = draw_recordings(out or Path("data/quickstart_recordings"), seed=seed, progress=progress)
    else:
        from finetune.datasets.quickstart import draw_quickstart

        with progress_bar("generating clips") as progress:
            manifest = draw_quickstart(out or Path("data/quickstart"), seed=seed, progress=progress)
    print(manifest)


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
