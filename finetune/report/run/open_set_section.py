"""The section on unknown classes: how well their clips are told from those of the model's classes."""

from collections.abc import Mapping
from typing import Any

SCORE_NAMES = {
    "max_probability": ("Largest probability", "used by predict --reject"),
    "max_logit": ("Largest logit", "before softmax"),
    "energy": ("Energy", "ln Σ exp(logit)"),
}


def open_set_rows(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each score of a task of results.json; empty without unknown classes."""
    scores = task.get("open_set", {}).get("scores", {})
    return [
        {"title": title, "explanation": explanation, **scores[name]}
        for name, (title, explanation) in SCORE_NAMES.items()
        if name in scores
    ]
