"""Metrics of predicted numbers: regression, and motion (dx, dy)."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from finetune.metrics.intervals import interval_of_errors, interval_of_median, jackknife_units, transformed_interval

MAX_OUTPUT_POINTS = 500  # [true, predicted] pairs of an output that are kept for the scatter plot
MIN_MOTION = 0.1  # pixels per frame; below, the direction is noise
_TRUTH_EPSILON, _PREDICTION_EPSILON = (
    1e-12,
    1e-7,
)  # relative to the largest value: a smaller spread is rounding, as of float32


def score_regression(
    truth_NK: np.ndarray,
    predictions_NK: np.ndarray,
    *,
    names: Sequence[str],
    groups: np.ndarray | None,
    mean: Sequence[float] | None,
) -> dict[str, Any]:
    """Metrics of K numbers, from true and predicted values (N, K) of at least one row.

    Each metric is the mean over outputs, whatever their units: R², mean absolute error, Pearson's correlation and root
    mean squared error. R² and the correlation of an output are 0 where its true values are constant; so is the
    correlation where its predictions are. `mean` (K,) is that of the training rows; always predicting it is the
    baseline.
    """
    rows = _RegressionSums(truth_NK, predictions_NK, groups)
    figures = {name: float(rows.figures_K[name].mean()) for name in ("r2", "mae", "correlation", "rmse")}
    task: dict[str, Any] = {"kind": "regress", "num_rows": len(truth_NK)}
    task |= {"r2": figures["r2"], "r2_ci": rows.interval("r2")}
    task |= {"mae": figures["mae"], "mae_ci": interval_of_errors(rows.abs_error_NK.mean(1), groups)}
    task |= {"correlation": figures["correlation"], "correlation_ci": rows.interval("correlation")}
    task |= {"rmse": figures["rmse"], "per_output": rows.per_output(names, ("mae", "rmse", "r2", "correlation"))}
    if mean is not None:
        task["baseline"] = {"mae": float(np.abs(truth_NK - np.asarray(mean, dtype=np.float64)).mean())}
    return task


def score_motion(
    truth_N2: np.ndarray,
    predictions_N2: np.ndarray,
    *,
    names: Sequence[str],
    groups: np.ndarray | None,
    mean: Sequence[float] | None,
) -> dict[str, Any]:
    """Metrics of motion, from true and predicted dx, dy (N, 2) of at least one row, in source pixels per frame.

    `correlation` and `r2` are those of `score_regression`. `endpoint_error` is the mean length of the error vector, as
    in optical flow. `angle_error` is the median angle in degrees between true and predicted motion, of rows that truly
    move (MIN_MOTION); None without such rows. A predicted motion of 0 has no direction and counts as 90°, the mean of a
    random direction.
    """
    rows = _RegressionSums(truth_N2, predictions_N2, groups)
    error_N = np.hypot(*(truth_N2.astype(np.float64) - predictions_N2).T)
    moving_N = np.hypot(*truth_N2.T) > MIN_MOTION
    angle, angle_ci = _angle(truth_N2[moving_N], predictions_N2[moving_N], None if groups is None else groups[moving_N])
    task = {
        "kind": "motion",
        "num_rows": len(truth_N2),
        "correlation": float(rows.figures_K["correlation"].mean()),
        "correlation_ci": rows.interval("correlation"),
        "endpoint_error": float(error_N.mean()),
        "endpoint_error_ci": interval_of_errors(error_N, groups),
        "angle_error": angle,
        "angle_error_ci": angle_ci,
        "r2": float(rows.figures_K["r2"].mean()),
        "per_output": rows.per_output(names, ("correlation", "mae", "r2")),
    }
    if mean is not None:
        always_2 = np.asarray(mean, dtype=np.float64)
        task["baseline"] = {"endpoint_error": float(np.hypot(*(truth_N2 - always_2).T).mean())}
    return task


def mean_r2(truth_NK: np.ndarray, predictions_NK: np.ndarray) -> float:
    """The `r2` of `score_regression`, from values (N, K)."""
    return float(_RegressionSums(truth_NK, predictions_NK, None).figures_K["r2"].mean())


def mean_correlation(truth_NK: np.ndarray, predictions_NK: np.ndarray) -> float:
    """The `correlation` of `score_regression`, from values (N, K)."""
    return float(_RegressionSums(truth_NK, predictions_NK, None).figures_K["correlation"].mean())


class _RegressionSums:
    """Sums over rows from which each output's metrics follow, so that leaving out rows is a subtraction."""

    def __init__(self, truth_NK: np.ndarray, predictions_NK: np.ndarray, groups: np.ndarray | None) -> None:
        self.truth_NK, self.predictions_NK = truth_NK.astype(np.float64), predictions_NK.astype(np.float64)
        self.groups = groups
        self.abs_error_NK = np.abs(self.truth_NK - self.predictions_NK)
        truth, predicted = (values - values.mean(0) for values in (self.truth_NK, self.predictions_NK))
        parts = (
            np.ones(truth.shape),
            truth,
            predicted,
            truth**2,
            predicted**2,
            truth * predicted,
            self.abs_error_NK,
            self.abs_error_NK**2,
        )
        self.parts_NFK = np.stack(parts, axis=1)
        self.min_variance_2K = np.stack(
            [_min_variance(self.truth_NK, _TRUTH_EPSILON), _min_variance(self.predictions_NK, _PREDICTION_EPSILON)]
        )
        found = _output_metrics(self.parts_NFK.sum(0), self.min_variance_2K)
        self.constant = {name: np.isnan(values_K) for name, values_K in found.items()}
        self.figures_K = {name: np.nan_to_num(values_K) for name, values_K in found.items()}

    def interval(self, name: Literal["r2", "correlation"]) -> list[float] | None:
        """The interval of r2 or correlation; units without which an output is constant are left out."""
        units = jackknife_units(self.groups, len(self.parts_NFK))
        if units.count < 2:
            return None
        sums_UFK = np.zeros((units.count, *self.parts_NFK.shape[1:]))
        np.add.at(sums_UFK, units.unit_of_row, self.parts_NFK)
        left_out = _output_metrics(sums_UFK.sum(0) - sums_UFK, self.min_variance_2K)
        left_out_UK = np.where(self.constant[name], 0.0, left_out[name])
        return transformed_interval(name, float(self.figures_K[name].mean()), left_out_UK.mean(1), units)

    def per_output(self, names: Sequence[str], figures: Sequence[str]) -> list[dict[str, Any]]:
        """Each output's metrics, with up to MAX_OUTPUT_POINTS rows, evenly spaced, for the scatter plot."""
        rows = np.unique(np.linspace(0, len(self.truth_NK) - 1, min(MAX_OUTPUT_POINTS, len(self.truth_NK))).astype(int))
        return [
            {"name": name}
            | {figure: float(self.figures_K[figure][output]) for figure in figures}
            | {
                "points": [
                    [_round_digits(self.truth_NK[row, output]), _round_digits(self.predictions_NK[row, output])]
                    for row in rows
                ]
            }
            for output, name in enumerate(names)
        ]


def _output_metrics(sums_FK: np.ndarray, min_variance_2K: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of each output from sums (…, F, K); NaN where a variance is not above `min_variance_2K`."""
    rows, truth, predicted, truth_2, prediction_2, product, off, off_2 = np.moveaxis(sums_FK, -2, 0)
    truth_var, predicted_var = truth_2 / rows - (truth / rows) ** 2, prediction_2 / rows - (predicted / rows) ** 2
    shared = product / rows - truth * predicted / rows**2
    differs, both_differ = (
        truth_var > min_variance_2K[0],
        (truth_var > min_variance_2K[0]) & (predicted_var > min_variance_2K[1]),
    )
    nothing = np.full(rows.shape, np.nan)
    spread = np.sqrt(np.where(both_differ, truth_var * predicted_var, 1.0))
    return {
        "r2": 1 - np.divide(off_2 / rows, truth_var, out=nothing.copy(), where=differs),
        "correlation": np.clip(np.divide(shared, spread, out=nothing.copy(), where=both_differ), -1, 1),
        "mae": off / rows,
        "rmse": np.sqrt(off_2 / rows),
    }


def _min_variance(values_NK: np.ndarray, finest: float) -> np.ndarray:
    """The variance of each output (K,) up to which it counts as constant: that of rounding, or 1e-12 of all rows'."""
    return np.maximum((finest * np.abs(values_NK).max(0)) ** 2, 1e-12 * values_NK.var(0))


def _angle(
    truth_N2: np.ndarray, predictions_N2: np.ndarray, groups: np.ndarray | None
) -> tuple[float | None, list[float] | None]:
    """The median angle in degrees between true and predicted motion (N, 2), with its interval; None without rows."""
    if not len(truth_N2):
        return None, None
    truth_N2, predictions_N2 = truth_N2.astype(np.float64), predictions_N2.astype(np.float64)
    across_N = truth_N2[:, 0] * predictions_N2[:, 1] - truth_N2[:, 1] * predictions_N2[:, 0]
    angles_N = np.where(
        predictions_N2.any(1), np.arctan2(np.abs(across_N), (truth_N2 * predictions_N2).sum(1)), np.pi / 2
    )
    angles_N = np.degrees(angles_N)
    return float(np.median(angles_N)), interval_of_median(angles_N, groups)


def _round_digits(value: float) -> float:
    return float(f"{value:.5g}")
