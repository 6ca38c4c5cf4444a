"""Run folders with everything that a report shows, written by the tests from random predictions."""

import csv
import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from finetune.evaluation.choose_clips import choose_clips
from finetune.evaluation.contact_sheets import sheet_file_name
from finetune.metrics.calibration import apply_temperature, calibration_metrics, fit_temperature
from finetune.metrics.curves import ranking_curves
from finetune.metrics.detection import score_detection
from finetune.metrics.headline import score_classification
from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.metrics.intervals import paired_difference
from finetune.metrics.segmentation import frame_counts, score_segmentation
from finetune.metrics.slices import accuracy_by_slice
from finetune.recipe.tasks import DENSE_KINDS
from finetune.run.predictions_csv import PredictionRow, read_prediction_rows
from finetune.video.encode import encode_jpeg

SIX = ["hand shaking", "hugging", "kicking", "pointing", "punching", "pushing"]
STAGES = ["stem", "layer1", "layer2", "layer3", "layer4", "temporal", "head"]
PHASES = [("head", 3, 0.01), ("layer4", 4, 0.001), ("all", 5, 0.0003)]


def write_run(
    folder: Path,
    *,
    classes: list[str] = SIX,
    per_class: int | list[int] = 20,
    groups: int | None = 15,
    wrong: float = 0.1,
    clip_name: str = "clip",
    **measures: Any,
) -> dict[str, Any]:
    """A run as training and evaluation leave it, with a share `wrong` of wrong predictions; returns its results."""
    draw = random.Random(0)
    answers = []
    for true, clips in enumerate([per_class] * len(classes) if isinstance(per_class, int) else per_class):
        for clip in range(clips):
            near = (true + draw.choice((1, 1, 1, 2))) % len(classes)
            predicted = near if draw.random() < wrong else true
            answers.append((f"data/{true}/{clip_name}{clip:03}.avi", true, predicted, 0.4 + 0.6 * draw.random()))
    results = results_of(classes, [(true, predicted) for _, true, predicted, _ in answers], groups=groups)
    results["tasks"]["label"] |= measures
    (folder / "evaluation").mkdir(parents=True)
    (folder / "evaluation" / "results.json").write_text(json.dumps(results))
    table = [["path", "label", "predicted", "probability", "top_k"]]
    for path, true, predicted, probability in answers:
        top_k = {classes[true]: 0.1} | {classes[predicted]: probability}
        row = [path, classes[true], classes[predicted], f"{probability:.4f}", json.dumps(list(top_k.items()))]
        table.append([cell.encode(errors="replace").decode() for cell in row])
    with (folder / "evaluation" / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in epoch_records(draw)))
    (folder / "recipe.yaml").write_text("data:\n  folder: data/<ut>\nclip: {num_frames: 8}\n")
    environment = {
        "versions": {"torch": "2.9.1"},
        "hardware": {"cpu": "8 cores", "gpus": []},
        "git": "3f2c1ab",
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    return results


def write_whole_run(folder: Path, **how: Any) -> dict[str, Any]:
    """The same with everything that an evaluation writes: calibration, frozen backbone, pictures."""
    results = write_run(folder, **how)
    task, answers = results["tasks"]["label"], read_prediction_rows(folder / "evaluation") or []
    truth, probs_NK = drawn_probs(task["confusion"])
    groups = None if results["num_groups"] is None else np.arange(len(truth)) % results["num_groups"]
    task |= score_classification(truth, probs_NK, classes=task["classes"], groups=groups)
    task |= extra_scores(truth, probs_NK, groups)
    return _with_pictures(folder, results, answers)


KINDS = {"action": "classify", "where": "box", "track": "motion", "speed": "regress", "level": "ordinal"}


def write_run_of_tasks(folder: Path, kinds: dict[str, str] | None = None, **how: Any) -> dict[str, Any]:
    """A run of these tasks. The first with classes has predictions.csv; `how` is for that one."""
    kinds = KINDS if kinds is None else kinds
    results = write_run(folder, **how)
    classified, draw = results["tasks"].pop("label"), np.random.default_rng(0)
    named = [name for name, kind in kinds.items() if kind in ("classify", "multilabel", "ordinal")]
    for name, kind in kinds.items():
        task = classified if name in named[:1] else results_of(["low", "middle", "high"], LEVELS, groups=15)
        task = numbers_of(kind, draw) if name not in named else task if name in named[:1] else task["tasks"]["label"]
        results["tasks"][name] = task | {"kind": kind} | (LEVELS_OFF if kind == "ordinal" else {})
    if not named:
        (folder / "evaluation" / "predictions.csv").unlink()
        results["class_counts"] = {split: {} for split in ("train", "val", "test")}
    (folder / "evaluation" / "results.json").write_text(json.dumps(results))
    path = folder / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(record_of_tasks(record, kinds)) + "\n" for record in records))
    return results


LEVELS = [(0, 0)] * 30 + [(1, 1)] * 25 + [(1, 2)] * 5 + [(2, 2)] * 28 + [(2, 0)] * 2
LEVELS_OFF = {"mean_distance": 0.1, "mean_distance_ci": [0.04, 0.16], "within_one": 0.978, "kappa": 0.86} | {
    "within_one_ci": [0.93, 0.994]
}


def numbers_of(kind: str, draw: np.random.Generator) -> dict[str, Any]:
    """The metrics of a task without one class for each clip, of 100 labelled clips or frames."""
    if kind in DENSE_KINDS:
        return dense_results(kind, draw)
    if kind == "box":
        counts, edges = np.histogram(draw.beta(6, 3, 100), np.linspace(0, 1, 21))
        task: dict[str, Any] = {"mean_iou": 0.662, "mean_iou_ci": [0.61, 0.71], "ap50": 0.83, "ap50_ci": [0.76, 0.89]}
        task |= {"ap75": 0.27, "ap75_ci": [0.2, 0.36], "center_error": 6.34, "center_error_ci": [5.5, 7.3]}
        task |= {"baseline": {"mean_iou": 0.214}, "histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}
        return task | {"num_rows": 100}
    outputs = [drawn_output(name, draw) for name in (("dx", "dy") if kind == "motion" else ("speed",))]
    task = {"num_rows": 100, "per_output": outputs, "correlation": 0.874, "correlation_ci": [0.82, 0.91], "r2": 0.741}
    if kind == "motion":
        task |= {"endpoint_error": 0.812, "endpoint_error_ci": [0.7, 0.93], "angle_error": 12.4}
        return task | {"angle_error_ci": [10.1, 15.2], "baseline": {"endpoint_error": 2.31}}
    task |= {"r2_ci": [0.66, 0.81], "mae": 0.631, "mae_ci": [0.55, 0.72], "rmse": 0.822}
    return task | {"baseline": {"mae": 1.74}}


OBJECT_CLASSES = ("bus", "car", "person")


def dense_results(kind: str, draw: np.random.Generator) -> dict[str, Any]:
    """The metrics of 100 frames in which a detector misses objects, invents some and confuses classes."""
    groups = np.arange(100) // 10
    if kind == "segment":
        true_NSS = draw.integers(0, 3, (100, 8, 8)).astype(np.uint8)
        wrong_NSS = draw.random(true_NSS.shape) < 0.2
        predicted_NSS = np.where(wrong_NSS, (true_NSS + 1) % 3, true_NSS).astype(np.uint8)
        masks = list(zip(true_NSS, predicted_NSS, strict=True))
        return score_segmentation(frame_counts(masks, 3, recordings=groups), classes=OBJECT_CLASSES, groups=groups)
    truth_NM9 = np.zeros((100, 3, 9))
    truth_NM9[..., 0] = draw.integers(0, 3, (100, 3))
    truth_NM9[..., 1:3] = np.array([[10, 10], [100, 10], [10, 120]]) + draw.integers(0, 20, (100, 3, 2))
    truth_NM9[..., 3:5] = draw.integers(16, 90, (100, 3, 2))
    truth_NM9[..., 5:7], truth_NM9[..., 7] = draw.normal(0, 3, (100, 3, 2)), np.arange(3)
    found_NM8 = np.zeros((100, 3, 8))
    found_NM8[..., :4] = truth_NM9[..., 1:5] + draw.normal(0, 3, (100, 3, 4))
    found_NM8[..., 2:4] = found_NM8[..., 2:4].clip(4)
    found_NM8[..., 4] = draw.uniform(0.2, 1, (100, 3)) * (draw.random((100, 3)) < 0.9)
    found_NM8[..., 5] = np.where(draw.random((100, 3)) < 0.85, truth_NM9[..., 0], draw.integers(0, 3, (100, 3)))
    found_NM8[..., 6:8] = truth_NM9[..., 5:7] + draw.normal(0, 1, (100, 3, 2))
    task = score_detection(kind, truth_NM9, found_NM8, classes=OBJECT_CLASSES, groups=groups, score_threshold=0.4)
    tracks = {"hota": 0.61, "hota_ci": [0.5, 0.7], "deta": 0.66, "assa": 0.58, "mota": -0.05, "idf1": 0.7}
    return task | (tracks | {"switches": 12, "num_sequences": 10, "num_identities": 30} if kind == "track" else {})


def drawn_output(name: str, draw: np.random.Generator) -> dict[str, Any]:
    true = draw.normal(0, 2, 100)
    predicted = 0.8 * true + draw.normal(0, 0.6, 100)
    points = np.stack([true, predicted], 1).round(4).tolist()
    return {"name": name, "correlation": 0.88, "mae": 0.62, "rmse": 0.81, "r2": 0.75, "points": points}


def record_of_tasks(record: dict[str, Any], kinds: dict[str, str]) -> dict[str, Any]:
    """An epoch record with task values; losses fall, and one pair of tasks conflicts at first."""
    left = record["train_loss"] / 1.85
    if not {"classify", "multilabel", "ordinal"} & set(kinds.values()):
        record = {key: value for key, value in record.items() if not key.endswith("top1")}
    tasks = {
        name: {"train_loss": 0.5 * left + number, "val_loss": 0.6 * left + number}
        | {f"val_{HEADLINE_METRICS[kind][0]}": 0.8 - 0.7 * left}
        | ({"train_loss_parts": {"class": 0.3 * left, "box": 0.2 * left}} if kind in DENSE_KINDS else {})
        for number, (name, kind) in enumerate(kinds.items())
    }
    weights = {name: 0.9 * 0.7**number + 0.02 * record["epoch"] for number, name in enumerate(kinds)}
    pairs = itertools.combinations(kinds, 2)
    cosines = {" | ".join(pair): 0.3 - 0.1 * number - 0.4 * left for number, pair in enumerate(pairs)}
    return record | {"tasks": tasks, "weights": weights, "cosines": cosines, "val_score": 0.8 - 0.7 * left}


def write_ablation_of(folder: Path, **changes: Any) -> Path:
    """ablation.json of three tasks and three seeds: one gains, one loses, one is inconclusive."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = {
        "action": {"kind": "classify", "headline": "top1", "name": "top-1"}
        | {"alone": [0.9, 0.91, 0.92], "together": [0.93, 0.94, 0.95], "gain": 3.3, "gain_ci": [1.2, 5.4]},
        "where": {"kind": "box", "headline": "mean_iou", "name": "mean IoU"}
        | {"alone": [0.70, 0.71, 0.69], "together": [0.66, 0.65, 0.67], "gain": -5.7, "gain_ci": [-8.8, -2.6]},
        "track": {"kind": "motion", "headline": "correlation", "name": "correlation"}
        | {"alone": [0.80, 0.84, 0.82], "together": [0.83, 0.82, 0.84], "gain": 1.2, "gain_ci": [-3.1, 5.5]},
    }
    runs = [
        {"href": f"{name}-{seed}/evaluation/report.html", "tasks": name, "seed": seed}
        for name in (*tasks, "together")
        for seed in range(3)
    ]
    ablation = {"schema": 1, "recipe": "quickstart", "split": "test", "num_rows": 120, "seeds": [0, 1, 2]}
    ablation |= {"tasks": tasks, "delta_m": -0.4, "delta_m_ci": [-2.9, 2.1], "runs": runs}
    (folder / "ablation.json").write_text(json.dumps(ablation | changes))
    return folder


def write_large_run(folder: Path, *, classes: int, per_class: int) -> dict[str, Any]:
    """A run of very many classes; calibration and curves are those of a small run, which are computed fast."""
    names = [f"class number {code:04}" for code in range(classes)]
    results = write_run(folder, classes=names, per_class=per_class, wrong=0.3)
    task, answers = results["tasks"]["label"], read_prediction_rows(folder / "evaluation") or []
    truth, probs_NK = drawn_probs((20 * np.eye(6, dtype=int) + 3).tolist())
    small = score_classification(truth, probs_NK, classes=SIX, groups=None)
    task |= {"calibration": small["calibration"], "abstain": small["abstain"]} | extra_scores(truth, probs_NK, None)
    task["curves"] = ranking_curves(np.eye(classes), np.eye(classes), names)
    for row in task["per_class"]:
        row |= {"ap": row["recall"], "auroc": None}
    return _with_pictures(folder, results, answers, noise=64)


def _with_pictures(
    folder: Path, results: dict[str, Any], answers: list[PredictionRow], *, noise: int = 1
) -> dict[str, Any]:
    (folder / "evaluation" / "results.json").write_text(json.dumps(results))
    chosen = choose_clips(answers, multilabel=False).clips()
    write_sheets(folder / "evaluation" / "pictures", [clip.path for clip in chosen], noise=noise)
    return results


def drawn_probs(confusion: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and probabilities (N, K) with this confusion matrix."""
    rng, counts = np.random.default_rng(0), np.array(confusion)
    truth, predicted = (np.repeat(codes.ravel(), counts.ravel()) for codes in np.indices(counts.shape))
    probs_NK = rng.dirichlet(np.full(len(counts), 0.3), len(truth))
    likeliest, rows = probs_NK.argmax(1), np.arange(len(truth))
    probs_NK[rows, likeliest], probs_NK[rows, predicted] = probs_NK[rows, predicted], probs_NK[rows, likeliest].copy()
    return truth, probs_NK


def extra_scores(truth: np.ndarray, probs_NK: np.ndarray, groups: np.ndarray | None) -> dict[str, Any]:
    """What evaluation adds to the metrics of a task."""
    correct_N, temperature = probs_NK.argmax(1) == truth, fit_temperature(truth, probs_NK)
    calibrated = calibration_metrics(truth, apply_temperature(probs_NK, temperature), groups)
    difference, interval = paired_difference(correct_N, np.roll(correct_N, 3), groups=groups)
    facts = {"duration": np.linspace(1, 9, len(truth)), "frame rate": np.where(truth % 2, 25.0, 30.0)}
    return {
        "slices": accuracy_by_slice(facts, correct_N, groups),
        "calibrated": calibrated | {"temperature": temperature, "rows": 80},
        "frozen": {"top1": float(correct_N.mean()), "difference": difference, "difference_ci": list(interval)},
    }


def write_sheets(folder: Path, paths: list[str], *, noise: int = 1) -> None:
    """Contact sheets of eight frames with `noise` grey levels of noise, Grad-CAM sheets, and attention weights."""
    folder.mkdir()
    noisy = np.random.default_rng(0).integers(0, noise, (3, 112, 8 * 112)).astype(np.uint8)
    sheet, cam = (encode_jpeg(noisy + np.repeat(np.arange(8, dtype=np.uint8) * 20 + shade, 112)) for shade in (48, 0))
    index = {}
    for path in paths:
        index[path] = {
            "sheet": sheet_file_name(path),
            "cam": sheet_file_name(path, "-cam"),
            "frames": 8,
            "weights": [0.125] * 8,
        }
        (folder / sheet_file_name(path)).write_bytes(sheet)
        (folder / sheet_file_name(path, "-cam")).write_bytes(cam)
    (folder / "index.json").write_text(json.dumps(index))


def results_of(classes: list[str], answers: list[tuple[int, int]], *, groups: int | None) -> dict[str, Any]:
    confusion = [[0] * len(classes) for _ in classes]
    for true, predicted in answers:
        confusion[true][predicted] += 1
    rows = []
    for i, name in enumerate(classes):
        support, named, right = sum(confusion[i]), sum(row[i] for row in confusion), confusion[i][i]
        recall, precision = right / max(support, 1), right / max(named, 1)
        f1 = 2 * right / max(support + named, 1)
        row = {"class": name, "precision": precision, "recall": recall, "recall_ci": around(recall, 0.15)}
        rows.append(row | {"f1": f1, "support": support})
    top1 = sum(confusion[i][i] for i in range(len(classes))) / max(len(answers), 1)
    task: dict[str, Any] = {"kind": "classify", "classes": classes, "per_class": rows, "confusion": confusion}
    task["majority"] = {"class": classes[0], "top1": 1 / len(classes)}
    means = {key: sum(row[key] for row in rows) / len(rows) for key in ("precision", "recall", "f1")}
    values = {"top1": top1, "top5": min(1.0, top1 + 0.05)} | {f"macro_{key}": mean for key, mean in means.items()}
    for measure, value in values.items():
        task |= {measure: value, f"{measure}_ci": around(value, 0.04)}
    counts = {
        split: {row["class"]: times * row["support"] for row in rows}
        for split, times in (("train", 4), ("val", 1), ("test", 1))
    }
    protocol = {"checkpoint": "best", "views": 1, "num_frames": 8, "sampling": "segments", "size": 112}
    protocol |= {"fit": "crop", "consensus": "mean of probabilities", "decoder": "pyav", "precision": "fp32"}
    protocol |= {"interval": "95 % percentile bootstrap over 15 groups, 2000 resamples", "batch_size": 16}
    return {
        "schema": 1,
        "run": "quickstart-20261120-231500",
        "split": "test",
        "num_rows": len(answers),
        "num_groups": groups,
        "skipped": [],
        "tasks": {"label": task},
        "class_counts": counts,
        "protocol": protocol,
        "seconds": 3.1,
    }


def around(value: float, reach: float) -> list[float]:
    return [max(0.0, value - reach), min(1.0, value + reach)]


def epoch_records(draw: random.Random) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for phase, (train, epochs, peak) in enumerate(PHASES):
        learning = STAGES if train == "all" else STAGES[STAGES.index(train) :]
        for epoch_in_phase in range(1, epochs + 1):
            left = (1 - len(records) / 12) ** 2
            rate = peak * (1 - 0.9 * (epoch_in_phase - 1) / epochs)
            rates = {stage: rate * 0.8 ** (6 - i) if stage in learning else 0.0 for i, stage in enumerate(STAGES)}
            record = {
                "epoch": len(records) + 1,
                "phase": phase,
                "train": train,
                "epoch_in_phase": epoch_in_phase,
            }
            record |= {
                "learning": learning,
                "lr": rates,
                "clips_per_second": 40 + draw.random(),
                "skipped": 0,
            }
            record |= {"train_loss": 1.8 * left + 0.05, "train_top1": 1 - 0.7 * left}
            record |= {"val_loss": 1.6 * left + 0.3, "val_top1": 0.93 - 0.6 * left + 0.02 * draw.random()}
            records.append(record | {"seconds": {"data": 4.0 + phase, "compute": 6.0 + 5 * phase, "evaluate": 2.5}})
    return records


LONG_NAMES = [
    f"person {number} carries a long kitchen utensil to the shelf"
    if number % 3
    else f"{'Donaudampfschiff' * 3}{number}"
    for number in range(50)
]


def write_multilabel_run(folder: Path) -> dict[str, Any]:
    """A run whose clips have any number of six classes with long names."""
    results, names, draw = write_run(folder), LONG_NAMES[:6], np.random.default_rng(0)
    targets_NK = draw.random((results["num_rows"], 6)) < 0.4
    probs_NK = np.clip(targets_NK * 0.4 + draw.random(targets_NK.shape) * 0.6, 0, 1)
    task = score_classification(
        targets_NK, probs_NK, classes=names, groups=None, predicted_NK=probs_NK > 0.5, thresholds=np.full(6, 0.5)
    )
    results |= {"tasks": {"label": task}, "class_counts": {"train": dict.fromkeys(names, 100)}}
    (folder / "evaluation" / "results.json").write_text(json.dumps(results))
    return results


def write_long_run_of_large_numbers(folder: Path) -> None:
    """A run of 1200 epochs whose tasks have losses, values and errors of many digits."""
    results, scale = write_run_of_tasks(folder), 23456.7
    for task in results["tasks"].values():
        for output in task.get("per_output", []):
            output["points"] = (scale * np.array(output["points"])).tolist()
        task |= {key: scale * task[key] for key in ("mae", "rmse", "endpoint_error") if key in task}
    (folder / "evaluation" / "results.json").write_text(json.dumps(results))
    path = folder / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines() * 100]
    for number, record in enumerate(records):
        record |= {"epoch": number + 1, "train_loss": scale * record["train_loss"], "phase": number // 500}
        for task in record["tasks"].values():
            task["train_loss"] *= scale
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
