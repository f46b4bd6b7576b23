"""Which lines the coil maps are made from.

* Embedded: lines flagged "image and calibration" serve as both.
* Separate: lines flagged "calibration" never enter the image. A volume takes its own; if it has none, those of
  another volume of its slice, the most similar one.
* Combined: both of the above; a line in both is averaged.
* None flagged: the gapless block of image lines around zero frequency, if it is wide enough.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Complex64

from steadymr.assemble.lines import Lines, Place
from steadymr.types import VolumeIndex


@dataclass(slots=True)
class SeparateCalibration:
    """Separately acquired calibration lines of all volumes that are still needed."""

    lines: dict[VolumeIndex, Lines] = field(default_factory=dict)

    def add(self, index: VolumeIndex, place: Place, samples: Complex64[np.ndarray, "coil k0"]) -> None:
        """Add a line."""
        self.lines.setdefault(index, Lines()).add(place, samples)

    def of(self, index: VolumeIndex) -> Lines | None:
        """The volume's own lines."""
        return self.lines.get(index)

    def borrowed(self, index: VolumeIndex) -> Lines | None:
        """Another volume's lines of the same slice: the one that shares most counters, the earliest of those."""
        candidates = sorted(other for other in self.lines if other.slice == index.slice)
        return self.lines[max(candidates, key=lambda other: _n_shared(other, index))] if candidates else None

    def forget(self, index: VolumeIndex) -> None:
        """Drop a closed volume's lines, unless a later volume may have to borrow them."""
        if any(_replaces(other, index) for other in self.lines):
            self.lines.pop(index, None)


def _n_shared(one: VolumeIndex, other: VolumeIndex) -> int:
    names = ("contrast", "set", "phase", "repetition", "average")
    return sum(getattr(one, name) == getattr(other, name) for name in names)


def _replaces(one: VolumeIndex, other: VolumeIndex) -> bool:
    """Whether ``one`` differs from ``other`` in nothing but repetition and average."""
    same = all(getattr(one, name) == getattr(other, name) for name in ("contrast", "set", "phase", "slice"))
    return same and one != other


def central_block(sampled: Bool[np.ndarray, "k2 k1"], n_lines_min: int) -> Bool[np.ndarray, "k2 k1"]:
    """The image lines that can serve as calibration when none is flagged.

    These are the lines k1 of the gapless run around zero frequency in the central partition, in every partition that
    has them; nothing if the run is shorter than ``n_lines_min``.
    """
    n_k2, n_k1 = sampled.shape
    gaps = np.flatnonzero(~sampled[n_k2 // 2])
    below, above = gaps[gaps <= n_k1 // 2], gaps[gaps >= n_k1 // 2]
    first = below[-1] + 1 if len(below) else 0
    stop = above[0] if len(above) else n_k1
    block = np.zeros_like(sampled)
    if stop - first >= n_lines_min:
        block[:, first:stop] = sampled[:, first:stop]
    return block
