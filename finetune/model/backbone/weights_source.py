"""The source and the licence of pretrained weights, as their publisher states them. Needs no torch."""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict
from safetensors import safe_open
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from finetune.errors import RunError
from finetune.storage.safe_read import parse_json, read_json

LicenceKind = Literal["open", "non-commercial", "own terms", "not stated"]
METADATA_KEY = "weights"  # of the .safetensors files of a run

_OPEN = re.compile(r"(apache-2\.0|mit|bsd-[23]-clause|cc0-1\.0|cc-by(-sa)?-\d\.\d)(?![\w-])", re.IGNORECASE)
# Three licences do not say so in their names: Apple's for research models, Meta's of SEER, and torchvision's link to
# the licence of SWAG, which is CC BY-NC 4.0.
_NON_COMMERCIAL = re.compile(
    r"(?<![a-z])nc(?![a-z])|non[ -]?commercial|research[ -](only|purposes)"
    r"|apple-amlr|seer-license|facebookresearch/SWAG/",
    re.IGNORECASE,
)


class WeightsSource(TypedDict, total=False):
    """Where the weights of a backbone came from; a key is missing where the publisher does not state it.

    `source` is timm, torchvision, bundled, file, own (made by the user's own code) or none (random weights). `name` is
    the publisher's name of the weights, or the name of the file. `hub_id` is their repository on the Hugging Face hub,
    `origin` the project that trained them, `note` what else the publisher says about their use. `file` is the name of
    the file of an earlier run through which they came.
    """

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    source: str
    name: str
    licence: str
    url: str
    hub_id: str
    origin: str
    note: str
    file: str


BUNDLED_LICENCE = "apache-2.0"  # bundled/CARD.md
EARLIER_RUN: WeightsSource = {"source": "file", "name": "those of an earlier run"}  # of a run that does not state them


def find_source(name: str, weights: str, published: WeightsSource) -> WeightsSource:
    """The source of the weights `imagenet`, `bundled`, `none`, or of a file, for a backbone by its name."""
    if weights == "imagenet":
        return published
    if weights == "bundled":
        return {"source": "bundled", "name": f"{name}, bundled with finetune", "licence": BUNDLED_LICENCE}
    return {"source": "none"} if weights == "none" else file_source(Path(weights))


def file_source(path: Path) -> WeightsSource:
    """What a weights file states in its metadata, or the .json file of the same name beside it.

    A checkpoint of a run states the weights that the run started from.
    """
    source: WeightsSource = {"source": "file", "name": path.name}
    card = _card_beside(path)
    if path.suffix == ".safetensors":
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        if METADATA_KEY in metadata:
            with suppress(RunError):
                first: WeightsSource = parse_json(metadata[METADATA_KEY], path, WeightsSource)
                return {**first, "file": path.name}
        card = {**card, **metadata}
    licence = next((card[key] for key in ("licence", "license") if card.get(key)), None)
    return {**source, "licence": str(licence)} if licence else source


def _card_beside(path: Path) -> dict[str, Any]:
    with suppress(RunError):
        card = read_json(path.with_suffix(".json"))
        return card if isinstance(card, dict) else {}
    return {}


def to_metadata(source: WeightsSource | None) -> dict[str, str]:
    """The metadata of a .safetensors file from which `file_source` reads the source back."""
    return {METADATA_KEY: json.dumps(source)} if source else {}


def licence_kind(licence: str | None) -> LicenceKind:
    """How freely a licence lets weights be used; `own terms` have to be read."""
    if licence is None or licence.lower() in {"unknown", "other", ""}:
        return "not stated"
    if _NON_COMMERCIAL.search(licence):
        return "non-commercial"
    return "open" if _OPEN.match(licence) else "own terms"


def describe_source(source: WeightsSource) -> str:
    """One sentence: which weights the backbone started from, and their licence."""
    origin = source.get("source")
    if origin == "none":
        return "Weights of the backbone: random, not pretrained."
    if origin == "own":
        return "Weights of the backbone: those of your own module; licence not stated."
    publisher = f" of {origin}" if origin in {"timm", "torchvision"} else ""
    address = f", {source['url']}" if "url" in source else ""
    through = f", through {source['file']} of an earlier run" if "file" in source else ""
    name = source.get("name", "not named")
    return f"Weights of the backbone: {name}{publisher}{address}{through}; {describe_licence(source)}."


def describe_licence(source: WeightsSource) -> str:
    """The licence in words, and whether its terms have to be read."""
    licence = source.get("licence")
    kind = licence_kind(licence)
    if kind == "not stated":
        return "licence not stated"
    return f"licence {licence}" + {"own terms": ", which has terms of its own"}.get(kind, "")


def licence_warning(source: WeightsSource) -> tuple[str, str] | None:
    """(problem, what to do) for weights that are licensed for non-commercial use or research only; else None."""
    licence = source.get("licence")
    if licence_kind(licence) != "non-commercial":
        return None
    name = source.get("name", "not named")
    return (
        f"The licence of the pretrained weights {name} allows non-commercial use or research only: {licence}.",
        "Read the licence before you use or publish this model, or train with weights of an open licence.",
    )
