"""Whether caching a phase's frozen activations saves time: a forecast from one clip, and a line that explains it."""

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
from finetune.text import with_unit
from finetune.video.loader import worker_count

READ_BYTES_PER_SECOND = 5e8
MIN_SAVED_SECONDS = 5.0  # below this, caching is not worth the disk space


@dataclass(frozen=True)
class CacheDecision:
    """Whether the activations of a frozen part are cached in a phase, the figures behind it, and both as text."""

    keep: bool
    cache_record: dict[str, Any]
    words: str


def decide_caching(
    model: VideoClassifier, frozen: FrozenPart, sets: Sequence[CachedClips], recipe: Recipe, *, passes: float
) -> CacheDecision:
    """Decide by forecasts: the size of the cache, the time to fill it, and the time saved in `passes` epochs."""
    record, dataset = sets[0].store.record, sets[0].dataset
    needed_bytes = sum(clips.lacking() for clips in sets) * record
    gigabytes = sum(clips.keys_NV.size for clips in sets) * record / 1e9
    cache_record: dict[str, Any] = {
        "entry": frozen.cut.entry,
        "views": dataset.drawn_views,
        "kept_as": frozen.storage_dtype,
    }
    cache_record |= {"gigabytes": round(gigabytes, 4)}
    figures = [f"{dataset.drawn_views} views as {frozen.storage_dtype}"]
    problem, saved = None, None
    timings = _measure_costs(model, frozen, sets, recipe) if needed_bytes else None
    if timings is not None:
        to_fill, saved = forecast_seconds(timings, sets, passes=passes, workers=worker_count(recipe.data.workers))
        cache_record |= {"seconds_to_compute": round(to_fill, 1), "seconds_saved": round(saved, 1)}
        cache_record |= {"rounding": float(f"{timings.rounding:.2g}")}
        figures += [f"about {to_fill:.0f} s to compute", f"saves about {max(0.0, saved):.0f} s"]
        figures += [f"rounding error {100 * timings.rounding:.2g} %"]
    is_slower = recipe.train.cache == "auto" and saved is not None and saved < MIN_SAVED_SECONDS
    if needed_bytes and not is_slower:
        budget_gb = recipe.train.cache_budget_gb
        problem = make_room(cache_root(recipe.train.cache_dir), needed_bytes, budget_gb=budget_gb)
    what = "frozen features" if frozen.cut.entry == FEATURES else f"the inputs of {frozen.cut.entry}"
    details = ", ".join([with_unit(1e9 * gigabytes, "B"), *figures])
    if is_slower:
        words = f"Not cached: recomputing {what} in each epoch is faster ({details})"
    elif problem is not None:
        words = f"Not cached: {what} are recomputed in each epoch, as {problem} ({details})"
    else:
        words = f"Caching {what}: {details}"
    keep = not is_slower and problem is None
    return CacheDecision(keep, cache_record | {"kept": keep, "words": words}, words)


def _measure_costs(
    model: VideoClassifier, frozen: FrozenPart, sets: Sequence[CachedClips], recipe: Recipe
) -> FillTimings | None:
    measured = (measure_fill(model, frozen, clips, time_limit=recipe.data.decode_timeout) for clips in sets)
    return next((timings for timings in measured if timings is not None), None)


def forecast_seconds(
    timings: FillTimings, sets: Sequence[CachedClips], *, passes: float, workers: int
) -> tuple[float, float]:
    """Seconds to compute what is missing, and seconds saved in `passes` epochs after subtracting them."""

    def combined(decode: float, compute: float) -> float:
        return max(decode / workers, compute) if workers else decode + compute

    to_fill = in_a_pass = to_read = 0.0
    for clips in sets:
        is_missing = clips.places_NV["shard"] == MISSING
        rows, views = is_missing.shape
        # Seconds for each view after the first.
        decode_view = (timings.decode_row - timings.decode_clip) / max(1, len(sets[0].views) - 1)
        decode_row = timings.decode_clip + max(0.0, decode_view) * (views - 1)
        to_fill += combined(is_missing.any(1).sum() * decode_row, is_missing.sum() * timings.compute_clip)
        in_epoch = rows * (1 if clips.dataset.drawn_views is not None else views)
        in_a_pass += combined(in_epoch * timings.decode_clip, in_epoch * timings.compute_clip)
        to_read += in_epoch * clips.store.record / READ_BYTES_PER_SECOND
    return float(to_fill), float(passes * (in_a_pass - to_read) - to_fill)
