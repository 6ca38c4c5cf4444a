"""Samples of imagined recordings, whose segments are known, for tests of summaries."""

from pathlib import Path

import numpy as np

from finetune.summaries.samples import Samples


def features_of(looks, *, noise=0.05, seed=0, width=16):
    """Features of length 1 for moments that look as numbered: equal numbers look alike."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(max(looks) + 1, width))
    features_ND = centers[list(looks)] + noise * rng.normal(size=(len(looks), width))
    return (features_ND / np.linalg.norm(features_ND, axis=1, keepdims=True)).astype(np.float32)


def samples_of(looks, *, shots=(), noise=0.05, seed=0):
    """A recording with a moment each half second; frames are numbered by ten."""
    return Samples(
        Path("walk.mp4"),
        len(looks) / 2,
        (240, 320),
        np.arange(len(looks)) * 10,
        features_of(looks, noise=noise, seed=seed),
        tuple(shots),
    )
