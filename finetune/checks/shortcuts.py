"""Find shortcuts: whether properties of the files alone, such as shape or frame rate, give the class away.

A model trained on such files may learn the property instead of the content. It is measured with decision trees that see
the properties alone, and predict rows (and groups) that were held out. N rows, F properties, K classes.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.tree import DecisionTreeClassifier

from finetune.checks.finding import Finding
from finetune.errors import shorten_list
from finetune.text import whole_percent, with_unit

FOLDS = 5
MIN_PER_CLASS, MIN_ROWS = 5, 20
# An alarm must be significant, better than each of so many shuffles of the labels for any property, and large.
NUM_PERMUTATIONS = 999
MIN_SKILL = 0.1  # 0 is chance, 1 is perfect
MIN_CLASS_EXCESS = 0.5  # recall minus false positive rate
ALL_FACTS = "all of these together"
CATEGORICAL_FACTS = ("codec", "sound", ALL_FACTS)
_MEDIAN_LABELS = {
    "shape": ("width ÷ height", ""),
    "size": ("median", " pixels"),
    "frame rate": ("median", " frames/s"),
    "duration": ("median", " s"),
    "bit rate": ("median", ""),
}
_ADVICE = {
    "shape": "Crop all clips to one aspect ratio, as clip.fit=crop does; squashed or padded pictures still show it.",
    "size": "Scale all clips down to the smallest size; enlarging a small picture blurs it, which shows.",
    "frame rate": "Convert all clips to one frame rate.",
    "duration": "Cut all clips to one length; in a longer clip the sampled frames are further apart, which shows.",
    "bit rate": "Find out whether a class was compressed more, or only has more motion.",
    "codec": "Encode all clips with one codec; each leaves its own artefacts in the picture.",
    "sound": "Find out whether the classes come from different sources.",
    ALL_FACTS: "Look at the contact sheets for other differences between the classes.",
}


@dataclass(frozen=True)
class RevealedClass:
    """A class that a property gives away."""

    name: str
    found: float  # recall
    mistaken: float  # false positive rate
    median: float | None  # of the property in this class; None where it is categorical
    median_of_others: float | None


@dataclass(frozen=True)
class Shortcut:
    """How well one property predicts all classes (`chance` is 1 / K), and which classes it gives away."""

    fact: str
    balanced_accuracy: float
    chance: float
    alarm: bool  # significantly and much better than chance, or gives a class away
    told: tuple[RevealedClass, ...]


def find_shortcuts(facts: dict[str, np.ndarray], labels: np.ndarray, units: np.ndarray) -> list[Shortcut]:
    """One shortcut for each property, and for all together; the strongest first. Empty where there are too few rows.

    `facts` are the values (N,) of each property, `labels` class names (N,), `units` the groups (N,) that folds keep
    whole. Classes with fewer than MIN_PER_CLASS rows are left out.
    """
    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    is_used = counts[codes] >= MIN_PER_CLASS
    classes, codes = np.unique(labels[is_used], return_inverse=True)
    units = np.unique(units[is_used], return_inverse=True)[1]
    if len(classes) < 2 or is_used.sum() < MIN_ROWS or units.max() + 1 < FOLDS:
        return []
    varied = {name: values[is_used] for name, values in facts.items() if len(np.unique(values[is_used])) > 1}
    inputs = {name: values[:, None] for name, values in varied.items()}
    if len(varied) > 1:
        inputs[ALL_FACTS] = np.stack(list(varied.values()), 1)
    folds = _folds(codes, units)
    predictions = {name: _out_of_fold_predictions(values, codes, folds) for name, values in inputs.items()}
    by_chance = np.max(
        [_permutation_maxima(codes, predicted, units) for predicted in predictions.values()] or [(1.0, 1.0)], axis=0
    )
    shortcuts = [
        _shortcut(name, inputs[name], predicted, (codes, classes), by_chance) for name, predicted in predictions.items()
    ]
    return sorted(shortcuts, key=lambda shortcut: (-shortcut.alarm, -shortcut.balanced_accuracy))


def shortcut_findings(shortcuts: Sequence[Shortcut]) -> list[Finding]:
    """A warning for each property with an alarm; for all together only where no single one has an alarm."""
    alarms = [shortcut for shortcut in shortcuts if shortcut.alarm]
    single = [shortcut for shortcut in alarms if shortcut.fact != ALL_FACTS]
    return [
        Finding("warning", "shortcut", _describe(shortcut), _ADVICE[shortcut.fact]) for shortcut in single or alarms
    ]


def _describe(shortcut: Shortcut) -> str:
    fact = "all file properties together" if shortcut.fact == ALL_FACTS else f"the {shortcut.fact} of a clip alone"
    accuracy, chance = whole_percent(shortcut.balanced_accuracy), whole_percent(shortcut.chance)
    classes = shorten_list([_describe_class(shortcut.fact, revealed) for revealed in shortcut.told])
    reveals = f"; it gives away {classes}" if classes else ""
    predicts = "predict" if shortcut.fact == ALL_FACTS else "predicts"
    return (
        f"Shortcut: {fact} {predicts} the class with a balanced accuracy of {accuracy} ({chance} by chance){reveals}."
    )


def _describe_class(fact: str, revealed: RevealedClass) -> str:
    medians = ""
    median, median_of_others = revealed.median, revealed.median_of_others
    if median is not None and median_of_others is not None:
        name, unit = _MEDIAN_LABELS[fact]
        portrait = "portrait: " if fact == "shape" and median < 1 <= median_of_others else ""
        texts = [
            with_unit(value, "bit/s") if fact == "bit rate" else f"{value:,g}{unit}"
            for value in (median, median_of_others)
        ]
        medians = f", {portrait}{name} {texts[0]}, others {texts[1]}"
    return f"“{revealed.name}” (recall {whole_percent(revealed.found)}{medians})"


def _folds(codes: np.ndarray, units: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer rows than folds
        return list(splitter.split(codes, codes, units))


def _out_of_fold_predictions(
    values_NF: np.ndarray, codes: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """The class code (N,) that a decision tree predicts for each row when the row is held out."""
    predicted = np.empty_like(codes)
    leaves = max(4, 2 * (codes.max() + 1))
    for train, held_out in folds:
        tree = DecisionTreeClassifier(
            max_leaf_nodes=leaves, min_samples_leaf=3, class_weight="balanced", random_state=0
        ).fit(values_NF[train], codes[train])
        predicted[held_out] = tree.predict(values_NF[held_out])
    return predicted


def _shortcut(
    fact: str,
    values_NF: np.ndarray,
    predicted: np.ndarray,
    codes_and_classes: tuple[np.ndarray, np.ndarray],
    by_chance: np.ndarray,
) -> Shortcut:
    codes, classes = codes_and_classes
    recall, mistaken = _recall_and_false_positive_rate(codes, predicted)
    chance = 1 / len(classes)
    best_by_chance, best_of_a_class_by_chance = by_chance
    skill = (recall.mean() - chance) / (1 - chance)
    alarm = skill >= MIN_SKILL and recall.mean() > best_by_chance
    excess = recall - mistaken
    is_revealed = (excess >= MIN_CLASS_EXCESS) & (excess > best_of_a_class_by_chance)
    revealed = [
        RevealedClass(
            str(classes[code]),
            round(float(recall[code]), 4),
            round(float(mistaken[code]), 4),
            _median(fact, values_NF[codes == code]),
            _median(fact, values_NF[codes != code]),
        )
        for code in np.argsort(-excess, kind="stable")
        if is_revealed[code]
    ]
    accuracy = round(float(recall.mean()), 4)
    return Shortcut(fact, accuracy, round(chance, 4), bool(alarm or revealed), tuple(revealed))


def _median(fact: str, values_NF: np.ndarray) -> float | None:
    return None if fact in CATEGORICAL_FACTS else float(f"{np.median(values_NF):.3g}")


def _permutation_maxima(codes: np.ndarray, predicted: np.ndarray, units: np.ndarray) -> tuple[float, float]:
    """The highest balanced accuracy, and the highest excess of a class, over shuffles of the labels.

    Clips of one class in one group may be alike because they were filmed together, so they count as one observation and
    their labels are shuffled together.
    """
    observations, observation_of_row = np.unique(np.stack([units, codes]), axis=1, return_inverse=True)
    random = np.random.default_rng(0)
    best, best_of_a_class = 0.0, 0.0
    for _ in range(NUM_PERMUTATIONS):
        shuffled = random.permutation(observations[1])[observation_of_row.ravel()]
        recall, mistaken = _recall_and_false_positive_rate(shuffled, predicted)
        best = max(best, recall.mean())
        best_of_a_class = max(best_of_a_class, (recall - mistaken).max())
    return best, best_of_a_class


def _recall_and_false_positive_rate(codes: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and false positive rate of each class, both float (K,)."""
    num_classes = codes.max() + 1
    confusion = np.bincount(codes * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)
    support, correct = confusion.sum(1), confusion.diagonal()
    return correct / support, (confusion.sum(0) - correct) / (len(codes) - support)
