"""Metrics of each kind of task, and their 95 % confidence intervals.

`tasks.score_task` computes all metrics of a task for results.json and chooses the module of its kind:

    classify    classification.score_multiclass, through headline.score_classification
    multilabel  multilabel.score_multilabel, through headline.score_classification
    ordinal     ordinal.score_ordinal
    regress     regression.score_regression
    motion      regression.score_motion
    box         boxes.score_box

Every interval comes from `intervals`: top-1's, for example, is `interval_of_shares(correct_N, groups)` in
`score_multiclass`. A new metric of an existing kind is a new key in the dictionary that the kind's `score_…` returns,
with its interval under `<key>_ci`; it is declared in `run/results.py` and shown by `report/run`. A metric by which
models are chosen is set in `headline_keys.HEADLINE_METRICS`, and `tasks._HEADLINE_FUNCTIONS` computes it alone.

Suffixes of arrays: N rows, K classes or outputs, U units (groups, or rows without groups), 2 and 4 for dx, dy and
x, y, w, h.
"""
