"""Whether keeping what a frozen part gives pays in a phase: forecast from one clip, and said in one line."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.feature_cache.cache_folder import cache_root, make_room
from finetune.feature_cache.cached_clips import CachedClips
from finetune.feature_cache.fill import FillTimings, measure_fill
from finetune.feature_cache.frozen_part import FrozenPart
from finetune.feature_cache.shard_store import MISSING
from finetune.model.classifier import VideoClassifier
from finetune.model.frozen_prefix import FEATURES
from finetune.recipe.schema import Recipe
from finetune.video.loader import worker_count

READ_BYTES_PER_SECOND = 5e8
MIN_SAVED_SECONDS = 5.0  # for which keeping is worth its room on the disk


@dataclass(frozen=True)
class CacheDecision:
    """Whether what a frozen part gives is kept in a phase, the figures that decided it, and both in words."""

    keep: bool
    cache_record: dict[str, Any]
    words: str


def decide_caching(
    model: VideoClassifier, frozen: FrozenPart, sets: Sequence[CachedClips], recipe: Recipe, *, passes: float
) -> CacheDecision:
    """By a forecast: the bytes that would be kept, seconds to compute them, seconds saved in so many passes."""
    record, dataset = sets[0].store.record, sets[0].dataset
    needed_bytes = sum(each.lacking() for each in sets) * record
    gigabytes = sum(each.keys_NV.size for each in sets) * record / 1e9
    cache_record: dict[str, Any] = {
        "entry": frozen.cut.entry,
        "views": dataset.drawn_views,
        "kept_as": frozen.storage_dtype,
    }
    cache_record |= {"gigabytes": round(gigabytes, 4)}
    figures = [f"{dataset.drawn_views} views", f"{gigabytes:.2g} GB as {frozen.storage_dtype}"]
    why_not = None
    found = _measure_costs(model, frozen, sets, recipe) if needed_bytes else None
    if found is not None:
        to_fill, saved = forecast_seconds(found, sets, passes=passes, workers=worker_count(recipe.data.workers))
        cache_record |= {"seconds_to_compute": round(to_fill, 1), "seconds_saved": round(saved, 1)}
        cache_record |= {"rounding": float(f"{found.rounding:.2g}")}
        figures += [f"rounded by {100 * found.rounding:.2g} %", f"about {to_fill:.0f} s to compute"]
        figures += [f"{max(0.0, saved):.0f} s saved"]
        if recipe.train.cache == "auto" and saved < MIN_SAVED_SECONDS:
            why_not = "which is faster"
    if needed_bytes and why_not is None:
        budget_gb = recipe.train.cache_budget_gb
        problem = make_room(cache_root(recipe.train.cache_dir), needed_bytes, budget_gb=budget_gb)
        why_not = None if problem is None else f"as {problem}"
    where = "features of the frozen backbone" if frozen.cut.entry == FEATURES else f"what enters {frozen.cut.entry}"
    verdict = "kept" if why_not is None else f"computed in each epoch, {why_not}"
    words = f"{where}: {verdict} ({', '.join(figures)})"
    return CacheDecision(why_not is None, cache_record | {"kept": why_not is None, "words": words}, words)


def _measure_costs(
    model: VideoClassifier, frozen: FrozenPart, sets: Sequence[CachedClips], recipe: Recipe
) -> FillTimings | None:
    every = (measure_fill(model, frozen, each, time_limit=recipe.data.decode_timeout) for each in sets)
    return next((found for found in every if found is not None), None)


def forecast_seconds(
    found: FillTimings, sets: Sequence[CachedClips], *, passes: float, workers: int
) -> tuple[float, float]:
    """Seconds to compute what is missing, and those that keeping it saves in so many passes, the first taken off."""

    def together(decode: float, compute: float) -> float:
        return max(decode / workers, compute) if workers else decode + compute

    to_fill = in_a_pass = to_read = 0.0
    for each in sets:
        lacking = (each.places_NV["shard"] == MISSING).sum(1)
        views = each.keys_NV.shape[1]
        further = (found.decode_row - found.decode_clip) / max(1, len(sets[0].views) - 1)  # of each view but the first
        decode_row = found.decode_clip + max(0.0, further) * (views - 1)
        to_fill += together((lacking > 0).sum() * decode_row, lacking.sum() * found.compute_clip)
        clips = len(lacking) * (1 if each.dataset.drawn_views is not None else views)
        in_a_pass += together(clips * found.decode_clip, clips * found.compute_clip)
        to_read += clips * each.store.record / READ_BYTES_PER_SECOND
    return float(to_fill), float(passes * (in_a_pass - to_read) - to_fill)
