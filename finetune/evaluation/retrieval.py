"""How well clips of a class find each other by the vectors that a run passes to its head: `evaluate --retrieval`."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np

from finetune.data.manifest import Manifest
from finetune.inference.clip_vectors import ClipVectors
from finetune.metrics.retrieval import LabelledVectors, QueryRanks, rank_queries, retrieval_metrics
from finetune.recipe.tasks import CATEGORICAL_KINDS, primary_task, require_classes
from finetune.run.read import Run, require_checkpoint
from finetune.run.results import Retrieval
from finetune.vector_index.entry import NO_UNIT
from finetune.vector_index.nearest import nearest

TYPICAL, HARDEST, HITS = 6, 4, 5  # queries that the report shows, and clips that each finds


def check_retrieval(run: Run) -> None:
    """Raise RunError for a run without classes, or without a checkpoint."""
    require_checkpoint(run, "retrieval")
    advice = "evaluate without --retrieval, and with evaluate.retrieval=false in its recipe"
    require_classes(run.outputs, run.folder, "retrieval", advice=advice)


def retrieves_by_default(run: Run) -> bool:
    """Whether the recipe asks for retrieval, of a run that has what it takes."""
    has_classes = run.outputs[primary_task(run.outputs)].kind in CATEGORICAL_KINDS
    return run.recipe.evaluate.retrieval and has_classes and run.exported is None


def retrieval_results(tested: Manifest, vectors: ClipVectors, *, task: str) -> Retrieval:
    """The metrics of `retrieval_metrics`, each clip of a split being a query for the others, and example queries.

    A clip of the query's group (or file, without groups) is not in its gallery: the same scene would be found.
    """
    rows, vectors_ND = vectors.read()
    labels = tested.labels_by_task[task].at(rows)
    classes_NK, units = labels.presence(), np.unique(tested.units[rows], return_inverse=True)[1]
    clips = LabelledVectors([vectors_ND], classes_NK, units)
    ranks = rank_queries(clips)
    metrics = retrieval_metrics(ranks, classes_NK, labels.names)
    names = [tested.clip_name(row) for row in rows.tolist()]
    shown = _Examples(clips, vectors_ND, names, [labels.text(row)[0] for row in range(len(rows))])
    examples = [*shown.of("typical", _typical(ranks, classes_NK)), *shown.of("hardest", _hardest(ranks))]
    left_out = "group" if tested.groups is not None else "file"
    results: Any = {"task": task, "left_out": left_out, "num_groups": len(np.unique(units)), **metrics}
    return cast(Retrieval, results | {"examples": examples})


def _typical(ranks: QueryRanks, classes_NK: np.ndarray) -> list[int]:
    """Of each of the first classes, the query with the median average precision."""
    chosen = []
    for label in range(classes_NK.shape[1]):
        of_class = np.flatnonzero(classes_NK[ranks.rows, label])
        if len(of_class):
            order = of_class[np.argsort(ranks.shares["map"][of_class], kind="stable")]
            chosen.append(int(ranks.rows[order[len(order) // 2]]))
    return chosen[:TYPICAL]


def _hardest(ranks: QueryRanks) -> list[int]:
    """The queries with the lowest average precision."""
    return ranks.rows[np.argsort(ranks.shares["map"], kind="stable")[:HARDEST]].tolist()


class _Examples:
    """Finds the nearest clips of a few queries, for the report."""

    def __init__(
        self, clips: LabelledVectors, vectors_ND: np.ndarray, names: Sequence[str], labels: Sequence[str]
    ) -> None:
        self.clips, self.vectors_ND, self.names, self.labels = clips, vectors_ND, names, labels

    def of(self, kind: str, queries: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Queries with their hits, as in results.json."""
        units, classes_NK = self.clips.groups, self.clips.classes_NK
        assert units is not None and (units != NO_UNIT).all()
        if not queries:
            return
        rows = np.array(queries)
        allowed_N = np.asarray(classes_NK.any(axis=1))
        found = nearest(
            self.vectors_ND,
            self.vectors_ND[rows],
            top_k=HITS,
            allowed=allowed_N,
            unit_ids=units,
            query_units=units[rows],
        )
        for query, hits, scores in zip(queries, found.rows_QK.tolist(), found.scores_QK.tolist(), strict=True):
            yield {
                "kind": kind,
                "path": self.names[query],
                "label": self.labels[query],
                "hits": [
                    {
                        "path": self.names[hit],
                        "label": self.labels[hit],
                        "right": bool((classes_NK[hit] & classes_NK[query]).any()),
                        "cosine": round(score, 4),
                    }
                    for hit, score in zip(hits, scores, strict=True)
                    if hit >= 0
                ],
            }
