"""What a trained run says of videos it has not been given: the very numbers that evaluation gives for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.checkpoint import load, open_run
from finetune.errors import DataError, VideoError
from finetune.evaluation import thresholds_of, top_classes
from finetune.infer import probabilities, settle_device, settle_precision
from finetune.manifest import SEPARATOR
from finetune.manifest_files import find_media
from finetune.video.check import look_at
from finetune.video.dataset import read_views


@dataclass(frozen=True)
class Prediction:
    """One video's likeliest classes with their probabilities, likeliest first."""

    path: Path
    top_k: tuple[tuple[str, float], ...]
    named: tuple[str, ...] | None = None  # where a clip may have several classes: those above their thresholds

    @property
    def predicted(self) -> str:
        return self.top_k[0][0] if self.named is None else SEPARATOR.join(self.named)

    @property
    def probability(self) -> float:
        return self.top_k[0][1]


def predict(
    run: str | Path,
    paths: Sequence[str | Path],
    *,
    views: int | None = None,
    top_k: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Predictions for files, and for the videos and images within folders, in order.

    `views` defaults to those that the run was evaluated with. Raises DataError that names every file that cannot be
    read, before anything is predicted.
    """
    recipe, classes = open_run(run)
    files = [file for path in paths for file in find_media(Path(path))]
    results = look_at(files)
    bad = [str(result) for result in results if isinstance(result, VideoError)]
    if bad:
        raise DataError("\n".join(bad))
    model = load(run).to(settle_device(recipe.train.device))
    precision = settle_precision(recipe.train.precision, next(model.parameters()).device)
    clip = recipe.clip.model_copy(update={"size": model.size})
    thresholds = thresholds_of(Path(run)) if recipe.data.multilabel else None
    predictions = []
    for file, info in zip(files, results, strict=True):
        assert not isinstance(info, VideoError)
        clips_VTCHW = read_views(
            file,
            clip,
            views=views or recipe.evaluate.views,
            num_frames=info.num_frames,
            video_size=(info.height, info.width),
        )
        probs_K = probabilities(model, clips_VTCHW.unsqueeze(0), precision=precision)[0].numpy()
        named = None
        if thresholds is not None:
            named = tuple(name for name, there in zip(classes, probs_K >= thresholds, strict=True) if there)
        predictions.append(Prediction(file, tuple(top_classes(probs_K, classes, count=top_k)), named))
        if progress is not None:
            progress(len(predictions), len(files))
    return predictions
