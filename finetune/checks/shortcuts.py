"""Whether facts of the files alone, such as their shape or frame rate, give the label away.

A model that is shown such files may learn the fact and not what happens. Asked of decision trees that know nothing but
the facts, on rows (and groups) that they did not learn from.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.tree import DecisionTreeClassifier

from finetune.checks.finding import Finding
from finetune.errors import shorten_list
from finetune.text import whole_percent

FOLDS = 5
MIN_PER_CLASS, MIN_ROWS = 5, 20
# An alarm has to be sure, beating every one of so many shuffles of the labels for every fact, and worth it.
NUM_PERMUTATIONS = 999
MIN_SKILL = 0.1  # 0 is chance, 1 is always right
MIN_CLASS_EXCESS = 0.5  # share of it found, less share of the others mistaken for it
ALL_FACTS = "all of these together"
CATEGORICAL_FACTS = ("codec", "sound", ALL_FACTS)
_MEDIAN_LABELS = {
    "shape": ("width ÷ height", ""),
    "size": ("median", " pixels"),
    "frame rate": ("median", " frames/s"),
    "duration": ("median", " s"),
    "bit rate": ("median", " bit/s"),
}
_ADVICE = {
    "shape": "Crop all clips to one shape (clip.fit=crop does, from the middle); squashed or padded pictures show it.",
    "size": "Scale all clips down to the smallest size; an enlarged small picture is blurred, which shows.",
    "frame rate": "Bring all clips to one frame rate.",
    "duration": "Cut all clips to one length; in a longer clip the sampled frames lie further apart, which shows.",
    "bit rate": "See whether a class was compressed harder, or only moves more.",
    "codec": "Encode all clips in one way; each codec leaves its own traces in the picture.",
    "sound": "See whether the classes come from different sources.",
    ALL_FACTS: "Look at the contact sheets for what else differs between the classes.",
}


@dataclass(frozen=True)
class RevealedClass:
    """A class that a fact tells: the share of it that is found, the share of the others that is mistaken for it."""

    name: str
    found: float
    mistaken: float
    median: float | None  # of the fact; None where it is no quantity
    median_of_others: float | None


@dataclass(frozen=True)
class Shortcut:
    """What one fact tells: of all classes (balanced accuracy, whose chance is one in K), and which classes it tells."""

    fact: str
    balanced_accuracy: float
    chance: float
    alarm: bool  # beats chance surely and by much, or tells a class
    told: tuple[RevealedClass, ...]


def find_shortcuts(facts: dict[str, np.ndarray], labels: np.ndarray, units: np.ndarray) -> list[Shortcut]:
    """One for each fact, and for all together where there are several; the strongest first. Empty with too few rows.

    `facts` are numbers a row, `labels` names, `units` the groups that are kept whole. Classes of fewer than
    FEWEST_OF_A_CLASS rows are left out.
    """
    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    kept = counts[codes] >= MIN_PER_CLASS
    classes, codes = np.unique(labels[kept], return_inverse=True)
    units = np.unique(units[kept], return_inverse=True)[1]
    if len(classes) < 2 or kept.sum() < MIN_ROWS or units.max() + 1 < FOLDS:
        return []
    varied = {name: values[kept] for name, values in facts.items() if len(np.unique(values[kept])) > 1}
    asked = {name: values[:, None] for name, values in varied.items()}
    if len(varied) > 1:
        asked[ALL_FACTS] = np.stack(list(varied.values()), 1)
    folds = _folds(codes, units)
    predictions = {name: _out_of_fold_predictions(values, codes, folds) for name, values in asked.items()}
    by_chance = np.max(
        [_permutation_maxima(codes, predicted, units) for predicted in predictions.values()] or [(1.0, 1.0)], axis=0
    )
    found = [
        _shortcut(name, asked[name], predicted, (codes, classes), by_chance) for name, predicted in predictions.items()
    ]
    return sorted(found, key=lambda each: (-each.alarm, -each.balanced_accuracy))


def shortcut_findings(shortcuts: Sequence[Shortcut]) -> list[Finding]:
    """A warning for each fact that tells; for all together only where no fact does alone."""
    alarms = [shortcut for shortcut in shortcuts if shortcut.alarm]
    single = [shortcut for shortcut in alarms if shortcut.fact != ALL_FACTS]
    return [
        Finding("warning", "shortcut", _describe(shortcut), _ADVICE[shortcut.fact]) for shortcut in single or alarms
    ]


def _describe(shortcut: Shortcut) -> str:
    known = "all facts of a file together" if shortcut.fact == ALL_FACTS else f"the {shortcut.fact} of a file alone"
    right, chance = whole_percent(shortcut.balanced_accuracy), whole_percent(shortcut.chance)
    told = shorten_list([_describe_class(shortcut.fact, each) for each in shortcut.told])
    tells = f", and tells {told}" if told else ""
    return f"A shortcut: {known} names the right class in {right} ({chance} by chance){tells}."


def _describe_class(fact: str, told: RevealedClass) -> str:
    by = ""
    if told.median is not None and told.median_of_others is not None:
        name, unit = _MEDIAN_LABELS[fact]
        medians = f"{name} {told.median:,g}{unit}, others {told.median_of_others:,g}{unit}"
        by = f", {'portrait: ' if fact == 'shape' and told.median < 1 <= told.median_of_others else ''}{medians}"
    return f"“{told.name}” (finds {whole_percent(told.found)} of it{by})"


def _folds(codes: np.ndarray, units: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer rows than folds
        return list(splitter.split(codes, codes, units))


def _out_of_fold_predictions(
    values_NF: np.ndarray, codes: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """What trees say of each row that they did not learn from."""
    predicted = np.empty_like(codes)
    leaves = max(4, 2 * (codes.max() + 1))
    for learned, asked in folds:
        tree = DecisionTreeClassifier(
            max_leaf_nodes=leaves, min_samples_leaf=3, class_weight="balanced", random_state=0
        ).fit(values_NF[learned], codes[learned])
        predicted[asked] = tree.predict(values_NF[asked])
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
    is_told = (excess >= MIN_CLASS_EXCESS) & (excess > best_of_a_class_by_chance)
    told = [
        RevealedClass(
            str(classes[code]),
            round(float(recall[code]), 4),
            round(float(mistaken[code]), 4),
            _median(fact, values_NF[codes == code]),
            _median(fact, values_NF[codes != code]),
        )
        for code in np.argsort(-excess, kind="stable")
        if is_told[code]
    ]
    accuracy = round(float(recall.mean()), 4)
    return Shortcut(fact, accuracy, round(chance, 4), bool(alarm or told), tuple(told))


def _median(fact: str, values_NF: np.ndarray) -> float | None:
    return None if fact in CATEGORICAL_FACTS else float(f"{np.median(values_NF):.3g}")


def _permutation_maxima(codes: np.ndarray, predicted: np.ndarray, units: np.ndarray) -> tuple[float, float]:
    """The highest balanced accuracy, and excess of a class, when labels are shuffled against what was predicted.

    Clips of one class in one group may be alike because they were filmed in one go, so they are one observation:
    their label moves as one.
    """
    takes, take_of_row = np.unique(np.stack([units, codes]), axis=1, return_inverse=True)
    random = np.random.default_rng(0)
    best, best_of_a_class = 0.0, 0.0
    for _ in range(NUM_PERMUTATIONS):
        shuffled = random.permutation(takes[1])[take_of_row.ravel()]
        recall, mistaken = _recall_and_false_positive_rate(shuffled, predicted)
        best = max(best, recall.mean())
        best_of_a_class = max(best_of_a_class, (recall - mistaken).max())
    return best, best_of_a_class


def _recall_and_false_positive_rate(codes: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each class the share of it that is named so, and the share of the others that is."""
    number = codes.max() + 1
    confusion = np.bincount(codes * number + predicted, minlength=number**2).reshape(number, number)
    of_it, right = confusion.sum(1), confusion.diagonal()
    return right / of_it, (confusion.sum(0) - right) / (len(codes) - of_it)
