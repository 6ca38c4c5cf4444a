"""Random crops and other augmentations of a training clip, the same for all its frames; and the size to read frames at.

torchvision's transforms take (T, C, H, W), so one call transforms all frames alike.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from finetune.errors import RecipeError
from finetune.recipe.own_parts import part_name, require_object
from finetune.recipe.schema import Augment, Clip

# Frames for a random crop are read this much larger than the model's input, so that smaller crops keep their detail.
CROP_MARGIN = 1.15
TSN_SCALES = (1.0, 0.875, 0.75, 0.66)


@dataclass(frozen=True)
class AugmentParams:
    """The parameters of a preset, most of which a recipe can override. `smallest_area` is the area share of a crop."""

    crop: str = "random_resized"
    smallest_area: float = 0.6
    rotate: float = 0.0  # degrees to either side
    color: float = 0.0  # strength of changes in brightness, contrast and saturation, 0 to 1
    auto: str = "none"
    blur: float = 0.0  # probability
    erase: float = 0.0  # probability


PRESETS = {
    "none": AugmentParams(crop="center"),
    "light": AugmentParams(color=0.2),
    "strong": AugmentParams(smallest_area=0.35, auto="trivial", erase=0.25),
}


@dataclass(frozen=True)
class Augmentation:
    """Transforms applied to a clip in order, with all randomness from one seed."""

    steps: tuple[v2.Transform, ...]

    def __call__(self, frames_TCHW: Tensor, seed: int) -> Tensor:
        """Frames, uint8 (T, C, H, W), as uint8 (T, C, size, size)."""
        return self.on((frames_TCHW,), seed)[0].contiguous()

    def on(self, inputs: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
        """Several inputs with the same random parameters: pictures, and what torchvision transforms along with them."""
        with seeded(seed):
            for step in self.steps:
                inputs = step(inputs)
        return inputs


@dataclass(frozen=True)
class OwnAugmentation:
    """The user's own transform of a clip, with PyTorch's random numbers from one seed."""

    transform: Callable[[Tensor], Tensor]
    size: int

    def __call__(self, frames_TCHW: Tensor, seed: int) -> Tensor:
        """Frames, uint8 (T, C, H, W), as uint8 (T, C, size, size)."""
        wanted = (len(frames_TCHW), 3, self.size, self.size)
        with seeded(seed):
            clip = self.transform(frames_TCHW)
        if not isinstance(clip, Tensor) or clip.shape != wanted or clip.dtype != torch.uint8:
            given = f"{clip.dtype} {tuple(clip.shape)}" if isinstance(clip, Tensor) else type(clip).__name__
            name = part_name(self.transform)
            raise RecipeError(f"augment.transform: {name} gives {given}, not torch.uint8 {wanted}")
        return clip.contiguous()


def build_augmentation(augment: Augment, *, size: int, fit: str) -> Augmentation | OwnAugmentation:
    """The augmentation of a recipe; the same seed gives the same result.

    Preset `none` is the centre crop of evaluation; `light` crops 60-100 % of the area and changes brightness, contrast
    and saturation a little; `strong` crops 35-100 %, adds TrivialAugment and erases a box from a quarter of the clips.
    `flip` mirrors half of the clips, except with `none`.
    """
    if augment.transform is not None:
        return OwnAugmentation(require_object(augment.transform, "augment.transform"), size)
    params = resolve_augment_params(augment)
    steps = [CROPS[params.crop](size, fit, params)]
    if params.rotate:
        steps.append(v2.RandomRotation(params.rotate, interpolation=v2.InterpolationMode.BILINEAR))
    if params.color:
        steps.append(v2.ColorJitter(brightness=params.color, contrast=params.color, saturation=params.color))
    steps += AUTO_AUGMENTS[params.auto]()
    if params.blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(_odd(size // 10), sigma=(0.1, 2.0))], p=params.blur))
    if params.erase:
        steps.append(v2.RandomErasing(p=params.erase))
    if augment.flip and augment.preset != "none":
        steps.append(v2.RandomHorizontalFlip())
    return Augmentation(tuple(steps))


def resolve_augment_params(augment: Augment) -> AugmentParams:
    """The parameters of the preset, with those that the recipe overrides."""
    preset = PRESETS[augment.preset]
    return AugmentParams(
        crop=augment.crop or preset.crop,
        smallest_area=preset.smallest_area,
        rotate=augment.rotate,
        color=preset.color if augment.color_jitter is None else augment.color_jitter,
        auto=augment.auto_augment or preset.auto,
        blur=augment.blur,
        erase=preset.erase if augment.random_erasing is None else augment.random_erasing,
    )


def augmentation_cache_key(augment: Augment, *, size: int, fit: str) -> dict[str, Any]:
    """All that an augmented clip depends on apart from its seed, its video and its clip settings."""
    return {
        **asdict(resolve_augment_params(augment)),
        "flip": augment.flip and augment.preset != "none",
        "speed": augment.speed,
        "frame_dropout": augment.frame_dropout,
        "read_size": read_size(augment, size),
        "fit": fit,
    }


def default_cached_views(augment: Augment, clip: Clip) -> int:
    """How many fixed augmentations of each clip are cached: 8 with preset `strong`, 1 without randomness, else 4."""
    plain = AugmentParams(crop="center")
    still = resolve_augment_params(augment) == plain and (augment.preset == "none" or not augment.flip)
    fixed = clip.sampling in ("uniform", "around") and augment.speed[0] == augment.speed[1]
    fixed = fixed and not augment.frame_dropout and not augment.interval_windows
    return 1 if still and fixed else 8 if augment.preset == "strong" else 4


def read_size(augment: Augment, size: int) -> int:
    """The short side in pixels at which frames are read: larger than `size` unless the crop is a centre crop."""
    return size if resolve_augment_params(augment).crop == "center" else round(size * CROP_MARGIN)


def frame_size(video_size: tuple[int, int], clip: Clip, augment: Augment | None) -> tuple[int, int]:
    """(height, width) in pixels at which the frames of a clip are read; without `augment`, as evaluation does."""
    assert clip.size is not None
    return scaled_size(video_size, clip.size if augment is None else read_size(augment, clip.size), fit=clip.fit)


def scaled_size(video_size: tuple[int, int], side: int, *, fit: str) -> tuple[int, int]:
    """(height, width) with a short side of `side` pixels, or, where `fit` is "squash", a square of that side."""
    if fit == "squash":
        return side, side
    height, width = video_size
    short = min(height, width)
    return max(side, round(height * side / short)), max(side, round(width * side / short))


def center_crop(frames_TCHW: Tensor, size: int) -> Tensor:
    """The central `size` × `size` pixels of (..., H, W), as in evaluation and prediction."""
    return v2.functional.center_crop(frames_TCHW, [size, size])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's CPU generator for this block, and restore its state afterwards."""
    # Not torch.manual_seed, which also records each seed, with a stack trace, for a GPU that is not in use.
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _random_resized_crop(size: int, fit: str, params: AugmentParams) -> v2.Transform:
    ratio = (3 / 4, 4 / 3) if fit == "crop" else (0.9, 1 / 0.9)
    return v2.RandomResizedCrop(size, scale=(params.smallest_area, 1.0), ratio=ratio, antialias=True)


def _multi_scale_crop(size: int, fit: str, params: AugmentParams) -> v2.Transform:
    return MultiScaleCrop(size)


class MultiScaleCrop(v2.Transform):
    """TSN's multi-scale crop, see `multi_scale_box`, resized to `size` × `size` pixels."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = [size, size]

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.functional.get_size(flat_inputs[0])
        return dict(zip(("top", "left", "height", "width"), multi_scale_box(height, width), strict=True))

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return v2.functional.resized_crop(inpt, **params, size=self.size, antialias=True)


def multi_scale_box(height: int, width: int) -> tuple[int, int, int, int]:
    """A random (top, left, height, width) in pixels of TSN's multi-scale crop, arXiv:1608.00859.

    Height and width are the short side times 1, 0.875, 0.75 or 0.66, at most one scale apart. The crop has one of
    thirteen positions: the corners, the middles of the sides, the centre, and halfway between the centre and the
    corners.
    """
    sides = [round(min(height, width) * scale) for scale in TSN_SCALES]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    box_height, box_width = pairs[_draw(len(pairs))]
    places = [(row, column) for row in range(5) for column in range(5) if (row + column) % 2 == 0]
    row, column = places[_draw(len(places))]
    return (height - box_height) * row // 4, (width - box_width) * column // 4, box_height, box_width


def _center_crop(size: int, fit: str, params: AugmentParams) -> v2.Transform:
    return v2.CenterCrop(size)


def _draw(count: int) -> int:
    return int(torch.randint(count, ()))


def _odd(number: int) -> int:
    return max(3, number // 2 * 2 + 1)


CROPS: dict[str, Callable[[int, str, AugmentParams], v2.Transform]] = {
    "random_resized": _random_resized_crop,
    "multi_scale": _multi_scale_crop,
    "center": _center_crop,
}
AUTO_AUGMENTS: dict[str, Callable[[], list[v2.Transform]]] = {
    "none": list,
    "trivial": lambda: [v2.TrivialAugmentWide()],
    "randaugment": lambda: [v2.RandAugment()],
}
