"""Metrics of each kind of task, and their 95 % confidence intervals.

`task_metrics` in evaluation/task_results.py computes all metrics of a task for results.json. By the kind of the task it
calls `headline.score_classification` or `tasks.score_task`, and these:

    classify    classification.score_multiclass
    multilabel  multilabel.score_multilabel
    ordinal     ordinal.score_ordinal
    regress     regression.score_regression
    motion      regression.score_motion
    box         boxes.score_box
    detect      detection.score_detection
    track       detection.score_detection and, with identities, tracking.score_tracks
    segment     segmentation.score_segmentation

`localization.localization_metrics` has those of events in untrimmed recordings.

Every interval comes from `intervals`: top-1's, for example, is `interval_of_shares(correct_N, groups)` in
`score_multiclass`. A new metric of an existing kind is a new key in the dictionary that the kind's `score_…` returns,
with its interval under `<key>_ci`; results.json takes any key. docs/architecture.md lists where it is shown. The metric
by which models are chosen is set in `headline_keys.HEADLINE_METRICS`; after an epoch `headline.validation_metrics` and
`tasks.validation_headline` compute it alone.

Suffixes of arrays: N rows, K classes or outputs, U units (groups, or rows without groups), 2 and 4 for dx, dy and
x, y, w, h.
"""
