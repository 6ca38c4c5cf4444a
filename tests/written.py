"""Run folders as training and evaluation leave them, written by the tests from predictions that they choose."""

import csv
import json

KINDS = ["wave", "clap", "jump", "sit"]
RECIPE = """seed: 0
data: {manifest: clips.csv}
model: {backbone: tiny, temporal: mean}
phases: [{unfreeze: head, epochs: 3}]
"""


def answers_of(wrong=(), *, clips=40, classes=KINDS):
    """(label, predicted) of clips, classes in turn; the clips in `wrong` are predicted as the next class."""
    return [(classes[n % len(classes)], classes[(n + (n in set(wrong))) % len(classes)]) for n in range(clips)]


def write_run(
    folder,
    answers,
    *,
    split="test",
    group_of=lambda number: f"g{number % 10}",
    path_of=lambda number: f"/data/{number % 4}/clip{number:03}.mp4",
    probability=0.8,
    classes=None,
    protocol=(),
    recipe=RECIPE,
    epochs=3,
    group_in="predictions",
    kind="classify",
    started="2026-11-21T10:00:00+00:00",
    more_tasks=(),
):
    """A run with these `answers`, (label, predicted) pairs; `group_in` is predictions, manifest, or nowhere.

    `more_tasks` are further tasks of results.json, by name.
    """
    target = folder / "evaluation" if split == "test" else folder / "evaluation" / split
    target.mkdir(parents=True)
    classes = classes or sorted({name for pair in answers for text in pair for name in text.split(";") if name})
    right = sum(set(label.split(";")) == set(predicted.split(";")) for label, predicted in answers) / len(answers)
    keys = ("map", "macro_f1") if kind == "multilabel" else ("top1", "macro_f1")
    task = {"kind": kind, "classes": list(classes)} | dict.fromkeys(keys, right)
    task |= {f"{key}_ci": [max(0, right - 0.05), min(1, right + 0.05)] for key in keys}
    groups = {group_of(number) for number in range(len(answers))}
    results = {
        "schema": 1,
        "run": folder.name,
        "split": split,
        "num_rows": len(answers),
        "num_groups": None if group_in == "nowhere" else len(groups),
        "skipped": [],
        "tasks": {"label": task} | dict(more_tasks),
        "class_counts": {},
        "protocol": {"views": 1, "num_frames": 8, "size": 96, "interval": "of this run"} | dict(protocol),
        "seconds": 4.2,
    }
    (target / "results.json").write_text(json.dumps(results))
    rows = [
        {"path": path_of(number), "label": label, "predicted": predicted, "probability": probability, "top_k": "[]"}
        | ({"group": group_of(number)} if group_in == "predictions" else {})
        for number, (label, predicted) in enumerate(answers)
    ]
    write_csv(target / "predictions.csv", rows)
    listed = [{"path": row["path"], "label": row["label"], "split": split} for row in rows]
    if group_in == "manifest":
        listed = [row | {"group": group_of(number)} for number, row in enumerate(listed)]
    write_csv(folder / "manifest.csv", listed)
    (folder / "recipe.yaml").write_text(recipe)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(epoch_record(n)) + "\n" for n in range(1, epochs + 1)))
    (folder / "environment.json").write_text(json.dumps({"started": started}))
    return folder


def epoch_record(number):
    record = {"epoch": number, "phase": 0, "train": "head", "val_loss": 1 / number, "val_top1": 1 - 0.5 / number}
    return record | {"seconds": {"data": 1.0, "compute": 2.0, "evaluate": 0.5}}


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def change(path, **keys):
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
