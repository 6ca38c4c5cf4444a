"""How often 95 % intervals hold the truth, simulated: percentiles of a bootstrap over groups against ours.

Clips of a group are alike (beta-binomial, with a correlation), groups are of uneven size. Prints the share of
simulations whose interval holds the true accuracy, and the mean width.
"""

import argparse

import numpy as np

from finetune.scores.intervals import interval_of, resampled_means

DESIGNS = (  # groups, clips in each, true accuracy, correlation within a group
    (5, 20, 0.80, 0.10),
    (8, 12, 0.85, 0.10),
    (15, 8, 0.87, 0.10),
    (20, 6, 0.80, 0.15),
    (30, 20, 0.70, 0.30),
    (40, 10, 0.95, 0.10),
    (120, 1, 0.96, 1e-6),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=4000)
    simulations = parser.parse_args().simulations
    print("groups  clips each  accuracy  alike  percentiles: hold, width  ours: hold, width")
    for groups, size, rate, alike in DESIGNS:
        rng, held, widths = np.random.default_rng(0), np.zeros(2), np.zeros(2)
        for simulation in range(simulations):
            rates = rng.beta(rate * (1 - alike) / alike, (1 - rate) * (1 - alike) / alike, groups)
            sizes = rng.poisson(size - 1, groups) + 1
            right = rng.binomial(sizes, rates)
            drawn = resampled_means(right, sizes, resamples=500, seed=simulation)
            ends = np.percentile(drawn, [2.5, 97.5]), interval_of(right.sum() / sizes.sum(), drawn, groups)
            held += [low <= rate <= high for low, high in ends]
            widths += [high - low for low, high in ends]
        (percentile, ours), (wide, our_width) = held / simulations, widths / simulations
        print(
            f"{groups:6}  {size:10}  {rate:8.2f}  {alike:5.2f}"
            f"  {percentile:17.3f}, {wide:.3f}  {ours:10.3f}, {our_width:.3f}"
        )


if __name__ == "__main__":
    main()
