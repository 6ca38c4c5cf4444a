"""Background rows of a manifest: the files say how long the recordings are, data/background.py draws the rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from finetune.data.background import Background, add_background
from finetune.data.intervals import MAX_SECONDS, WHOLE
from finetune.data.manifest import Manifest
from finetune.video.pack.read import manifest_facts


def with_background(manifest: Manifest, background: Background, *, packed: Path | str | None = None) -> Manifest:
    """The manifest with rows of the class `background.name` from unlabelled time, see `add_background`.

    A recording that cannot be read gets none. `packed` is the pack that frames are read from, if any.
    """
    return add_background(manifest, background, _durations(manifest, packed))


def _durations(manifest: Manifest, packed: Path | str | None) -> dict[bytes, float]:
    """The length in seconds of each readable recording that has interval rows, by its path."""
    if manifest.intervals is None:
        return {}
    is_part = (manifest.intervals != WHOLE).any(1)
    # All rows are scanned, as for training: the facts are then cached for both.
    recordings = replace(manifest, intervals=np.where(is_part[:, None], (0.0, MAX_SECONDS), WHOLE), boxes=None)
    facts = manifest_facts(recordings, packed, side=1)
    assert facts.seconds is not None
    rows = [row for row in np.flatnonzero(is_part).tolist() if row not in facts.bad]
    return {manifest.paths[row]: float(facts.seconds[row]) for row in rows}
