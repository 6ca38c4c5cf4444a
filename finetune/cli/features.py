"""`finetune features` and `probe`: cache features of frozen stages, and score simple classifiers on them."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune.cli.arguments import OptionalRecipeName, Overrides, RecipeName, recipe_source
from finetune.cli.heavy_imports import import_quickly
from finetune.cli.manifest import load_manifest
from finetune.cli.table import print_table
from finetune.cli.wrap import print_wrapped
from finetune.errors import RecipeError
from finetune.recipe.load import load_recipe
from finetune.recipe.own_parts import part_name
from finetune.text import with_unit

if TYPE_CHECKING:
    from finetune.feature_cache.cache_folder import CacheEntry


def features(
    recipe: OptionalRecipeName = None,
    overrides: Overrides = None,
    listed: Annotated[bool, typer.Option("--list", help="List the cache and exit.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Delete entries unused for --days days and exit.")] = False,
    days: Annotated[
        int, typer.Option(min=0, metavar="N", help="With --prune: 0 deletes all entries that are not in use.")
    ] = 30,
    folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --list or --prune: cache folder. Default: in the user's cache."),
    ] = None,
) -> None:
    """Precompute and cache frozen-stage features.

    All runs, folds and sweeps that use the same frozen stages read them from the cache.

    Example: finetune features --list
    """
    if listed or prune:
        if recipe is not None or (listed and prune):
            raise RecipeError("--list and --prune take no recipe and exclude each other; name a cache with --folder")
        if prune:
            _prune(folder, days)
        else:
            _list(folder)
        return
    if recipe is None:
        raise RecipeError("a recipe is missing: finetune features RECIPE, or --list, or --prune")
    source = recipe_source(recipe, overrides)
    settings = load_recipe(source.recipe, source.overrides)
    if settings.train.cache == "off":
        raise RecipeError("train.cache is off: runs of this recipe would not read the cache; leave out train.cache=off")

    manifest = load_manifest(settings)

    import_quickly("finetune.train.prefill_cache")
    import torch

    from finetune.feature_cache.cache_folder import cache_root
    from finetune.train.from_recipe import new_model
    from finetune.train.prefill_cache import prefill_features

    torch.manual_seed(settings.seed)
    for phase in prefill_features(new_model(settings, manifest), manifest, settings):
        if phase.why_not:
            print_wrapped(f"{phase.phase}: not cached: {phase.why_not}")
            continue
        print_wrapped(
            f"{phase.phase}: {_entry_text(phase.entry)} of {phase.clips} clip views, "
            f"{with_unit(phase.kept_bytes, 'B')}, {phase.computed} computed now"
        )
        for reason in phase.failed:
            print(f"  skipped: {reason}")
    print(cache_root(settings.train.cache_dir))


def probe(
    recipe: RecipeName,
    overrides: Overrides = None,
    backbones: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Backbones to compare. Default: the recipe's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output folder. Default: runs/<recipe>-probe.")
    ] = None,
) -> None:
    """Score simple classifiers on frozen features, by cross-validation.

    Test clips are left out (data.test=0 uses all clips, unless the data come with a test split).

    Example: finetune probe DIR --backbones resnet50.a1_in1k,mobilenetv2_100
    """
    source = recipe_source(recipe, overrides)
    settings = load_recipe(source.recipe, source.overrides)
    names = [name.strip() for name in (backbones or part_name(settings.model.backbone)).split(",") if name.strip()]

    from finetune.model.backbone.known_names import check_name

    for name in names:
        check_name(name)
    manifest = load_manifest(settings)

    import_quickly("finetune.study.probe")
    from finetune.metrics.intervals import FOLD_ERROR_NOTE
    from finetune.study.probe import majority_baseline, probe
    from finetune.train.log.console import Display

    results = [asdict(result) for result in probe(settings, manifest, names, display=Display())]
    baseline = majority_baseline(manifest)
    folder = out or Path("runs") / f"{source.name}-probe"
    _write_probes(folder, results, baseline)
    print_table(
        {
            "backbone": [result["backbone"] for result in results],
            "classifier": [result["method"] for result in results],
            "top-1 (95 % interval)": [_with_interval(result["top1"], result["interval"]) for result in results],
            "features (s)": [f"{result['seconds_of_features']:.0f}" for result in results],
            "classifier (s)": [f"{result['seconds']:.1f}" for result in results],
        },
        right={"features (s)", "classifier (s)"},
    )
    print_wrapped(f"Intervals are {FOLD_ERROR_NOTE}.")
    print_wrapped(
        f"Majority-class baseline ({baseline['class']}): {baseline['top1']:.3f}. "
        "Picking the best of many inflates its score."
    )
    print(f"plot {folder / 'probe.svg'}\n{folder}", flush=True)


def _with_interval(value: float, interval: Sequence[float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def _write_probes(folder: Path, results: Sequence[dict[str, Any]], baseline: dict[str, Any]) -> None:
    """Write probe.json, probe.md and probe.svg."""
    from finetune.metrics.intervals import FOLD_ERROR_NOTE
    from finetune.report.pages.probes import draw_probes, probe_table
    from finetune.storage.atomic import atomic_file, write_json

    folder.mkdir(parents=True, exist_ok=True)
    interval = f"95 %, {FOLD_ERROR_NOTE}"
    write_json(folder / "probe.json", {"most_frequent_class": baseline, "interval": interval, "probes": list(results)})
    with atomic_file(folder / "probe.md") as partial:
        partial.write_text(probe_table(results), encoding="utf-8")
    draw_probes(folder / "probe.svg", results, chance=baseline["top1"])


def _list(folder: Path | None) -> None:
    from finetune.feature_cache.cache_folder import cache_root, list_cache_entries

    entries = list_cache_entries(cache_root(folder))
    keys = [entry.cache_key for entry in entries]
    print_table(
        {
            "size": [with_unit(entry.size_bytes, "B") for entry in entries],
            "last used": [f"{datetime.fromtimestamp(entry.used):%Y-%m-%d}" for entry in entries],
            "backbone": [key["backbone"] for key in keys],
            "cached": [_entry_text(key["entry"]) for key in keys],
            "clips": [
                f"{split}, {key['clip']['num_frames']} frames of {key['size']} px"
                for key in keys
                for split in ["training" if key["drawn"] else "evaluation"]
            ],
        },
        right={"size"},
    )
    print(f"{with_unit(sum(entry.size_bytes for entry in entries), 'B')} in {cache_root(folder)}")


def _prune(folder: Path | None, days: int) -> None:
    from finetune.feature_cache.cache_folder import cache_root, list_cache_entries, remove_cache_entry

    entries = list_cache_entries(cache_root(folder))
    unused = [entry for entry in entries if _days_since_use(entry) >= days]
    removed = [entry for entry in unused if remove_cache_entry(entry.folder)]
    freed_bytes = sum(entry.size_bytes for entry in removed)
    left_bytes = sum(entry.size_bytes for entry in entries) - freed_bytes
    print(f"deleted {len(removed)} of {len(entries)} entries, {with_unit(freed_bytes, 'B')}")
    print(f"{with_unit(left_bytes, 'B')} left in {cache_root(folder)}")
    if len(removed) < len(unused):
        print(f"{len(unused) - len(removed)} entries are in use and were not deleted", file=sys.stderr)


def _days_since_use(entry: "CacheEntry") -> float:
    return (datetime.now().timestamp() - entry.used) / 86400


def _entry_text(entry: str) -> str:
    """What is cached: the backbone's features, or the inputs of the first stage that trains."""
    return "backbone features" if entry == "features" else f"inputs of {entry}"
