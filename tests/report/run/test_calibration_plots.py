"""The calibration section of the page: curves, sentences, warnings and slices, of runs that the tests write."""

import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from report.run.test_page import change, shown, write_run
from scipy.special import softmax

from finetune.metrics.calibration import apply_temperature, calibration_metrics
from finetune.metrics.headline import score_classification
from finetune.metrics.slices import accuracy_by_slice
from finetune.report import words
from finetune.report.run.calibration_plots import coverage_curve, ranking_curve, reliability_diagram
from finetune.report.run.task_words import summary_html

CLASSES = ["wave", "clap", "jump"]


def task_of(*, spoilt=1.0, rows=240, calibrated=True):
    """The task of a model whose logits are so many times too large."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=rows)
    probs = softmax(spoilt * (1.5 * np.eye(3)[labels] + rng.normal(size=(rows, 3))), axis=1)
    task = score_classification(labels, probs, classes=CLASSES, groups=np.arange(rows) // 8)
    facts = {"duration": np.arange(rows) / 10 + 1, "frame rate": np.where(np.arange(rows) % 2, 25.0, 29.97)}
    task["slices"] = accuracy_by_slice(facts, probs.argmax(1) == labels, None)
    if calibrated:
        after = calibration_metrics(labels, apply_temperature(probs, spoilt), None)
        task["calibrated"] = after | {"temperature": spoilt, "rows": 80}
        task["temperature"] = spoilt
    return task


def page_of(tmp_path, task):
    write_run(tmp_path, classes=CLASSES, per_class=80)
    change(tmp_path, tasks={"label": task})
    return shown(tmp_path)


def test_an_overconfident_model_is_named_with_what_to_do(tmp_path):
    page = page_of(tmp_path, task_of(spoilt=5.0))
    pattern = r"The model is overconfident: its mean confidence is ([\d.]+) points above its accuracy\."
    (points,) = set(re.findall(pattern, page.text))
    assert float(points) > 5
    assert f"{points} points above its accuracy. Use finetune predict --calibrated." in page.text
    assert "temperature scaling with T = 5.00, fitted on 80 validation clips" in page.text
    assert {"reliability-0", "abstain-0", "pr-0", "roc-0"} <= set(page.svg_texts)


def test_without_a_temperature_the_page_says_that_there_is_none(tmp_path):
    page = page_of(tmp_path, task_of(spoilt=5.0, calibrated=False))
    assert "There are no calibrated probabilities" in page.text
    assert "above its accuracy. Do not base decisions on its probabilities." in page.text


def test_numbers_are_those_of_the_results(tmp_path):
    task = task_of(spoilt=2.0)
    page = page_of(tmp_path, task)
    before, after = task["calibration"], task["calibrated"]
    assert any(f"{100 * before['ece']:.1f} % {100 * after['ece']:.1f} %" in row for row in page.rows)
    assert any(f"{before['log_loss']:.3f} {after['log_loss']:.3f}" in row for row in page.rows)
    for point in task["abstain"]["at"]:
        low, high = point["accuracy_ci"]
        assert any(f"{100 * point['accuracy']:.1f} % {100 * low:.1f}–{100 * high:.1f} %" in row for row in page.rows)
    for name in ("duration up to 8.9", "duration from 17", "frame rate 25 frames/s", "frame rate 29.97 frames/s"):
        assert sum(name in row for row in page.rows) == 1, name
    assert sum(part["rows"] for part in task["slices"][0]["parts"]) == 240


def test_older_results_without_calibration_have_no_such_section(tmp_path):
    write_run(tmp_path)
    page = shown(tmp_path)
    assert "Confidence vs. accuracy" not in page.text
    assert not {"reliability-0", "abstain-0"} & set(page.svg_texts)


@pytest.mark.parametrize(
    ("gap", "interval", "after", "sentence", "warned"),
    [
        (0.12, [0.08, 0.16], 0.01, "overconfident: its mean confidence is 12.0\u00a0points above", "--calibrated"),
        (0.12, [0.08, 0.16], None, "overconfident: its mean confidence is 12.0\u00a0points above", "Do not base"),
        (0.12, [0.08, 0.16], -0.2, "overconfident: its mean confidence is 12.0\u00a0points above", "Do not base"),
        (-0.12, [-0.16, -0.08], 0.0, "underconfident: its mean confidence is 12.0\u00a0points below", "--calibrated"),
        (0.04, [0.01, 0.07], 0.0, "overconfident: its mean confidence is 4.0\u00a0points above", None),
        (0.12, [-0.01, 0.25], 0.0, "no evidence of over- or underconfidence", None),
        (0.12, [-1, 1], 0.0, "no evidence of over- or underconfidence", None),
    ],
)
def test_a_calibration_gap_is_named_where_it_is_significant_and_warned_of_where_it_is_large(
    gap, interval, after, sentence, warned
):
    task = task_of() | {"calibration": {"gap": gap, "gap_ci": interval}}
    task.pop("calibrated")
    task["temperature"] = None if after is None else 1.3
    if after is not None:
        task["calibrated"] = {"gap": after}
    assert sentence in words.calibration_sentence(task)
    todos = [todo for problem, todo in words._class_warnings(task) if "confident" in problem]
    assert [warned in todo for todo in todos] == ([] if warned is None else [True])


@pytest.mark.parametrize(("low", "is_warned"), [(-0.02, True), (0.0, True), (0.01, False)])
def test_unfreezing_that_did_not_help_gives_a_warning(low, is_warned):
    task = task_of() | {"frozen": {"top1": 0.8, "difference": 0.05, "difference_ci": [low, 0.1]}}
    problems = [problem for problem, _ in words._class_warnings(task) if "unfreezing" in problem]
    assert bool(problems) is is_warned
    if problems:
        assert "with the backbone frozen, top-1 accuracy was already 80\u00a0%" in problems[0]


def test_of_a_fold_or_of_validation_clips_no_command_is_named_that_cannot_work(tmp_path):
    task = task_of(spoilt=3.0)
    folds = {"folds": [{"run": f"fold-{n}", "num_rows": 120, "top1": 0.5, "top1_ci": [0.4, 0.6]} for n in (1, 2)]}
    of_folds = task | {"calibrated": task["calibrated"] | {"temperature": None}}
    del of_folds["temperature"]
    write_run(tmp_path / "folds", classes=CLASSES, per_class=80)
    change(tmp_path / "folds", tasks={"label": of_folds}, **folds)
    page = shown(tmp_path / "folds").text
    assert "fitted on the validation clips of each fold" in page
    assert "--calibrated" not in page
    write_run(tmp_path / "val", classes=CLASSES, per_class=80)
    change(tmp_path / "val", tasks={"label": {k: v for k, v in task.items() if k != "calibrated"}}, split="val")
    assert "It was fitted on these clips, so it can be assessed only on test clips" in shown(tmp_path / "val").text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0121, "+1.2"), (-0.0121, "−1.2"), (0.0004, "0.0"), (-0.0004, "0.0"), (1, "+100.0")]
)
def test_points_have_a_sign_unless_they_are_none(value, text):
    assert words.format_points(value) == f"{text}\u00a0points"
    assert words.format_points(value, sign=False) == f"{text.lstrip('+−')}\u00a0points"


@pytest.mark.parametrize(
    ("fact", "ends", "names"),
    [
        ("duration", [(0.5, 2), (2.1, 5), (6, 12345)], ["up to 2\u00a0s", "2.1 to 5\u00a0s", "from 6\u00a0s"]),
        ("frames", [(1, 9000), (9001, 12345), (12346, 99999)], ["up to 9000", "9001 to 12345", "from 12346"]),
        ("frame rate", [(25, 25), (29.97, 29.97)], ["25\u00a0frames/s", "29.97\u00a0frames/s"]),
        ("else", [(1, 2), (3, 4)], ["up to 2", "from 3"]),
    ],
)
def test_slices_are_named_by_their_ends(fact, ends, names):
    parts = [{"low": low, "high": high} for low, high in ends]
    assert [words.slice_name(fact, part, parts) for part in parts] == [f"{fact} {name}" for name in names]


def test_the_headline_of_folds_and_of_a_multilabel_task():
    results = {"split": "test", "num_rows": 1, "num_groups": None, "folds": [1, 2, 3]}
    task = {"kind": "classify", "top1": 0.5, "top1_ci": None, "majority": {"top1": 0.25}}
    assert words.class_task_summary(task, results) == (
        "Top-1 accuracy is 50\u00a0% on 1 test clip, in 3-fold cross-validation; "
        "the majority-class baseline reaches 25\u00a0%."
    )
    multilabel = {"kind": "multilabel", "map": 0.5, "map_ci": [0.4, 0.6], "chance_map": 0.2}
    assert words.class_task_summary(multilabel, {"split": "train", "num_rows": 2000, "num_groups": 3}) == (
        "Mean average precision (mAP) is 50\u00a0% (95\u00a0% interval 40–60\u00a0%) "
        "on 2,000 training clips from 3 groups; a random ranking reaches 20\u00a0%."
    )
    html = str(summary_html(task | {"top1": 0.25}, results))
    assert html.count("<strong>") == 1 and "accuracy is <strong>25\u00a0%</strong>" in html


@pytest.mark.parametrize(
    ("ends", "problem"),
    [
        ([0.1, 0.4], ["No evidence that the model beats the majority-class baseline: the interval includes it."]),
        ([0.1, 0.2], ["The model is worse than the majority-class baseline."]),
        ([0.3, 0.4], []),
    ],
)
def test_a_model_that_does_not_beat_the_baseline_gives_a_warning(ends, problem):
    task = task_of() | {"top1_ci": ends, "majority": {"class": "wave", "top1": 0.25}}
    assert [text for text, _ in words._class_warnings(task) if "baseline" in text] == problem


def test_figures_have_their_values_in_the_accessible_name():
    task = task_of(spoilt=2.0)
    diagram = reliability_diagram(task["calibration"], task["calibrated"], name="reliability-0")
    label = ElementTree.fromstring(diagram).get("aria-label")
    for part in task["calibration"]["bins"]:
        assert f"{part['sure']:.0%}: {part['right']:.0%} (n = {part['count']})" in label
    assert ">calibrated<" in diagram
    assert ">calibrated<" not in reliability_diagram(task["calibration"], None, name="reliability-0")
    label = ElementTree.fromstring(coverage_curve(task["abstain"], name="abstain-0")).get("aria-label")
    assert f"{task['top1']:.1%} at 100% coverage" in label
    for which in ("precision", "recall"):
        drawing = ranking_curve(task["curves"], which, name="curve-0")
        assert f"{task['curves'][which][25]:.1%} at a " in ElementTree.fromstring(drawing).get("aria-label")


@pytest.mark.slow
def test_a_report_is_written_where_neither_torch_nor_scikit_learn_can_be_imported(tmp_path):
    write_run(tmp_path, classes=CLASSES, per_class=80)
    change(tmp_path, tasks={"label": task_of(spoilt=2.0)})
    hidden = ("torch", "torchvision", "timm", "sklearn", "av", "accelerate")
    code = f"import sys; sys.modules.update(dict.fromkeys({hidden!r})); from finetune.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "report", str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    page = tmp_path / "evaluation/report.html"
    assert done.stdout.strip() == str(page)
    assert "Confidence vs. accuracy" in page.read_text()
    assert (tmp_path / "evaluation/figures/reliability-0.png").is_file()
