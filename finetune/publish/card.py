"""The model card of a run: the README.md that the Hugging Face hub shows, made from saved results, without torch.

The metadata at its top is what the hub searches by; the text is put together from card_sections.py.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import RunError
from finetune.publish import card_sections as sections
from finetune.publish.card_facts import CardFacts, read_card_facts
from finetune.recipe.own_parts import part_name
from finetune.recipe.tasks import CATEGORICAL_KINDS
from finetune.report import words
from finetune.report.run.markdown import escape_markdown
from finetune.report.run.task_words import METRICS
from finetune.run.hub import check_repo_name
from finetune.storage.safe_read import damage_as_run_error

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

PLACEHOLDER = "OWNER/NAME"
# Identifiers of licences that the hub knows and timm or the user may name; others are `other` with a name and a link.
_HUB_LICENCES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
    *("cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "openrail", "gpl-3.0", "apple-amlr", "apple-ascl", "gemma", "unknown"),
)
_HUB_METRICS = {"top1": "accuracy", "macro_f1": "f1", "macro_recall": "recall", "macro_precision": "precision"}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(
    folder: str | Path, *, repo: str = PLACEHOLDER, licence: str | None = None, dataset: str | None = None
) -> str:
    """The card of a run folder, a folder of `finetune kfold`, or an exported model, as text.

    `repo` is where the model will be on the hub. `licence` is the identifier of a licence, by default that of the
    pretrained weights; `dataset` is the hub's identifier of the data set. Raises RunError.
    """
    from huggingface_hub import ModelCard

    folder = Path(folder)
    if repo != PLACEHOLDER:
        check_repo_name(repo)
    if dataset is not None and not _HUB_ID.fullmatch(dataset):
        raise RunError(f"--dataset {dataset}: is not a data set of the hub; name it as OWNER/NAME")
    with damage_as_run_error(folder):
        facts = read_card_facts(folder)
        metadata = _metadata(facts, repo, licence=licence, dataset=dataset).to_yaml()
        text = "\n".join(_text(facts, repo, licence))
    return str(ModelCard(f"---\n{metadata}\n---\n\n{text}\n"))


def _metadata(facts: CardFacts, repo: str, *, licence: str | None, dataset: str | None) -> "ModelCardData":
    from huggingface_hub import ModelCardData

    weights = facts.weights or {}
    stated = licence or weights.get("licence") or (None if weights.get("source") == "none" else "unknown")
    if stated is not None and stated.lower() in _HUB_LICENCES:
        stated = stated.lower()
    hub_id = weights.get("hub_id", "")
    eval_results = list(_eval_results(facts, dataset))
    is_known = stated is None or stated in _HUB_LICENCES
    return ModelCardData(
        license=stated if is_known else "other",
        license_name=None if is_known else _identifier(stated or ""),
        license_link=None if is_known or licence else weights.get("url"),
        base_model=hub_id if _HUB_ID.fullmatch(hub_id) else None,
        library_name="finetune",
        pipeline_tag="video-classification" if _has_classes(facts) else None,
        tags=_tags(facts),
        datasets=[dataset] if dataset else None,
        model_name=_title(facts, repo) if eval_results else None,
        eval_results=eval_results or None,
    )


def _has_classes(facts: CardFacts) -> bool:
    return any(output.is_categorical for output in facts.outputs.values())


def _identifier(licence: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-")[:60]


def _tags(facts: CardFacts) -> list[str]:
    tags = ["finetune", "video", *dict.fromkeys(output.kind for output in facts.outputs.values())]
    if facts.is_multitask:
        tags.append("multi-task")
    return [*tags, facts.exported["runtime"]] if facts.exported is not None else tags


def _title(facts: CardFacts, repo: str) -> str:
    return facts.name if repo == PLACEHOLDER else repo.partition("/")[2]


def _eval_results(facts: CardFacts, dataset: str | None) -> Iterator["EvalResult"]:
    """One result for each metric with a finite value, rounded to four digits; none of an int8 model.

    The hub joins results of one type of task and one data set, so of several tasks only the metrics have the names.
    """
    from huggingface_hub import EvalResult

    is_int8 = facts.exported is not None and facts.exported.get("int8")
    if facts.results is None or is_int8:  # the figures of a run are not those of its int8 version
        return
    split = facts.results["split"]
    for task, metrics in facts.results["tasks"].items():
        of_task = f" of {task}" if facts.is_multitask else ""
        for key, name in _metric_names(metrics["kind"]).items():
            value = metrics.get(key)
            if not isinstance(value, int | float) or not math.isfinite(value):
                continue
            yield EvalResult(
                task_type="video-classification" if metrics["kind"] in CATEGORICAL_KINDS else "other",
                task_name=None if facts.is_multitask else metrics["kind"],
                dataset_type=dataset or "own-videos",
                dataset_name=dataset or "Own videos",
                dataset_split=split,
                metric_type=_HUB_METRICS.get(key, key),
                metric_name=f"{name}{of_task}",
                metric_value=round(float(value), 4),
            )


def _metric_names(kind: str) -> dict[str, str]:
    own = {metric.key: metric.title for metric in METRICS.get(kind, ())}
    if kind not in CATEGORICAL_KINDS:
        return own
    return {key: name[0].upper() + name[1:] for key, name in words.METRIC_NAMES.items()} | own


def _text(facts: CardFacts, repo: str, licence: str | None) -> Iterator[str]:
    yield f"# {escape_markdown(_title(facts, repo), as_code=False)}"
    backbone = escape_markdown(part_name(facts.recipe.model.backbone))
    yield from ("", *sections.description(facts), "", f"It was trained with `finetune` on the backbone {backbone}.")
    for title, lines in (
        ("Classes", sections.classes(facts)),
        ("Results", sections.results(facts)),
        ("How the clips were split", sections.split(facts)),
        ("Intended use", sections.intended_use(facts)),
        ("Limits", sections.limits(facts)),
        ("Licence", sections.licence(facts, licence)),
        ("How to use it", sections.usage(facts, repo)),
        ("Training", sections.training(facts)),
    ):
        if lines:
            yield from ("", f"## {title}", "", *lines)
