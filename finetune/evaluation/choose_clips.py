"""Which clips a report shows: the surest mistakes, the least certain, the surest right, some of each confused pair."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from finetune.data.labels import LABEL_SEPARATOR
from finetune.run.predictions_csv import PredictionRow

MISTAKES, UNCERTAIN, RIGHT, PAIRS, CLIPS_PER_PAIR = 20, 12, 12, 10, 4


class ConfusedPair(NamedTuple):
    """A class that is taken for another in `number` of its `of` clips, with some of these, the surest first."""

    true: str
    predicted: str
    number: int
    of: int
    clips: list[PredictionRow]


class ChosenClips(NamedTuple):
    """Clips of each kind; of one may be in several. Where a clip may have several classes, mistakes alone."""

    mistakes: list[PredictionRow]
    uncertain: list[PredictionRow]
    right: list[PredictionRow]
    pairs: list[ConfusedPair]

    def clips(self) -> list[PredictionRow]:
        """All of them, each once."""
        every = [*self.mistakes, *self.uncertain, *self.right, *(clip for pair in self.pairs for clip in pair.clips)]
        return list({clip.path: clip for clip in every}.values())


def choose_clips(answers: Sequence[PredictionRow], *, multilabel: bool) -> ChosenClips:
    """The same for the same answers; of equally sure ones the first by path."""
    if multilabel:
        several_wrong = [each for each in answers if not each.is_correct]
        return ChosenClips(
            sorted(several_wrong, key=lambda each: (-_error_confidence(each), each.path))[:MISTAKES], [], [], []
        )
    surest_first = sorted(answers, key=lambda each: (-each.probability, each.path))
    wrong = [each for each in surest_first if not each.is_correct]
    right = [each for each in surest_first if each.is_correct]
    uncertain = sorted(answers, key=lambda each: (each.margin, each.path))
    return ChosenClips(wrong[:MISTAKES], uncertain[:UNCERTAIN], right[:RIGHT], _confused_pairs(answers, wrong))


def _error_confidence(answer: PredictionRow) -> float:
    """How sure the model was of what is wrong: of a class that is not there, or that one which is there is not."""
    there, named = (set(text.split(LABEL_SEPARATOR)) - {""} for text in (answer.label, answer.predicted))
    false_alarms = [answer.top_k.get(name, 0.0) for name in named - there]
    return max([*false_alarms, *(1 - answer.top_k.get(name, 0.0) for name in there - named)], default=0.0)


def _confused_pairs(answers: Sequence[PredictionRow], wrong: Sequence[PredictionRow]) -> list[ConfusedPair]:
    """Those with most clips; of equal counts, first the one with the larger share of its true class."""
    support = Counter(each.label for each in answers)
    counts = Counter((each.label, each.predicted) for each in wrong)
    order = sorted(counts, key=lambda pair: (-counts[pair], support[pair[0]], pair))[:PAIRS]
    of_pair: dict[tuple[str, str], list[PredictionRow]] = {pair: [] for pair in order}
    for each in wrong:
        clips = of_pair.get((each.label, each.predicted))
        if clips is not None and len(clips) < CLIPS_PER_PAIR:
            clips.append(each)
    return [ConfusedPair(*pair, counts[pair], support[pair[0]], clips) for pair, clips in of_pair.items()]
