"""The section about retrieval: metrics with their chance level, per class, and example queries with their hits."""

from collections.abc import Mapping
from typing import Any

from finetune.report import words
from finetune.report.run.clips_section import common_folder, read_picture, read_picture_index, relative_to_root
from finetune.run.folder import EvaluationFolder
from finetune.text import count

# Key in results.json, name, explanation.
METRICS = (
    ("map", "mAP", "mean average precision: right clips are ranked before wrong ones, over the whole list"),
    ("map_at_r", "mAP@R", "the same within the first R clips, of R that are right; stricter"),
    ("recall_1", "Recall@1", "queries whose nearest clip is right"),
    ("recall_5", "Recall@5", "queries with a right clip among the five nearest"),
    ("recall_10", "Recall@10", "queries with a right clip among the ten nearest"),
)
CLASS_COLUMNS = ("recall_1", "recall_5", "map", "map_chance", "map_at_r")


def retrieval_context(retrieval: Mapping[str, Any] | None, files: EvaluationFolder) -> dict[str, Any] | None:
    """What the template shows of `retrieval` in results.json; None where it was not evaluated."""
    if retrieval is None:
        return None
    examples = retrieval.get("examples", [])
    paths = [path for query in examples for path in (query["path"], *(hit["path"] for hit in query["hits"]))]
    root, pictures = common_folder(paths) if paths else "", read_picture_index(files)

    def clip(of: Mapping[str, Any]) -> dict[str, Any]:
        mosaic = read_picture(files.pictures, pictures.get(of["path"], {}).get("mosaic"))
        return {**of, "name": relative_to_root(root, of["path"]), "picture": mosaic}

    shown = [clip(query) | {"hits": [clip(hit) for hit in query["hits"]]} for query in examples]
    return {
        "num_queries": retrieval["num_queries"],
        "summary": _summary(retrieval),
        "metrics": [_metric_row(retrieval, *metric) for metric in METRICS] if retrieval["num_queries"] else [],
        "median_rank": retrieval.get("median_rank"),
        "median_rank_ci": retrieval.get("median_rank_ci"),
        "median_rank_chance": retrieval.get("median_rank_chance"),
        "without_match": retrieval.get("without_match", {}),
        "num_without_match": retrieval["num_without_match"],
        "left_out": retrieval.get("left_out", "group"),
        "classes": [
            {**row, "shares": [row.get(key) for key in CLASS_COLUMNS]} for row in retrieval.get("per_class", [])
        ],
        "typical": [query for query in shown if query["kind"] == "typical"],
        "hardest": [query for query in shown if query["kind"] == "hardest"],
        "root": root,
    }


def _summary(retrieval: Mapping[str, Any]) -> str:
    if not retrieval["num_queries"]:
        return (
            f"None of {count(retrieval['num_without_match'], 'clip')} can find another of its class, as clips of its "
            f"own {retrieval.get('left_out', 'group')} are left out: there are no figures."
        )
    drawn = retrieval.get("sampled_from")
    of_all = f", drawn at random from {drawn:,}," if drawn else ""
    return (
        f"{count(retrieval['num_queries'], 'clip')}{of_all} each rank about "
        f"{count(round(retrieval['gallery_size']), 'other clip')} of this split. The mean average precision is "
        f"{words.percent(retrieval['map'])}; a random order would get {words.percent(retrieval['map_chance'])}."
    )


def _metric_row(retrieval: Mapping[str, Any], key: str, name: str, explanation: str) -> dict[str, Any]:
    chance = retrieval.get(f"{key}_chance")
    return {
        "name": name,
        "explanation": f"{explanation} · chance {words.percent(chance)}",
        "value": retrieval.get(key),
        "interval": retrieval.get(f"{key}_ci"),
        "chance": chance,
    }
