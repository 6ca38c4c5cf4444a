"""Code that a user would write. mypy checks it with the package (`make lint`); nothing runs it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, assert_type

import numpy as np

import finetune as ft

manifest = ft.Manifest.from_folder("clips")
model = ft.build_model("resnet50.a1_in1k", manifest.classes, weights="imagenet", temporal="concat", num_frames=8)
assert_type(manifest, ft.Manifest)
assert_type(model, ft.VideoClassifier)

phases: Sequence[ft.Phase] = [
    ft.Phase(unfreeze="head", epochs=2, lr=1e-3),
    ft.Phase(unfreeze="last(1)", epochs=1, lr=3e-4),
]
run = ft.fit(model, manifest, phases, clip=ft.Clip(num_frames=8), train=ft.Train(batch_size=4))
assert_type(run, Path)
results = ft.evaluate(run)
assert_type(results["num_rows"], int)
assert_type(results["tasks"]["label"], dict[str, Any])
assert_type(ft.predict(run, ["a.mp4"])[0].probability, float | None)
ft.predict(ft.load(run), "a.mp4")
ft.predict(run, [np.zeros((8, 64, 64, 3), np.uint8), Path("a.mp4")], frame_rate=25)

ft.Phase(unfreeze="head", epoch=2)  # type: ignore[call-arg]
ft.fit(model, manifest, phases, batch_size=4)  # type: ignore[call-arg]
ft.build_model("resnet50.a1_in1k", 3)  # type: ignore[arg-type]
