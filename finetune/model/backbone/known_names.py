"""Names of the backbones of both libraries, read from their source files, because importing them takes seconds."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from finetune.errors import ModelError, suggest_similar
from finetune.recipe.own_parts import is_own

BUNDLED = Path(__file__).parent / "bundled"
REGISTER_PATTERN = re.compile(r"^@register_model\b(?:.*\n)+?def (\w+)\(", re.MULTILINE)
NON_CLASSIFIER_FOLDERS = ("detection", "segmentation", "optical_flow", "quantization")


def check_name(backbone: object) -> None:
    """Raise ModelError, with similar names, for a backbone that the library does not have; own parts pass."""
    if is_own(backbone):
        return
    name = str(backbone)
    if name.startswith("torchvision/"):
        library, known = "torchvision", {f"torchvision/{known}" for known in torchvision_names()}
        word = name
    else:
        library, known = "timm", set(timm_names())
        word = name.partition(".")[0]
    if word not in known:
        raise ModelError(f"model.backbone {name!r}: {library} has no model {word!r}{suggest_similar(word, known)}")


@cache
def timm_names() -> frozenset[str]:
    """Architectures of timm, without pretrained tags."""
    return _registered("timm", "models")


@cache
def torchvision_names() -> frozenset[str]:
    """Image and video classifiers of torchvision, without the prefix `torchvision/`."""
    return _registered("torchvision", "models")


def bundled_names() -> list[str]:
    """Backbones whose weights are part of this package; these are not ImageNet weights (see bundled/CARD.md)."""
    return sorted(path.stem for path in BUNDLED.glob("*.safetensors"))


def _registered(package: str, folder: str) -> frozenset[str]:
    spec = find_spec(package)  # does not import the package
    assert spec is not None and spec.submodule_search_locations, package
    root = Path(spec.submodule_search_locations[0]) / folder
    names: set[str] = set()
    for source in root.rglob("*.py"):
        if not set(source.relative_to(root).parts) & set(NON_CLASSIFIER_FOLDERS):
            names.update(REGISTER_PATTERN.findall(source.read_text(encoding="utf-8")))
    return frozenset(names)
