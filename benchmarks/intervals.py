"""Simulate the coverage of 95 % intervals: of accuracy, of paired differences and of pooled folds.

The baseline (plain) uses Student's t with (groups − 1) degrees of freedom, on log odds for accuracy; it ignores that
groups are uneven and differences are rare. Prints the coverage, and the median width divided by that of an interval
with known correlation within groups.
"""

import argparse
from collections.abc import Callable

import numpy as np
from scipy.special import expit
from scipy.stats import norm, t

from finetune.metrics.intervals import interval_of_shares, paired_difference, widen_for_pooled_folds


def zipf(groups: int, clips: int) -> np.ndarray:
    sizes = 1 / np.arange(1, groups + 1)
    return np.maximum(1, np.round(clips * sizes / sizes.sum())).astype(int)


def large(size: int, others: int, size_of_others: int) -> np.ndarray:
    return np.append(size, np.full(others, size_of_others))


SIZES = {
    "3 groups of 20": np.full(3, 20),
    "5 of 20": np.full(5, 20),
    "8 of 12": np.full(8, 12),
    "15 of 8": np.full(15, 8),
    "40 of 10": np.full(40, 10),
    "200 of 1": np.ones(200, int),
    "one of 60, 60 of 1": large(60, 60, 1),
    "one of 30, 90 of 1": large(30, 90, 1),
    "one of 60, 6 of 10": large(60, 6, 10),
    "one of 90, 30 of 1": large(90, 30, 1),
    "5 of 20, 50 of 2": np.append(np.full(5, 20), np.full(50, 2)),
    "10 of 18, 90 of 2": np.append(np.full(10, 18), np.full(90, 2)),
    "Zipf, 5 groups": zipf(5, 100),
    "Zipf, 20 groups": zipf(20, 200),
    "Zipf, 60 groups": zipf(60, 400),
    "Zipf, 200 groups": zipf(200, 2000),
}
TRUTHS = (
    (0.7, 0.0),
    (0.8, 0.1),
    (0.9, 0.1),
    (0.95, 0.1),
    (0.7, 0.3),
    (0.9, 0.3),
    (0.95, 0.3),
    (0.8, 0.6),
    (0.95, 0.6),
    (0.99, 0.2),
    (0.99, 0.6),
)
RARE = ((0.005, 1.0, 0.0), (0.02, 1.0, 0.1), (0.05, 1.0, 0.3), (0.2, 0.5, 0.1), (0.4, 0.8, 0.1))
PAIRED = ("5 of 20", "15 of 8", "40 of 10", "200 of 1", "one of 60, 60 of 1", "Zipf, 20 groups", "Zipf, 60 groups")
FOLDS = (  # groups, clips of each, numbers, how far the two classes are apart, how alike clips of a group are, folds
    (20, 6, 20, 0.8, 0.2, 5),
    (20, 6, 20, 0.8, 0.2, 20),
    (30, 4, 50, 1.0, 0.2, 5),
    (12, 10, 10, 0.8, 0.3, 5),
    (40, 6, 100, 1.2, 0.2, 5),
    (15, 8, 50, 1.5, 0.1, 5),
    (60, 2, 10, 0.3, 0.0, 5),
)


def rates(rng: np.random.Generator, mean: np.ndarray | float, alike: float, groups: int) -> np.ndarray:
    """One for each group, so that its clips correlate by `alike`."""
    if not alike:
        return np.broadcast_to(mean, groups)
    return rng.beta(mean * (1 - alike) / alike, (1 - mean) * (1 - alike) / alike, groups)


def rows_of(sizes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """For each row whether it is one of the first so many of its group."""
    place = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return place < np.repeat(counts, sizes)


def known_width(sizes: np.ndarray, variance: float, alike: float) -> float:
    shares = sizes / sizes.sum()
    return float(2 * 1.96 * np.sqrt(variance * (shares**2 * (alike + (1 - alike) / sizes)).sum()))


def plain(values: np.ndarray, sizes: np.ndarray, *, on_odds: bool) -> tuple[float, float]:
    """The deviation of resamples of groups, with Student's t on one degree less than there are groups."""
    groups, mean = len(sizes), values.mean()
    starts = np.cumsum(sizes) - sizes
    off = (np.add.reduceat(values.astype(float), starts) - sizes * mean) / sizes.sum()
    reach = np.sqrt((off**2).sum() * groups / (groups - 1)) * t.ppf(0.975, groups - 1)
    if not on_odds:
        return mean - reach, mean + reach
    if not reach or not 0 < mean < 1:
        middle, half = (mean + 1.92 / groups) / (1 + 3.84 / groups), 1.96 / (1 + 3.84 / groups)
        half *= np.sqrt(mean * (1 - mean) / groups + 0.96 / groups**2)
        return middle - half, middle + half
    odds, steps = np.log(mean / (1 - mean)), reach / (mean * (1 - mean))
    return norm_odds(odds - steps), norm_odds(odds + steps)


def norm_odds(odds: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(odds, -700, 700))))


Ends = tuple[float, float]


def held(draw: Callable[[], tuple[Ends, Ends]], truth: float, simulations: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each of two kinds of interval holds the truth, and their median widths."""
    ends = np.array([draw() for _ in range(simulations)])
    inside = (ends[..., 0] <= truth + 1e-12) & (truth - 1e-12 <= ends[..., 1])
    return inside.mean(0), np.median(ends[..., 1] - ends[..., 0], axis=0)


def shares(simulations: int) -> None:
    print("## Accuracy\n\n| groups | effective | accuracy | alike | held: plain | ours | width: plain | ours |")
    print("|" + "---|" * 8)
    for name, sizes in SIZES.items():
        groups, rng = np.repeat(np.arange(len(sizes)), sizes), np.random.default_rng(0)
        for rate, alike in TRUTHS:

            def draw(sizes=sizes, rate=rate, alike=alike, groups=groups, rng=rng) -> tuple[Ends, Ends]:
                right = rows_of(sizes, rng.binomial(sizes, rates(rng, rate, alike, len(sizes))))
                return plain(right, sizes, on_odds=True), tuple(interval_of_shares(right, groups))

            _print_row(
                name, sizes, f"{rate:.2f} | {alike:.1f}", held(draw, rate, simulations), rate * (1 - rate), alike
            )


def paired(simulations: int) -> None:
    print(
        "\n## Paired difference\n\n"
        "| groups | effective | differ | to one | alike | held: plain | ours | width: plain | ours |"
    )
    print("|" + "---|" * 9)
    for name in PAIRED:
        sizes, rng = SIZES[name], np.random.default_rng(0)
        groups = np.repeat(np.arange(len(sizes)), sizes)
        for differ, to_one, alike in RARE:

            def draw(sizes=sizes, differ=differ, to_one=to_one, alike=alike, groups=groups, rng=rng):
                counts = rng.binomial(sizes, rates(rng, differ, alike, len(sizes)))
                differing, one = rows_of(sizes, counts), rows_of(sizes, rng.binomial(counts, to_one))
                other = differing & ~one
                usual = plain(one.astype(float) - other, sizes, on_odds=False)
                return usual, paired_difference(one, other, groups=groups)[1]

            truth = differ * (2 * to_one - 1)
            what = f"{100 * differ:g} % | {to_one:.1f} | {alike:.1f}"
            _print_row(name, sizes, what, held(draw, truth, simulations), differ - truth**2, alike)


def _print_row(
    name: str, sizes: np.ndarray, what: str, of: tuple[np.ndarray, np.ndarray], variance: float, alike: float
) -> None:
    (plain_held, ours), widths = of
    plain_width, our_width = widths / known_width(sizes, variance, alike)
    effective = sizes.sum() ** 2 / (sizes**2).sum()
    print(
        f"| {name} | {effective:.1f} | {what} | {plain_held:.3f} | {ours:.3f} | {plain_width:.2f} | {our_width:.2f} |"
    )


def folds(simulations: int) -> None:
    """Logistic regression on normal numbers; the truth is what models of so many rows reach on average on others."""
    print(
        "\n## Pooled folds\n\n"
        "| groups | clips each | numbers | alike | folds | accuracy | held: plain | as one test | as folds |"
    )
    print("|" + "---|" * 9)
    for groups, size, numbers, apart, alike, count in FOLDS:
        rng, sizes, unit_of_row = np.random.default_rng(0), np.full(groups, size), np.repeat(np.arange(groups), size)
        rows, signs = _drawn_rows(rng, unit_of_row, (simulations, numbers), apart, alike)
        fold_SN = rng.permuted(np.tile(np.arange(groups) % count, (simulations, 1)), axis=1)[:, unit_of_row]
        right, truth = _fold_answers(rows, signs, fold_SN, apart)
        ends = [[plain(each, sizes, on_odds=True), interval_of_shares(each, unit_of_row)] for each in right]
        with widen_for_pooled_folds():
            ends = [[*pair, interval_of_shares(each, unit_of_row)] for pair, each in zip(ends, right, strict=True)]
        inside = [[low <= truth <= high for low, high in three] for three in ends]
        shown = " | ".join(f"{share:.3f}" for share in np.mean(inside, axis=0))
        print(f"| {groups} | {size} | {numbers} | {alike:.1f} | {count} | {truth:.2f} | {shown} |", flush=True)


def _drawn_rows(
    rng: np.random.Generator, unit_of_row: np.ndarray, shape: tuple[int, int], apart: float, alike: float
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (S, N, D) and signs (N,) of two classes, which are apart in the first number only."""
    (simulations, numbers), signs = shape, 1.0 - 2 * (np.arange(len(unit_of_row)) % 2)
    rows = np.sqrt(1 - alike) * rng.normal(size=(simulations, len(unit_of_row), numbers))
    rows += np.sqrt(alike) * rng.normal(size=(simulations, unit_of_row.max() + 1, numbers))[:, unit_of_row]
    rows[..., 0] += signs * apart
    return rows, signs


def _fold_answers(rows: np.ndarray, signs: np.ndarray, fold_SN: np.ndarray, apart: float) -> tuple[np.ndarray, float]:
    """Whether each row (S, N) is classified right by a model without its fold, and what models reach on average."""
    right, reached = np.zeros(fold_SN.shape, bool), []
    for fold in range(fold_SN.max() + 1):
        weights, bias = _learned(rows, signs, fold_SN != fold)
        answers = signs * (np.einsum("snd,sd->sn", rows, weights) + bias[:, None]) > 0
        right = np.where(fold_SN == fold, answers, right)
        ends = (apart * weights[:, 0] + np.array([bias, -bias])) / np.linalg.norm(weights, axis=1)
        reached.append(norm.cdf(ends).mean())
    return right, float(np.mean(reached))


def _learned(rows: np.ndarray, signs: np.ndarray, used_SN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (S, D) and biases (S,) of logistic regressions of rows used; the penalty is half the squared weights.

    All simulations at once, by Newton's method, which needs few steps from 0 on.
    """
    inputs = np.concatenate([rows, np.ones((*rows.shape[:2], 1))], axis=2)
    penalty, weights = np.append(np.ones(rows.shape[2]), 1e-9), np.zeros((len(rows), rows.shape[2] + 1))
    for _ in range(8):
        sure = expit(np.einsum("snd,sd->sn", inputs, weights))
        slope = np.einsum("snd,sn->sd", inputs, (sure - (signs > 0)) * used_SN) + penalty * weights
        bend = inputs.transpose(0, 2, 1) @ (inputs * (sure * (1 - sure) * used_SN)[..., None]) + np.diag(penalty)
        weights -= np.linalg.solve(bend, slope[..., None])[..., 0]
    return weights[:, :-1], weights[:, -1]


PARTS = {"shares": shares, "paired": paired, "folds": folds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--only", choices=PARTS, help="one of the three")
    arguments = parser.parse_args()
    for name, part in PARTS.items():
        if arguments.only in (None, name):
            part(arguments.simulations)


if __name__ == "__main__":
    main()
