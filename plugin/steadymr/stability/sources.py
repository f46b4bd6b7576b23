"""Where the spread of repeated samples comes from: the data's silence, or the imperfections of the site.

``K`` draws of a site's imperfections, ``M`` posterior samples under each. By the law of total variance the variance of
all samples is the mean over draws of the variance within a draw (the posterior's) plus the variance over draws of
the mean within a draw (the sensitivity to imperfections).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64


@dataclass(frozen=True, slots=True, eq=False)
class Variances:
    """Both parts."""

    posterior: Float64[np.ndarray, "y x"]
    sensitivity: Float64[np.ndarray, "y x"]


def total_variance(samples: Float[np.ndarray, "draw sample y x"]) -> Variances:
    """Split the variance of ``samples``; at least two draws of at least two samples each, an even number.

    Samples come in antithetic pairs. The mean of a pair hardly varies with the posterior, so means differ from draw to
    draw by what the imperfections did, and samples from their pair's mean by the posterior's standard deviation.
    """
    n_draws, n_samples = samples.shape[:2]
    if n_draws < 2 or n_samples < 2:
        raise ValueError(f"two draws of two samples are the least to split a variance by, got {n_draws} of {n_samples}")
    values = samples.astype(np.float64)
    return Variances(values.var(axis=1).mean(axis=0), values.mean(axis=1).var(axis=0, ddof=1))
