"""Names of models with a tower for pictures and one for words: `open_clip/<model>[/<weights>]`. Imports no torch."""

from importlib.util import find_spec
from typing import NamedTuple

from finetune.errors import ModelError, RunError

PREFIX = "open_clip/"


class TowerName(NamedTuple):
    """The name of a model in open_clip, and of its weights, which open_clip calls a pretrained tag; None: the only."""

    model: str
    tag: str | None

    def __str__(self) -> str:
        return f"{PREFIX}{self.model}" + (f"/{self.tag}" if self.tag else "")


def is_tower_name(backbone: object) -> bool:
    """Whether a backbone's name stands for a model of open_clip."""
    return isinstance(backbone, str) and backbone.startswith(PREFIX)


def parse_tower_name(backbone: str) -> TowerName:
    """Raises ModelError for a name of another form, and RunError where open_clip is not installed."""
    model, _, tag = backbone.removeprefix(PREFIX).partition("/")
    if not is_tower_name(backbone) or not model or "/" in tag:
        raise ModelError(
            f"model.backbone={backbone}: has not the form open_clip/MODEL or open_clip/MODEL/WEIGHTS, for example "
            "open_clip/ViT-B-32/laion2b_s34b_b79k"
        )
    if find_spec("open_clip") is None:
        raise RunError(f'{backbone} needs open_clip; install it with: pip install "finetune-video[text]"')
    return TowerName(model, tag or None)
