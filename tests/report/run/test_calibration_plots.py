"""How sure it is, on the page: curves, sentences, warnings and slices, of runs that the tests write."""

import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from report.run.test_page import change, shown, write_run
from scipy.special import softmax

from finetune.metrics.calibration import apply_temperature, calibration
from finetune.metrics.headline import score_classification
from finetune.metrics.slices import slices
from finetune.report import words
from finetune.report.run import regression_words as measured
from finetune.report.run.calibration_plots import coverage_curve, ranking_curve, reliability_diagram

CLASSES = ["wave", "clap", "jump"]


def task_of(*, spoilt=1.0, rows=240, calibrated=True):
    """The task of a model whose logits are so many times too large."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=rows)
    probs = softmax(spoilt * (1.5 * np.eye(3)[labels] + rng.normal(size=(rows, 3))), axis=1)
    task = score_classification(labels, probs, classes=CLASSES, groups=np.arange(rows) // 8)
    facts = {"duration": np.arange(rows) / 10 + 1, "frame rate": np.where(np.arange(rows) % 2, 25.0, 29.97)}
    task["slices"] = slices(facts, probs.argmax(1) == labels, None)
    if calibrated:
        after = calibration(labels, apply_temperature(probs, spoilt), None)
        task["calibrated"] = after | {"temperature": spoilt, "rows": 80}
        task["temperature"] = spoilt
    return task


def page_of(tmp_path, task):
    write_run(tmp_path, classes=CLASSES, per_class=80)
    change(tmp_path, tasks={"label": task})
    return shown(tmp_path)


def test_a_model_that_is_too_sure_is_told_of_and_what_to_do(tmp_path):
    page = page_of(tmp_path, task_of(spoilt=5.0))
    (said,) = set(re.findall(r"The model is surer than it is right, by [\d.]+ points in the mean\.", page.text))
    assert float(re.search(r"[\d.]+", said)[0]) > 5
    assert f"{said} Take probabilities from predict with --calibrated." in page.text
    assert "at a temperature of 5.00, fitted on 80 validation clips" in page.text
    assert {"reliability-0", "abstain-0", "pr-0", "roc-0"} <= set(page.svg_texts)


def test_without_a_temperature_the_page_says_that_there_is_none(tmp_path):
    page = page_of(tmp_path, task_of(spoilt=5.0, calibrated=False))
    assert "There is no calibrated version" in page.text
    assert "in the mean. Do not decide by its probabilities." in page.text


def test_numbers_are_those_of_the_results(tmp_path):
    task = task_of(spoilt=2.0)
    page = page_of(tmp_path, task)
    before, after = task["calibration"], task["calibrated"]
    assert any(f"{100 * before['ece']:.1f} % {100 * after['ece']:.1f} %" in row for row in page.rows)
    assert any(f"{before['log_loss']:.3f} {after['log_loss']:.3f}" in row for row in page.rows)
    for each in task["abstain"]["at"]:
        low, high = each["accuracy_ci"]
        assert any(f"{100 * each['accuracy']:.1f} % {100 * low:.1f}–{100 * high:.1f} %" in row for row in page.rows)
    for name in ("duration up to 8.9", "duration from 17", "frame rate 25 frames/s", "frame rate 29.97 frames/s"):
        assert sum(name in row for row in page.rows) == 1, name
    assert sum(each["rows"] for each in task["slices"][0]["parts"]) == 240


def test_results_of_before_say_nothing_of_it(tmp_path):
    write_run(tmp_path)
    page = shown(tmp_path)
    assert "How sure it is" not in page.text
    assert not {"reliability-0", "abstain-0"} & set(page.svg_texts)


@pytest.mark.parametrize(
    ("gap", "interval", "after", "sentence", "warned"),
    [
        (0.12, [0.08, 0.16], 0.01, "It is surer than it is right, by 12.0\u00a0points in the mean.", "--calibrated"),
        (0.12, [0.08, 0.16], None, "It is surer than it is right, by 12.0\u00a0points in the mean.", "Do not decide"),
        (0.12, [0.08, 0.16], -0.2, "It is surer than it is right, by 12.0\u00a0points in the mean.", "Do not decide"),
        (-0.12, [-0.16, -0.08], 0.0, "It is less sure than it is right, by 12.0\u00a0points in the", "--calibrated"),
        (0.04, [0.01, 0.07], 0.0, "It is surer than it is right, by 4.0\u00a0points in the mean.", None),
        (0.12, [-0.01, 0.25], 0.0, "No evidence that it is surer, or less sure, than it is right.", None),
        (0.12, [-1, 1], 0.0, "No evidence that it is surer, or less sure, than it is right.", None),
    ],
)
def test_sureness_is_spoken_of_where_it_is_shown_and_warned_of_where_it_matters(gap, interval, after, sentence, warned):
    task = task_of() | {"calibration": {"gap": gap, "gap_ci": interval}}
    task.pop("calibrated")
    task["temperature"] = None if after is None else 1.3
    if after is not None:
        task["calibrated"] = {"gap": after}
    assert words.calibration_sentence(task).startswith(sentence)
    found = [todo for what, todo in words._class_warnings(task) if "than it is right" in what]
    assert [warned in todo for todo in found] == ([] if warned is None else [True])


@pytest.mark.parametrize(("low", "is_warned"), [(-0.02, True), (0.0, True), (0.01, False)])
def test_an_unfreezing_that_did_not_help_is_warned_of(low, is_warned):
    task = task_of() | {"frozen": {"top1": 0.8, "difference": 0.05, "difference_ci": [low, 0.1]}}
    found = [what for what, _ in words._class_warnings(task) if what.startswith("Unfreezing")]
    assert bool(found) is is_warned
    if found:
        assert "with the backbone frozen 80\u00a0% were right" in found[0]


def test_of_a_fold_or_of_validation_clips_no_command_is_named_that_cannot_work(tmp_path):
    task = task_of(spoilt=3.0)
    folds = {"folds": [{"run": f"fold-{n}", "num_rows": 120, "top1": 0.5, "top1_ci": [0.4, 0.6]} for n in (1, 2)]}
    of_folds = task | {"calibrated": task["calibrated"] | {"temperature": None}}
    del of_folds["temperature"]
    write_run(tmp_path / "folds", classes=CLASSES, per_class=80)
    change(tmp_path / "folds", tasks={"label": of_folds}, **folds)
    page = shown(tmp_path / "folds").text
    assert "each fold's probabilities" in page
    assert "--calibrated" not in page
    write_run(tmp_path / "val", classes=CLASSES, per_class=80)
    change(tmp_path / "val", tasks={"label": {k: v for k, v in task.items() if k != "calibrated"}}, split="val")
    assert "it was fitted on these very clips, so only test clips can judge it" in shown(tmp_path / "val").text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0121, "+1.2"), (-0.0121, "−1.2"), (0.0004, "0.0"), (-0.0004, "0.0"), (1, "+100.0")]
)
def test_points_have_a_sign_unless_they_are_none(value, text):
    assert words.points(value) == f"{text}\u00a0points"
    assert words.points(value, sign=False) == f"{text.lstrip('+−')}\u00a0points"


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


def test_the_answer_of_folds_and_of_several_classes():
    results = {"split": "test", "num_rows": 1, "num_groups": None, "folds": [1, 2, 3]}
    task = {"kind": "classify", "top1": 0.5, "top1_ci": None, "majority": {"top1": 0.25}}
    assert words.answer(task, results).startswith("On 1 test clip the models of 3 folds name the right class in 50")
    several = {"kind": "multilabel", "map": 0.5, "map_ci": [0.4, 0.6], "chance_map": 0.2}
    assert words.answer(several, {"split": "train", "num_rows": 2000, "num_groups": 3}) == (
        "On 2,000 training clips of 3 groups the model finds the classes with a mean average precision of 50\u00a0% "
        "(95\u00a0% interval 40–60\u00a0%); a list in random order would get 20\u00a0%."
    )
    marked = str(measured.answer_html(task | {"top1": 0.25}, results))
    assert marked.count("<strong>") == 1 and "right class in <strong>25\u00a0%</strong>" in marked


def test_figures_speak_their_numbers():
    task = task_of(spoilt=2.0)
    diagram = reliability_diagram(task["calibration"], task["calibrated"], name="reliability-0")
    label = ElementTree.fromstring(diagram).get("aria-label")
    for each in task["calibration"]["bins"]:
        assert f"{each['sure']:.0%} sure, {each['right']:.0%} right, {each['count']}" in label
    assert "calibrated" in diagram
    assert "calibrated" not in reliability_diagram(task["calibration"], None, name="reliability-0")
    label = ElementTree.fromstring(coverage_curve(task["abstain"], name="abstain-0")).get("aria-label")
    assert f"100% answered, {task['top1']:.1%} right" in label
    for which in ("precision", "recall"):
        drawing = ranking_curve(task["curves"], which, name="curve-0")
        assert f"{task['curves'][which][25]:.1%} at one half" in ElementTree.fromstring(drawing).get("aria-label")


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
    assert "How sure it is" in page.read_text()
    assert (tmp_path / "evaluation/figures/reliability-0.png").is_file()
