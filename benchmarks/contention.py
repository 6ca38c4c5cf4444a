"""Small work beside another busy program: how long it takes alone, and with a second process that does the same.

Three pieces of work on the quickstart's clips and features: computing frozen features of 400 clips, training the head
for an epoch on cached features, and the attentive probe. Each runs in a process of its own that has imported and warmed
up before its time starts; of two at once the slower one counts. `spinning` lets threads of OpenMP spin while they wait,
as they do by default; `sleeping` is what `import finetune` sets. Rounds alternate between the two, and medians count.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

WAYS = {"spinning": {"GOMP_SPINCOUNT": "300000"}, "sleeping": {}}  # 300,000 is libgomp's own default
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
EPOCHS = 12
PROBE_ROWS, PROBE_FRAMES, PROBE_WIDTH, PROBE_CLASSES = 96, 8, 1280, 6


def main() -> None:
    """Print, for each piece of work, its time alone and with two at once, as ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/quickstart/manifest.csv"), help="of the quickstart")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=list(WORK))
    parser.add_argument("--child", choices=list(WORK), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        WORK[options.child](options.data)
        return
    print(f"{os.cpu_count()} cores, {options.rounds} rounds")
    print(f"{'work':28}{'way':12}{'alone':>9}{'two at once':>13}{'ratio':>8}{'alone ÷ spinning':>19}")
    for work in [options.only] if options.only else WORK:
        seconds: dict[tuple[str, int], list[float]] = {(way, count): [] for way in WAYS for count in (1, 2)}
        for _ in range(options.rounds):
            for way, count in seconds:
                seconds[way, count].append(timed(work, options.data, WAYS[way], count))
        medians = {key: statistics.median(times) for key, times in seconds.items()}
        for way in WAYS:
            alone, two = medians[way, 1], medians[way, 2]
            against = alone / medians["spinning", 1]
            print(f"{work:28}{way:12}{alone:7.2f} s{two:11.2f} s{two / alone:8.2f}{against:19.2f}", flush=True)


def timed(work: str, data: Path, environment: dict[str, str], count: int) -> float:
    """Seconds that the slowest of `count` processes takes for its work, all started at the same time."""
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, __file__, "--data", str(data), "--child", work]
    processes = [
        subprocess.Popen(command, env=inherited | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n", "the work failed; see above"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return max(float(process.communicate()[0]) for process in processes)


def wait_for_start() -> float:
    """Report that all is warm, wait until the other processes are too, and return the time at which work starts."""
    print("ready", flush=True)
    sys.stdin.readline()
    return time.perf_counter()


def fill_features(data: Path) -> None:
    """Compute the frozen features of the quickstart's training clips into an empty cache."""
    import finetune as ft
    from finetune.feature_cache.cached_clips import open_cached_clips
    from finetune.feature_cache.fill import fill_cache
    from finetune.feature_cache.frozen_part import cache_key, cut_activations, frozen_part
    from finetune.model.freezing.freeze import set_trainable
    from finetune.runtime.device import resolve_device
    from finetune.video.dataset import ClipDataset
    from finetune.video.probe_files import scan_files

    recipe = ft.load_recipe("quickstart", [f"data.manifest={data}"])
    manifest = ft.Manifest.from_csv(data)
    resolve_device("cpu")
    model = ft.build_model(recipe.model.backbone, manifest.classes, weights="bundled", size=recipe.clip.size).eval()
    set_trainable(model, "head")
    frozen = frozen_part(model, recipe.clip.num_frames, precision="fp32")
    assert frozen is not None
    dataset = ClipDataset(manifest, "train", clip=recipe.clip, views=1, facts=scan_files(manifest))
    cut_activations(model, dataset[0]["clips"], frozen)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_cached_clips(Path(folder), cache_key(model, frozen), frozen, dataset) as kept,
    ):
        started = wait_for_start()
        assert fill_cache(model, frozen, kept, recipe.data) == len(dataset)
        print(time.perf_counter() - started)


def train_on_features(data: Path) -> None:
    """Train the quickstart's head for some epochs on features that are cached; the first is not timed."""
    import finetune as ft

    started: list[float] = []

    def after_epoch(record: dict) -> None:
        if record["epoch"] == 1:
            started.append(wait_for_start())

    recipe = ft.load_recipe("quickstart", [f"data.manifest={data}"])
    manifest = ft.Manifest.from_csv(data)
    model = ft.build_model(recipe.model.backbone, manifest.classes, weights="bundled", size=96, temporal="gru")
    with tempfile.TemporaryDirectory() as folder:
        train = recipe.train.model_copy(update={"cache": "features", "cache_dir": Path(folder) / "cache"})
        phases = [ft.Phase(unfreeze="head", epochs=1 + EPOCHS, lr=1e-3)]
        settings = {"clip": recipe.clip, "augment": recipe.augment, "train": train, "data": recipe.data}
        ft.fit(model, manifest, phases, **settings, out=Path(folder) / "run", quiet=True, after_epoch=after_epoch)
        print((time.perf_counter() - started[0]) / EPOCHS)


def attentive_probe(_: Path) -> None:
    """Fit and apply the attentive probe to random features as wide as MobileNetV2's."""
    import numpy as np

    from finetune.study.probe_classifiers import PROBE_CLASSIFIERS

    random = np.random.default_rng(0)
    features = random.normal(size=(PROBE_ROWS, PROBE_FRAMES, PROBE_WIDTH)).astype(np.float32)
    labels = np.arange(PROBE_ROWS) % PROBE_CLASSES
    method = PROBE_CLASSIFIERS["attentive head"]
    method.predict(features[:12], labels[:12], features[:12], method.settings[0])
    started = wait_for_start()
    method.predict(features, labels, features, method.settings[0])
    print(time.perf_counter() - started)


WORK: dict[str, Callable[[Path], None]] = {
    "fill 400 clips": fill_features,
    "an epoch on features": train_on_features,
    "attentive probe": attentive_probe,
}

if __name__ == "__main__":
    main()
