"""The network of a run as a graph with named outputs, which torch.export, ONNX and OpenVINO can store."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from finetune.inference.forward import level_probabilities
from finetune.metrics.calibration import MIN_PROBABILITY
from finetune.model.classifier import VideoClassifier
from finetune.model.view_consensus import combine_views
from finetune.recipe.tasks import SPATIAL_KINDS, OutputSpec

INPUT_NAME = "frames"
LOGITS = "_logits"  # at the end of the name of an output


class ExportGraph(nn.Module):
    """uint8 frames (B, T, C, H, W), or with `views` > 1 (B, V, T, C, H, W), to {name of the output: float32 values}.

    The output `<task>` of a task with classes has probabilities (B, K), combined over views by the run's consensus,
    with its temperature applied. Its second output `<task>_logits` has the head's output before that: (B, K'), or with
    views (B, V, K'); K' is K, or K - 1 steps between the levels of an ordinal task. The output of a task with numbers
    has (B, K), averaged over views. Boxes and motion are fractions of the input picture, with views (B, V, K), because
    only the caller knows where each view lies in its video.
    """

    def __init__(self, model: VideoClassifier, *, views: int, temperatures: Mapping[str, float | None]) -> None:
        super().__init__()
        self.model = model.eval()
        self.views = views
        self.temperatures = dict(temperatures)
        for task, output in model.outputs.items():
            if not output.is_categorical:
                for name, values in (("scale", output.scale), ("center", output.center)):
                    self.register_buffer(f"{task}_{name}", torch.tensor(values), persistent=False)

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs in the order in which `forward` returns them."""
        names = []
        for task, output in self.model.outputs.items():
            names += [task, task + LOGITS] if output.is_categorical else [task]
        return names

    def example(self, batch: int) -> Tensor:
        """Frames of random values, uint8, of the shape that `forward` takes."""
        views = (self.views,) if self.views > 1 else ()
        shape = (batch, *views, self.model.num_frames, 3, self.model.size, self.model.size)
        return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(batch))

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        clips = frames.flatten(0, 1) if self.views > 1 else frames
        outputs = {}
        for task, logits in self.model(clips).items():
            logits_BVK = logits.float().unflatten(0, (-1, self.views))
            output = self.model.outputs[task]
            if output.is_categorical:
                outputs[task] = self._probabilities(task, output, logits_BVK)
                outputs[task + LOGITS] = logits_BVK if self.views > 1 else logits_BVK.flatten(0, 1)
            else:
                outputs[task] = self._numbers(task, output, logits_BVK)
        return outputs

    def _probabilities(self, task: str, output: OutputSpec, logits_BVK: Tensor) -> Tensor:
        separate = output.kind != "classify"
        probs_BK = combine_views(logits_BVK.transpose(0, 1), self.model.consensus, multilabel=separate)
        temperature = self.temperatures.get(task)
        if output.kind == "ordinal":
            return level_probabilities(probs_BK)
        if temperature is None:
            return probs_BK
        # As metrics.calibration.apply_temperature, which is for arrays.
        if separate:
            clipped_BK = probs_BK.clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY)
            return ((clipped_BK.log() - (1 - clipped_BK).log()) / temperature).sigmoid()
        return (probs_BK.clamp_min(MIN_PROBABILITY).log() / temperature).softmax(1)

    def _numbers(self, task: str, output: OutputSpec, logits_BVK: Tensor) -> Tensor:
        scale, center = (self.get_buffer(f"{task}_{name}").float() for name in ("scale", "center"))
        numbers_BVK = logits_BVK * scale + center
        if output.kind in SPATIAL_KINDS and self.views > 1:
            return numbers_BVK
        return numbers_BVK.mean(1)
