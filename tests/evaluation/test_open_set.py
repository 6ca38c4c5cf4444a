"""Clips of classes that the model does not know: what training keeps to reject them, and what an evaluation says."""

import json

import numpy as np
import pytest

import finetune as ft


def test_training_keeps_the_scores_of_the_val_clips_with_the_best_weights(trained_run, tmp_path):
    saved = json.loads((trained_run / "checkpoints/best/meta.json").read_text())["known_scores"]
    assert saved["score"] == "max_probability"
    ft.evaluate(trained_run, split="val", out=tmp_path / "val", pictures=False)
    probabilities_NK = np.load(tmp_path / "val/probabilities.npy")
    assert saved["values"] == pytest.approx(np.sort(probabilities_NK.max(1)), abs=1e-5)
    assert "known_scores" not in (trained_run / "metrics.jsonl").read_text()
