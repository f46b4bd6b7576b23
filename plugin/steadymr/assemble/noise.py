"""How noisy the receiver is: the covariance E[n n^H] of one complex sample, between its channels.

Three sources, in the order of trust: a noise scan; the outer field of view that readout oversampling digitised and
where there is no patient; the outermost part of k-space, where signal is weakest but not nil, so that the estimate is
an upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Complex64, Complex128

from steadymr.assemble.grid import Grid, Line
from steadymr.assemble.lines import Lines, Place
from steadymr.types import NoiseSource, Readout

MIN_OVERSAMPLING = 1.5
OUTER_LINES = 0.5  #: margins are read on lines at least this far out, where the object rings least into them
FLAT = (0.8, 1.25)  #: accepted ratio of outer to inner margin power; see ``MarginNoise``
EDGE_LINES = 0.1  #: share of the acquired lines that counts as edge of k-space
EDGE_COLUMNS = 0.75  #: and from which fraction of the half width the columns do
NOISELESS = 1e-6  #: s.d. relative to the root mean square signal that stands for "none", to stay invertible


@dataclass(slots=True)
class Covariance:
    """A running mean of n n^H."""

    total: Complex128[np.ndarray, "coil coil2"] | None = None
    n_samples: float = 0

    def add(self, samples: Complex64[np.ndarray, "coil sample"], weight: float = 1.0) -> None:
        """Add samples, their variance multiplied by ``weight``."""
        wide = samples.astype(np.complex128)
        outer = weight * (wide @ wide.conj().T)
        self.total = outer if self.total is None else self.total + outer
        self.n_samples += samples.shape[1]

    def power(self) -> float:
        """Mean variance over channels; 0 if nothing was added."""
        return 0.0 if self.total is None or not self.n_samples else float(np.trace(self.total).real / self.n_samples)

    def estimate(self) -> Complex128[np.ndarray, "coil coil2"] | None:
        """The covariance, its off-diagonal shrunk by the share of samples that the channels use up.

        Positive definite also if there were fewer samples than channels, or a channel is dead.
        """
        if self.total is None or not self.power() > 0:
            return None
        mean = self.total / self.n_samples
        n_coils = len(mean)
        keep = self.n_samples / (self.n_samples + n_coils)
        diagonal = np.diag(np.maximum(np.diag(mean).real, 1e-6 * self.power()))
        return np.asarray(keep * mean + (1 - keep) * diagonal + 1e-9 * self.power() * np.eye(n_coils))


@dataclass(slots=True)
class ScanNoise:
    """Noise readouts, as they came and as they would be at a dwell time of 1 us."""

    raw: Covariance = field(default_factory=Covariance)
    at_unit_dwell: Covariance = field(default_factory=Covariance)
    all_state_dwell: bool = True

    def add(self, readout: Readout) -> None:
        """Add a noise readout, without the samples that it asks to discard."""
        samples = readout.data[:, readout.discard_pre : readout.data.shape[1] - readout.discard_post]
        self.raw.add(samples)
        self.at_unit_dwell.add(samples, readout.sample_time_us)
        self.all_state_dwell = self.all_state_dwell and readout.sample_time_us > 0

    def at(self, dwell_us: float, bandwidth_ratio: float) -> Complex128[np.ndarray, "coil coil2"] | None:
        """The covariance of a sample acquired with ``dwell_us``, None if there was no noise scan.

        White noise of spectral density N0 has variance N0 / dwell per sample. A noise scan's receiver filter passes
        only the fraction ``bandwidth_ratio`` of its nominal bandwidth 1 / dwell, so it measures
        C_noise = ratio * N0 / dwell_noise, while imaging samples, in the filter's flat part and with oversampling
        removed, have N0 / dwell: C = C_noise * (dwell_noise / dwell) / ratio.

        This is Gadgetron's rule: NoiseAdjustGadget whitens with chol(C_noise)^-1 times
        sqrt(2 * dwell / dwell_noise * ratio), the 2 giving each real channel unit variance (Kellman and McVeigh,
        Magn Reson Med 54:1439, 2005). Like there, nothing is scaled if a dwell time is not stated.
        """
        if not self.all_state_dwell or dwell_us <= 0:
            return self.raw.estimate()
        covariance = self.at_unit_dwell.estimate()
        return None if covariance is None else np.asarray(covariance / (dwell_us * bandwidth_ratio))


@dataclass(slots=True)
class MarginNoise:
    """Noise in the margins of the oversampled field of view, read as the lines come.

    The outer halves of the margins are the estimate, the inner halves its control. A receiver filter that rolls off
    makes the outer halves too quiet, an object that reaches into the margin makes the inner halves too loud; in both
    cases the margin says nothing about the noise inside the image and is not used.
    """

    outer: Covariance = field(default_factory=Covariance)
    inner: Covariance = field(default_factory=Covariance)

    def add(self, line: Line, grid: Grid) -> None:
        """Add the margin of a line, if it lies far enough out in k-space."""
        if grid.oversampling < MIN_OVERSAMPLING or eccentricity((line.k2, line.k1), grid) < OUTER_LINES:
            return
        quarter = line.margin.shape[1] // 4
        self.outer.add(np.concatenate([line.margin[:, :quarter], line.margin[:, -quarter:]], axis=1))
        self.inner.add(line.margin[:, quarter:-quarter])

    def is_flat(self) -> bool:
        """Whether inner and outer margin agree."""
        outer, inner = self.outer.power(), self.inner.power()
        return outer > 0 and inner > 0 and FLAT[0] <= outer / inner <= FLAT[1]


def eccentricity(place: Place, grid: Grid) -> float:
    """How far out a line lies: 0 at zero frequency, 1 at the edge of the encoded matrix."""
    k2, k1 = place
    along_k1 = abs(k1 - grid.n_k1 // 2) / max(1, grid.n_k1 // 2)
    along_k2 = abs(k2 - grid.n_k2 // 2) / max(1, grid.n_k2 // 2)
    return max(along_k1, along_k2)


def volume_noise(
    scan: Complex128[np.ndarray, "coil coil2"] | None,
    margin: MarginNoise,
    lines: Lines,
    grid: Grid,
    k0_range: tuple[int, int],
) -> tuple[Complex128[np.ndarray, "coil coil2"], NoiseSource]:
    """The covariance of a volume's samples and where it comes from; lines averaged from n readouts count 1 / n."""
    ratio = lines.variance_ratio()
    if scan is not None:
        return scan * ratio, "noise scan"
    if margin.is_flat() and (estimate := margin.outer.estimate()) is not None:
        return estimate * ratio, "oversampled margin"
    estimate = edge_noise(lines, grid, k0_range).estimate()
    return (_noiseless(lines) if estimate is None else estimate) * ratio, "k-space edge"


def edge_noise(lines: Lines, grid: Grid, k0_range: tuple[int, int]) -> Covariance:
    """Noise from the outermost columns of the outermost lines, as of single readouts."""
    places = sorted(lines.sums, key=lambda place: eccentricity(place, grid), reverse=True)
    columns = np.arange(*k0_range)
    distance = np.abs(columns - grid.n_k0 // 2)
    columns = columns[distance >= EDGE_COLUMNS * distance.max()]
    noise = Covariance()
    for place in places[: max(4, round(EDGE_LINES * len(places)))]:
        noise.add(lines.sums[place][:, columns], 1 / lines.counts[place])
    return noise


def _noiseless(lines: Lines) -> Complex128[np.ndarray, "coil coil2"]:
    power = float(np.mean([np.mean(np.abs(line) ** 2) for line in lines.sums.values()]))
    n_coils = len(next(iter(lines.sums.values())))
    return np.asarray((NOISELESS**2 * power or 1.0) * np.eye(n_coils), np.complex128)
