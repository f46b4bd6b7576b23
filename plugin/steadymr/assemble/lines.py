"""A growing set of k-space lines: only what was acquired is held, duplicates are summed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Complex64

Place: TypeAlias = tuple[int, int]  #: k2, k1


@dataclass(slots=True)
class Lines:
    """Lines of one volume by place; ``sums`` are sums of ``counts`` readouts."""

    sums: dict[Place, Complex64[np.ndarray, "coil k0"]] = field(default_factory=dict)
    counts: dict[Place, int] = field(default_factory=dict)

    def add(self, place: Place, samples: Complex64[np.ndarray, "coil k0"]) -> None:
        """Add a readout; the array is kept, not copied, and never written to."""
        known = self.sums.get(place)
        self.sums[place] = samples if known is None else known + samples
        self.counts[place] = self.counts.get(place, 0) + 1

    def merged(self, other: Lines) -> Lines:
        """These lines and those of ``other``."""
        both = Lines(dict(self.sums), dict(self.counts))
        for place, samples in other.sums.items():
            known = both.sums.get(place)
            both.sums[place] = samples if known is None else known + samples
            both.counts[place] = both.counts.get(place, 0) + other.counts[place]
        return both

    def mask(self, n_k2: int, n_k1: int) -> Bool[np.ndarray, "k2 k1"]:
        """Where there is a line."""
        mask = np.zeros((n_k2, n_k1), bool)
        for place in self.sums:
            mask[place] = True
        return mask

    def dense(self, n_k2: int, n_k1: int) -> Complex64[np.ndarray, "coil k2 k1 k0"]:
        """The lines on their grid, means of duplicates, zero where there is none."""
        n_coils, n_k0 = next(iter(self.sums.values())).shape
        grid = np.zeros((n_coils, n_k2, n_k1, n_k0), np.complex64)
        for (k2, k1), samples in self.sums.items():
            grid[:, k2, k1] = samples / np.float32(self.counts[k2, k1])
        return grid

    def variance_ratio(self) -> float:
        """The noise variance of these means, averaged over lines, relative to a single readout's."""
        return float(np.mean([1 / count for count in self.counts.values()]))

    @property
    def n_duplicates(self) -> int:
        """Readouts that came on top of the first of their line."""
        return sum(self.counts.values()) - len(self.counts)
