"""One pass over a recording: the features of two frames a second, and the times at which shots begin.

All frames are decoded once, at the size that the network takes. Each is given to the shot detector, and only those that
are sampled to the network. Memory does not grow with the length of the recording but for the features, of which there
are at most MAX_SAMPLES.
"""

from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from finetune.errors import DataError
from finetune.model.classifier import VideoClassifier
from finetune.recipe.schema import Clip
from finetune.runtime.device import autocast
from finetune.runtime.threads import limit_threads, run_ahead
from finetune.summaries.samples import Samples
from finetune.summaries.shots import ShotDetector
from finetune.timeline.one_pass import FRAMES_PER_BATCH, NumberedPictures
from finetune.timeline.timelines import BATCHES_AHEAD
from finetune.timeline.windows import frame_seconds
from finetune.video.augment import center_crop, frame_size
from finetune.video.decode.read import stream_frames
from finetune.video.interval_frames import duration_by_times
from finetune.video.probe_files import at_image_rate, clip_times, scan_with_times

SAMPLES_PER_SECOND = 2
MAX_SAMPLES = 14_400  # two hours at two a second; of longer recordings fewer a second are taken


class RecordingReader:
    """Reads one recording: `batches` gives pictures of its frames, and afterwards `samples` what was seen.

    `times_N` are the times in seconds of all its frames, and `seconds` is its length.
    """

    def __init__(self, path: Path, model: VideoClassifier, clip: Clip, *, image_rate: float, precision: str) -> None:
        """`clip` says how frames are scaled and cropped. Raises VideoError for a file that cannot be read."""
        self.path, self.model, self.precision = path, model, precision
        self.clip = clip.model_copy(update={"size": model.size})
        self.info, self.layout = at_image_rate(scan_with_times(path), image_rate)
        self.times_N = clip_times(path, self.info, self.layout)
        self.seconds = duration_by_times(self.times_N, self.info.duration_seconds)
        self._sampled_N = sampled_frames(self.times_N, self.seconds)
        self._features: list[np.ndarray] = []  # of the sampled frames, each once, in order
        self._shots = ShotDetector(1 / frame_seconds(self.times_N))

    def batches(self, frames_M: np.ndarray | None = None) -> Generator[NumberedPictures, None, None]:
        """The frames `frames_M`, rising, or else those that are sampled, some at a time, as evaluation reads them."""
        sampled = np.unique(self._sampled_N)
        asked = sampled if frames_M is None else frames_M
        ahead = run_ahead(self._pictures(np.union1d(sampled, asked)), ahead=BATCHES_AHEAD)
        with closing(ahead):
            for numbers, pictures_FCHW in ahead:
                if (places := np.flatnonzero(np.isin(numbers, sampled))).size:
                    self._features.append(frame_features(self.model, pictures_FCHW[places], precision=self.precision))
                if (places := np.flatnonzero(np.isin(numbers, asked))).size:
                    yield [numbers[place] for place in places], pictures_FCHW[places]

    def _pictures(self, wanted_M: np.ndarray) -> Iterator[NumberedPictures]:
        """Batches of wanted frames; all frames are decoded and given to the shot detector."""
        size = frame_size((self.info.height, self.info.width), self.clip, None)
        wanted, all_frames = set(wanted_M.tolist()), np.arange(self.info.num_frames)
        batch: dict[int, np.ndarray] = {}
        with closing(stream_frames(self.path, all_frames, size=size, layout=self.layout)) as frames:
            for number, picture_HWC in frames:
                self._shots.add(number, picture_HWC)
                if number in wanted:
                    batch[number] = picture_HWC
                if len(batch) == FRAMES_PER_BATCH or (batch and number == all_frames[-1]):
                    pictures_FHWC = torch.from_numpy(np.stack(list(batch.values())))
                    yield list(batch), center_crop(pictures_FHWC.permute(0, 3, 1, 2), self.model.size)
                    batch = {}

    def samples(self) -> Samples:
        """What was seen, after all batches. Raises DataError for features that are not finite."""
        _, place_N = np.unique(self._sampled_N, return_inverse=True)
        features_ND = np.concatenate(self._features)[place_N]
        if not np.isfinite(features_ND).all():
            raise DataError(f"{self.path}: its features are not finite; compute them with train.precision=fp32")
        shots = tuple(float(self.times_N[number]) for number in self._shots.cuts)
        picture_size = self.info.height, self.info.width
        return Samples(self.path, self.seconds, picture_size, self._sampled_N, features_ND, shots)


def sampled_frames(times_N: np.ndarray, seconds: float) -> np.ndarray:
    """The numbers (S,) of the frames that are shown in the middle of S equal parts of a recording, rising.

    `times_N` (N,) are the times of its frames.
    """
    count = int(np.clip(round(seconds * SAMPLES_PER_SECOND), 1, MAX_SAMPLES))
    middles_S = (np.arange(count) + 0.5) * seconds / count
    return np.clip(np.searchsorted(times_N, middles_S, side="right") - 1, 0, len(times_N) - 1)


@torch.inference_mode()
def frame_features(model: VideoClassifier, pictures_FCHW: Tensor, *, precision: str) -> np.ndarray:
    """The backbone's features (F, D) of pictures uint8, float32, scaled to length 1.

    A backbone that mixes frames gets each picture as a clip of equal frames; its time steps are averaged.
    """
    backbone = model.backbone
    mixes = backbone.takes_clips or model.settings.fusion != "late"
    clips_FTCHW = pictures_FCHW.unsqueeze(1).expand(-1, model.num_frames if mixes else 1, -1, -1, -1)
    with autocast(precision, model.device), limit_threads(small=model.fits_one_thread):
        features = backbone(clips_FTCHW.to(model.device)).mean(-2).flatten(1)
    return functional.normalize(features.float(), dim=1).cpu().numpy()
