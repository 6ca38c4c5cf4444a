"""What is drawn for a training clip. torchvision's transforms take (T, C, H, W), so all frames get the same draw."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms import v2

from finetune.recipe import Augment

# A clip that is cropped at random is read this much larger than the model's input, so that crops keep their detail.
CROP_MARGIN = 1.15


def augmentation(augment: Augment, *, size: int, fit: str) -> Callable[[Tensor, int], Tensor]:
    """A function of (frames_TCHW uint8, seed) that gives (T, C, size, size) uint8: the same seed, the same draw.

    Of its presets `none` crops the middle, as evaluation does; `light` crops 60-100 % of the area, changes brightness,
    contrast and saturation a little, and mirrors half of the clips when `flip`; `strong` crops 35-100 %, adds
    TrivialAugment and erases a box from a quarter of the clips.
    """
    steps: list[Callable[[Tensor], Tensor]] = PRESETS[augment.preset](size, fit)
    if augment.flip and augment.preset != "none":
        steps.append(v2.RandomHorizontalFlip())
    return partial(_seeded, v2.Compose(steps) if len(steps) > 1 else steps[0])


def read_size(preset: str, size: int) -> int:
    """The side in pixels at which frames are read for a preset: with `none` that of evaluation."""
    return size if preset == "none" else round(size * CROP_MARGIN)


def center_crop(frames_TCHW: Tensor, size: int) -> Tensor:
    """The middle `size` × `size` pixels; what evaluation and prediction see."""
    return v2.functional.center_crop(frames_TCHW, [size, size])


def _seeded(transform: Callable[[Tensor], Tensor], frames_TCHW: Tensor, seed: int) -> Tensor:
    # Not torch.manual_seed: it also notes each seed, with a stack trace, for a GPU that is not in use.
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        return transform(frames_TCHW).contiguous()
    finally:
        torch.set_rng_state(state)


def _none(size: int, fit: str) -> list[Callable[[Tensor], Tensor]]:
    return [v2.CenterCrop(size)]


def _light(size: int, fit: str) -> list[Callable[[Tensor], Tensor]]:
    return [
        _random_crop(size, 0.6, fit),
        v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
    ]


def _strong(size: int, fit: str) -> list[Callable[[Tensor], Tensor]]:
    return [_random_crop(size, 0.35, fit), v2.TrivialAugmentWide(), v2.RandomErasing(p=0.25)]


def _random_crop(size: int, smallest_area: float, fit: str) -> v2.RandomResizedCrop:
    ratio = (3 / 4, 4 / 3) if fit == "crop" else (0.9, 1 / 0.9)
    return v2.RandomResizedCrop(size, scale=(smallest_area, 1.0), ratio=ratio, antialias=True)


PRESETS = {"none": _none, "light": _light, "strong": _strong}
