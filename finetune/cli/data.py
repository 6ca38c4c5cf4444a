"""`finetune data`: bring labelled videos, each set with the manifest that recipes name, or pack them."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.progress import progress_bar, progress_bars
from finetune.errors import RecipeError

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest

app = typer.Typer(help="Draw, fetch or prepare labelled videos.", no_args_is_help=True)
Archive = Annotated[Path | None, typer.Option(help="The official archive, fetched by hand; else it is downloaded.")]
Splits = Annotated[
    Path | None, typer.Option("--splits-archive", help="The archive of the official split lists, likewise.")
]


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Folder to draw into.")] = Path("data/quickstart"),
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws another set.")] = 0,
) -> None:
    """Draw 520 short labelled clips in under half a minute: an arrow or a heart that rises, falls or spins."""
    from finetune.datasets.quickstart import draw_quickstart

    with progress_bar("drawing") as progress:
        manifest = draw_quickstart(out, seed=seed, progress=progress)
    print(manifest)


@app.command()
def ucf101(
    root: Annotated[Path, typer.Option(help="Folder that holds, or will hold, the clips.")] = Path("data/ucf101"),
    archive: Archive = None,
    splits: Splits = None,
) -> None:
    """Prepare UCF101 (13,320 clips, 101 classes): fetch, unpack, and write split1.csv to split3.csv."""
    from finetune.datasets.ucf101 import prepare_ucf101

    with progress_bars() as progress:
        manifests = prepare_ucf101(root, archive=archive, splits_archive=splits, progress=progress)
    print("\n".join(map(str, manifests)))


@app.command()
def hmdb51(
    root: Annotated[Path, typer.Option(help="Folder that holds, or will hold, the clips.")] = Path("data/hmdb51"),
    archive: Archive = None,
    splits: Splits = None,
) -> None:
    """Prepare HMDB51 (6,766 clips, 51 classes): fetch, unpack, and write split1.csv to split3.csv."""
    from finetune.datasets.hmdb51 import prepare_hmdb51

    with progress_bars() as progress:
        manifests = prepare_hmdb51(root, archive=archive, splits_archive=splits, progress=progress)
    print("\n".join(map(str, manifests)))


@app.command()
def pack(
    manifest: Annotated[Path, typer.Argument(help="CSV with path,label, or a folder <class>/*.")],
    out: Annotated[Path, typer.Option(help="Folder of the pack; a run that was interrupted goes on there.")],
    short_side: Annotated[int, typer.Option(min=16, help="Pixels to which a larger short side is scaled.")] = 256,
    multilabel: Annotated[bool, typer.Option("--multilabel", help="Labels list classes, a;b;c, or none.")] = False,
    frames: Annotated[str, typer.Option(help="all, or how many of each video, evenly spread.")] = "all",
) -> None:
    """Decode every video once into small JPEG frames, which a recipe reads with data.packed=OUT.

    OUT/manifest.csv lists them with absolute paths: where the videos are not, it is the data.manifest.
    """
    if frames != "all" and not (frames.isdecimal() and int(frames) > 0):
        raise RecipeError(f"--frames is all or a number of frames, not {frames!r}")
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
        print("finetune: what is packed is kept; the same command goes on from there", file=sys.stderr)
        raise
    for reason in result.bad.values():
        print(reason, file=sys.stderr)
    videos.to_csv_without_splits(out / "manifest.csv")
    print(f"{result.packed} videos packed, {result.kept} were there already, {len(result.bad)} cannot be read")
    print(out)


def print_data_root_mapping(run: Path, data_root: Path | None) -> None:
    """Print which folder of a run's record stands for which one now, if its files were moved."""
    if data_root is not None and os.environ.get("RANK", "0") == "0":
        from finetune.run.checkpoint import open_run
        from finetune.run.manifest import describe_relocation

        print(f"finetune: {describe_relocation(run, *open_run(run), data_root)}", file=sys.stderr)


def print_manifest_notes(manifest: "Manifest") -> "Manifest":
    """The manifest; what a user has to know of it is printed on stderr, by the first of several processes."""
    for note in manifest.notes if os.environ.get("RANK", "0") == "0" else ():
        print(f"note: {note}", file=sys.stderr)
    return manifest
