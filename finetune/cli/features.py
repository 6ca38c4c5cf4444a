"""`finetune features` and `probe`: what frozen backbones give, kept ahead of runs, and a first number from it."""

import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.errors import RecipeError
from finetune.recipe.load import load_recipe

if TYPE_CHECKING:
    from finetune.feature_cache.cache_folder import CacheEntry


def features(
    recipe: Annotated[
        str | None, typer.Argument(help="Name of a recipe (see `finetune recipes list`) or a YAML file.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, each key.sub=value.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="List what is kept instead.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what was not used for long instead.")] = False,
    days: Annotated[int, typer.Option(min=0, help="How long that is; 0 removes all that is not in use.")] = 30,
    folder: Annotated[
        Path | None, typer.Option(help="Where it is kept, for --list and --prune; by default in the user's cache.")
    ] = None,
) -> None:
    """Compute ahead what runs of a recipe read of its frozen stages, and keep it; runs, folds and sweeps share it."""
    if listed or prune:
        if recipe is not None or (listed and prune):
            raise RecipeError("--list and --prune stand alone; where it is kept, say by --folder")
        if prune:
            _prune(folder, days)
        else:
            _list(folder)
        return
    if recipe is None:
        raise RecipeError("a recipe is missing: finetune features RECIPE, or --list, or --prune")
    settings = load_recipe(recipe, overrides or [])
    if settings.train.cache == "off":
        raise RecipeError("train.cache is off: runs of this recipe would not read what is kept; leave that out")

    import torch

    from finetune.cli.manifest import load_manifest
    from finetune.feature_cache.cache_folder import cache_root
    from finetune.train.from_recipe import new_model
    from finetune.train.prefill_cache import prefill_features

    manifest = load_manifest(settings)
    torch.manual_seed(settings.seed)
    for each in prefill_features(new_model(settings, manifest), manifest, settings):
        if each.why_not:
            print(f"{each.phase}: nothing is kept, as {each.why_not}")
            continue
        print(
            f"{each.phase}: {each.clips} clips of what enters at {each.entry}, {_size(each.kept_bytes)}; "
            f"{each.computed} were computed now"
        )
        for reason in each.failed:
            print(f"  left out: {reason}")
    print(cache_root(settings.train.cache_dir))


def probe(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe (see `finetune recipes list`) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, each key.sub=value.")] = None,
    backbones: Annotated[
        str | None, typer.Option(help="MultitaskSpec, with commas between them; by default the recipe's.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results; by default runs/<recipe>-probe.")] = None,
) -> None:
    """A first number for a data set: small classifiers on the features of frozen backbones, cross-validated.

    Test clips are left out (data.test=0 takes all that are not in a split of the data's own). The last line printed
    is the folder.
    """
    settings = load_recipe(recipe, overrides or [])
    names = [name.strip() for name in (backbones or settings.model.backbone).split(",") if name.strip()]

    from finetune.cli.manifest import load_manifest
    from finetune.model.backbone.known_names import check_name
    from finetune.report.pages.probes import draw_probes, probe_table
    from finetune.storage.atomic import atomic_file, write_json

    for name in names:
        check_name(name)
    manifest = load_manifest(settings)

    from finetune.metrics.intervals import FOLD_ERROR_NOTE
    from finetune.study.probe import majority_baseline, probe
    from finetune.train.log.console import Display

    found = [asdict(each) for each in probe(settings, manifest, names, display=Display())]
    chance = majority_baseline(manifest)
    folder = out or Path("runs") / f"{Path(recipe).stem}-probe"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "probe.json", {"most_frequent_class": chance, "interval": f"95 %, {FOLD_ERROR_NOTE}", "probes": found}
    )
    with atomic_file(folder / "probe.md") as partial:
        partial.write_text(probe_table(found), encoding="utf-8")
    draw_probes(folder / "probe.svg", found, chance=chance["top1"])
    width, wider = (max(len(each[key]) for each in found) for key in ("backbone", "method"))
    print(f"{'backbone':{width}}  {'on its features':{wider}}  top-1 (95 % interval)   seconds: features, classifier")
    for each in found:
        low, high = each["interval"]
        print(
            f"{each['backbone']:{width}}  {each['method']:{wider}}  {each['top1']:.3f} ({low:.3f} to {high:.3f})"
            f"  {each['seconds_of_features']:17.0f}  {each['seconds']:10.1f}"
        )
    print(f"Intervals are {FOLD_ERROR_NOTE}.")
    print(f"always {chance['class']}: {chance['top1']:.3f}. Picking the best of many inflates its score.")
    print(f"picture {folder / 'probe.svg'}\n{folder}", flush=True)


def _list(folder: Path | None) -> None:
    from finetune.feature_cache.cache_folder import cache_root, list_cache_entries

    found = list_cache_entries(cache_root(folder))
    print("       size  last used   backbone                        entering at        clips of")
    for each in found:
        told = each.cache_key
        of = "training" if told["drawn"] else "evaluation"
        print(
            f"{_size(each.size_bytes):>11}  {datetime.fromtimestamp(each.used):%Y-%m-%d}  {told['backbone']:30}  "
            f"{told['entry']:17}  {of}, {told['clip']['num_frames']} frames of {told['size']} px"
        )
    print(f"{_size(sum(each.size_bytes for each in found))} in {cache_root(folder)}")


def _prune(folder: Path | None, days: int) -> None:
    from finetune.feature_cache.cache_folder import cache_root, list_cache_entries, remove_cache_entry

    found = list_cache_entries(cache_root(folder))
    old = [each for each in found if _days_since(each) >= days]
    gone = [each for each in old if remove_cache_entry(each.folder)]
    stay = sum(each.size_bytes for each in found) - sum(each.size_bytes for each in gone)
    print(f"removed {len(gone)} of {len(found)} sets, {_size(sum(each.size_bytes for each in gone))}")
    print(f"{_size(stay)} stay in {cache_root(folder)}")
    if len(gone) < len(old):
        print(f"{len(old) - len(gone)} are in use, and stay", file=sys.stderr)


def _days_since(each: "CacheEntry") -> float:
    return (datetime.now().timestamp() - each.used) / 86400


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
