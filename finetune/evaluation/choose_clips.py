"""Choose the clips that a report shows: mistakes, uncertain and correct clips, and some of each confused pair."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from finetune.data.labels import LABEL_SEPARATOR
from finetune.run.predictions_csv import PredictionRow

MISTAKES, UNCERTAIN, RIGHT, PAIRS, CLIPS_PER_PAIR = 20, 12, 12, 10, 4


class ConfusedPair(NamedTuple):
    """`number` of the `of` clips of class `true` are predicted as `predicted`; `clips` are the most confident."""

    true: str
    predicted: str
    number: int
    of: int
    clips: list[PredictionRow]


class ChosenClips(NamedTuple):
    """Clips of each kind, which may overlap. Where a clip may have several classes, only mistakes are chosen."""

    mistakes: list[PredictionRow]
    uncertain: list[PredictionRow]
    right: list[PredictionRow]
    pairs: list[ConfusedPair]

    def clips(self) -> list[PredictionRow]:
        """All of them, each once."""
        clips = [*self.mistakes, *self.uncertain, *self.right, *(clip for pair in self.pairs for clip in pair.clips)]
        return list({clip.path: clip for clip in clips}.values())


def choose_clips(predictions: Sequence[PredictionRow], *, multilabel: bool) -> ChosenClips:
    """The most confident mistakes, the least certain and the most confident correct clips, and confused pairs.

    Clips of equal confidence are taken in the order of their paths.
    """
    if multilabel:
        wrong = [row for row in predictions if not row.is_correct]
        return ChosenClips(sorted(wrong, key=lambda row: (-_error_confidence(row), row.path))[:MISTAKES], [], [], [])
    most_confident = sorted(predictions, key=lambda row: (-row.probability, row.path))
    wrong = [row for row in most_confident if not row.is_correct]
    right = [row for row in most_confident if row.is_correct]
    uncertain = sorted(predictions, key=lambda row: (row.margin, row.path))
    return ChosenClips(wrong[:MISTAKES], uncertain[:UNCERTAIN], right[:RIGHT], _confused_pairs(predictions, wrong))


def _error_confidence(row: PredictionRow) -> float:
    """The confidence of the worst error: a predicted class that the clip does not have, or a missed one that it has."""
    true, predicted = (set(text.split(LABEL_SEPARATOR)) - {""} for text in (row.label, row.predicted))
    false_positives = [row.top_k.get(name, 0.0) for name in predicted - true]
    return max([*false_positives, *(1 - row.top_k.get(name, 0.0) for name in true - predicted)], default=0.0)


def _confused_pairs(predictions: Sequence[PredictionRow], wrong: Sequence[PredictionRow]) -> list[ConfusedPair]:
    """The pairs with most clips; of equal counts, first the one with the larger share of its true class."""
    support = Counter(row.label for row in predictions)
    counts = Counter((row.label, row.predicted) for row in wrong)
    order = sorted(counts, key=lambda pair: (-counts[pair], support[pair[0]], pair))[:PAIRS]
    clips_of: dict[tuple[str, str], list[PredictionRow]] = {pair: [] for pair in order}
    for row in wrong:
        clips = clips_of.get((row.label, row.predicted))
        if clips is not None and len(clips) < CLIPS_PER_PAIR:
            clips.append(row)
    return [ConfusedPair(*pair, counts[pair], support[pair[0]], clips) for pair, clips in clips_of.items()]
