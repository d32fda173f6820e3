"""Is a method better than the control, or is it this choice of images? A paired bootstrap.

In: for two runs over the same questions, how many answers of each image and split are right. Out:
the difference of the mean accuracy over splits with its 95 % interval. Images are drawn
with replacement and both runs see the same draw, so questions of one image stay together.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000


@dataclass(frozen=True)
class Interval:
    """A difference of accuracies with its 95 % interval, as shares.

    Args:
        difference: ours minus theirs.
        low: lower end.
        high: upper end.
    """

    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`above` or `below` zero beyond the interval, otherwise `level`."""
        return "above" if self.low > 0 else "below" if self.high < 0 else "level"


def paired_bootstrap(
    ours: NDArray[np.int64], theirs: NDArray[np.int64], asked: NDArray[np.int64], seed: int = 0
) -> Interval:
    """Compare two runs.

    Args:
        ours: right answers, `[images, splits]`.
        theirs: right answers of the other run, the same shape.
        asked: questions, the same shape.
        seed: seed of the draws.

    Returns:
        The difference over all images and the 2.5 % and 97.5 % points over the draws.
    """
    count = ours.shape[0]
    rng = np.random.default_rng(seed)
    # How often each image is drawn; row 0 is the sample itself.
    times = np.concatenate(
        [np.ones((1, count), np.int64), rng.multinomial(count, [1 / count] * count, RESAMPLES)]
    )
    answers = np.maximum(times @ asked, 1)
    difference = ((times @ (ours - theirs)) / answers).mean(axis=1)
    low, high = np.quantile(difference[1:], [0.025, 0.975])
    return Interval(float(difference[0]), float(low), float(high))
