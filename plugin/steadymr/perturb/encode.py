"""Imperfections of encoding: gradients, main field and the bookkeeping of lines.

Signs follow the transforms of :mod:`steadymr.types`: k(n) = sum over x of m(x) exp(-2 pi i n x/N), n and x counted
from the centre.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Complex64, Float64

from steadymr.errors import PerturbationError
from steadymr.perturb.base import Perturbation, setting, strength
from steadymr.perturb.estimate import Encode, encoded, encoder
from steadymr.perturb.lines import (
    acquisition_rank,
    delayed_along_k0,
    has_separate_calibration,
    phases,
    readout_samples,
    received,
    through_receiver,
    to_image,
    with_lines,
)
from steadymr.perturb.receive import DWELL_SOURCE
from steadymr.types import KSpace

EPI_SOURCE = "0.17 samples and 0.10 rad measured on a 3 T scan; AAPM TG-284 allows ghosts of 2.5 %, 0.05 rad"
SEGMENTATION_ERROR = 1e-4  #: root mean square over samples and frequencies of a field map


@dataclass(frozen=True, slots=True)
class GradientDelay(Perturbation):
    """A readout gradient that comes late, so that every sample lies a little before its place in k-space.

    k'(n) = k(n - tau/dt): on a constant gradient G the shift gamma G tau is tau/dt samples, dt the dwell time after
    oversampling removal. In the image of N points this is the phase exp(2 pi i x tau/(dt N)); magnitudes stay. The
    same on every line: with alternating readouts see :class:`NyquistGhost`. Phase-encoding blips have ended before
    the readout and are not delayed into it. The range is a working assumption around one measured value.
    """

    name: ClassVar[str] = "gradient_delay"
    principal: ClassVar[str] = "delay_us"

    delay_us: float = strength(
        "delay of the readout gradient behind the receiver", "us", (0.0, 5.0),
        "0.5 us measured from the navigator of a 3 T echo-planar scan; up to 5 us by common experience",
        assumption=True, signed=True,
    )  # fmt: skip
    dwell_us: float = setting(
        20.0, "time between samples of the grid, readout oversampling removed", "us", (1.0, 100.0), DWELL_SOURCE,
        assumption=True,
    )  # fmt: skip

    def perturb(self, kspace: KSpace, rng: np.random.Generator) -> KSpace:
        """Delay every readout."""
        samples = self.delay_us / _positive(self.dwell_us, "gradient_delay.dwell_us")
        return through_receiver(kspace, lambda lines: delayed_along_k0(lines, samples))


@dataclass(frozen=True, slots=True)
class NyquistGhost(Perturbation):
    """Every other line displaced and turned, as when echo-planar readouts alternate.

    Lines of odd rank t: k'(n) = k(n - s) exp(i p). In a fully sampled image of single-echo data with s = 0, the object
    is scaled by cos(p/2) and a ghost of sin(p/2) appears half a field of view away along y (Buonocore and Gao, Magn
    Reson Med 1997;38:89). Odd is meant in the order of acquisition, so undersampled scans alternate too. The ranges,
    two to three times what one scan showed, are working assumptions.
    """

    name: ClassVar[str] = "nyquist_ghost"
    principal: ClassVar[str] = "phase_rad"

    phase_rad: float = strength(
        "constant phase of the odd lines", "rad", (0.0, 0.2), EPI_SOURCE, assumption=True, signed=True
    )  # fmt: skip
    shift_samples: float = strength(
        "displacement of the odd lines along the readout", "samples", (0.0, 0.5), EPI_SOURCE, assumption=True,
        signed=True,
    )  # fmt: skip

    def perturb(self, kspace: KSpace, rng: np.random.Generator) -> KSpace:
        """Displace and turn the odd lines, those of separate calibration too."""
        odd = acquisition_rank(kspace) % 2 * (acquisition_rank(kspace) >= 0)
        turn = np.exp(1j * self.phase_rad).astype(np.complex64)
        return through_receiver(
            kspace,
            lambda lines: np.where(odd[..., None] == 1, delayed_along_k0(lines, self.shift_samples) * turn, lines),
        )


@dataclass(frozen=True, slots=True)
class OffResonance(Perturbation):
    """A main field off its nominal value: everywhere by the same amount, or by a smooth map.

    Each point r gathers the phase 2 pi f(r) t during the readout, t = n dt counted from the echo: the object moves by
    -f dt N pixels along the readout. f(r) = ``frequency_hz`` + ``inhomogeneity_hz`` u(r), u a random combination of
    x, y, xy, x^2 and y^2 with largest magnitude 1 over the field of view, the same in all slices. The constant part
    is exact; the map is applied by time segmentation (:func:`dephased`), on the object estimate where lines are
    missing. The phase at the echo itself counts as part of the object.

    A well shimmed magnet stays within 0.5 ppm r.m.s. over 35 cm, 64 Hz at 3 T (AAPM TG-284); around the liver -32 to
    164 Hz were reported at 3 T.
    """

    name: ClassVar[str] = "off_resonance"
    principal: ClassVar[str] = "frequency_hz"
    moves_object: ClassVar[bool] = True
    distorts: ClassVar[bool] = True

    frequency_hz: float = strength(
        "off-resonance common to all points", "Hz", (0.0, 164.0),
        "64 Hz is 0.5 ppm at 3 T, AAPM TG-284; up to 164 Hz reported around the liver at 3 T", signed=True,
    )  # fmt: skip
    inhomogeneity_hz: float = strength(
        "largest magnitude of a smooth random map", "Hz", (0.0, 164.0),
        "64 Hz is 0.5 ppm at 3 T, AAPM TG-284; up to 164 Hz reported around the liver at 3 T",
    )  # fmt: skip
    dwell_us: float = setting(
        20.0, "time between samples of the grid, readout oversampling removed", "us", (1.0, 100.0), DWELL_SOURCE,
        assumption=True,
    )  # fmt: skip
    segments: int = setting(
        5, "time segments for the map, at most", "", (3.0, 16.0),
        "in a readout of 5 ms, 5 err by 0.002 % at 64 Hz, by 0.2 % at 164 Hz", whole=True,
    )  # fmt: skip

    def perturb(self, kspace: KSpace, rng: np.random.Generator) -> KSpace:
        """Dephase by the map, then by the constant."""
        time_s = readout_samples(kspace) * _positive(self.dwell_us, "off_resonance.dwell_us") * 1e-6
        turn = np.exp(2j * np.pi * self.frequency_hz * time_s).astype(np.complex64)
        if self.inhomogeneity_hz == 0:
            return through_receiver(kspace, lambda lines: lines * turn)
        map_hz = self.inhomogeneity_hz * _smooth_map(kspace.data.shape[-2:], rng)
        segments = max(int(self.segments), 1)

        encode, at_rest = encoder(kspace)
        change = dephased(encode, at_rest, map_hz, time_s, segments) - at_rest
        lines = turn * (kspace.data[:, kspace.acquired] + change)
        k2, k1 = np.nonzero(kspace.acquired)
        perturbed = with_lines(kspace, k2, k1, lines)
        if not has_separate_calibration(kspace):
            return perturbed
        at_rest = kspace.calibration[:, kspace.calibrated]
        encode = partial(encoded, to_image(kspace.calibration), lines=kspace.calibrated)
        calibration = np.zeros_like(kspace.calibration)
        calibration[:, kspace.calibrated] = turn * dephased(encode, at_rest, map_hz, time_s, segments)
        return received(kspace, perturbed.data, calibration)


@dataclass(frozen=True, slots=True)
class EchoPhase(Perturbation):
    """An echo that is not where it should be, with a phase that is not as smooth as partial Fourier assumes.

    The object is multiplied by exp(i p (x^2/X^2 + y^2/Y^2)) exp(2 pi i (a x/N + b y/M)): p stands for the concomitant
    field of the gradients, quadratic in the distance from the centre (Bernstein et al., Magn Reson Med 1998;39:300),
    X and Y being half the field of view; a and b displace the echo by so many samples and lines. Concomitant fields
    grow with the distance from the magnet's centre, here taken as the image's centre. Magnitudes stay where all of
    k-space is sampled. The ranges are working assumptions.
    """

    name: ClassVar[str] = "echo_phase"
    principal: ClassVar[str] = "concomitant_rad"

    concomitant_rad: float = strength(
        "concomitant phase at half the field of view from the centre", "rad", (0.0, 1.0), "common experience",
        assumption=True, signed=True,
    )  # fmt: skip
    shift_samples: float = strength(
        "displacement of the echo along the readout", "samples", (0.0, 4.0), "common experience", assumption=True,
        signed=True,
    )  # fmt: skip
    shift_lines: float = strength(
        "displacement of the echo along the first phase encoding", "lines", (0.0, 2.0), "common experience",
        assumption=True, signed=True,
    )  # fmt: skip

    def perturb(self, kspace: KSpace, rng: np.random.Generator) -> KSpace:
        """Give the object the phase."""
        y, x = _positions(kspace.data.shape[-2:])
        quadratic = self.concomitant_rad * ((2 * x) ** 2 + (2 * y) ** 2)
        factor = np.exp(1j * (quadratic + 2 * np.pi * (self.shift_samples * x + self.shift_lines * y)))
        return received(kspace, *_multiplied(kspace, factor.astype(np.complex64)))


@dataclass(frozen=True, slots=True)
class SamplingError(Perturbation):
    """Lines that are not where the scan says: shifted, swapped, missing, or a sampling mask that is off.

    Which lines is drawn at random among those of the image that do not serve as calibration (all, if all do).
    A shifted line was encoded one step too far: k'(k1) = k(k1 + 1), from the object estimate where line k1 + 1 is
    missing. Swapped lines exchange their samples. A missing line is zero and still counts as sampled. With the mask
    off by d, every such line is filed d places too far; where it meets a calibration line or the end it is lost.
    Calibration lines themselves are filed rightly. That one line goes wrong is a working assumption.

    Raises :class:`PerturbationError` when more lines should go wrong than the scan has.
    """

    name: ClassVar[str] = "sampling_error"
    principal: ClassVar[str] = "shifted_lines"

    shifted_lines: int = strength(
        "lines encoded one step too far", "lines", (0.0, 1.0), "one line", assumption=True, whole=True
    )  # fmt: skip
    swapped_pairs: int = strength(
        "pairs of lines that exchanged places", "pairs", (0.0, 1.0), "one pair", assumption=True, whole=True
    )  # fmt: skip
    missing_lines: int = strength(
        "lines whose samples were lost", "lines", (0.0, 1.0), "one line", assumption=True, whole=True
    )  # fmt: skip
    mask_offset_lines: int = strength(
        "places by which all lines but the calibration's are misfiled", "lines", (0.0, 1.0), "one line",
        assumption=True, signed=True, whole=True,
    )  # fmt: skip

    def perturb(self, kspace: KSpace, rng: np.random.Generator) -> KSpace:
        """Spoil different lines in different ways, then misfile."""
        shifted, swapped, missing = self._drawn_lines(kspace, rng)
        data = kspace.data.copy()
        if len(shifted):
            y, _ = _positions(kspace.data.shape[-2:])
            one_step = np.exp(-2j * np.pi * y).astype(np.complex64)
            k2, k1 = shifted.T
            data[:, k2, k1] = _multiplied(kspace, one_step)[0][:, k2, k1]
        k2, k1 = swapped.T
        data[:, k2, k1] = data[:, k2[::-1], k1[::-1]]
        k2, k1 = missing.T
        data[:, k2, k1] = 0
        return _misfiled(received(kspace, data, kspace.calibration), int(self.mask_offset_lines))

    def _drawn_lines(self, kspace: KSpace, rng: np.random.Generator) -> list[np.ndarray]:
        """Return the (k2, k1) of shifted, swapped and missing lines, none twice."""
        free = kspace.sampled & ~kspace.calibrated
        places = np.argwhere(free if free.any() else kspace.sampled)
        counts = [int(self.shifted_lines), 2 * int(self.swapped_pairs), int(self.missing_lines)]
        if sum(counts) > len(places):
            raise PerturbationError(
                f"sampling_error would spoil {sum(counts)} lines, but only {len(places)} of the scan's lines can be"
            )
        return np.split(rng.permutation(places)[: sum(counts)], np.cumsum(counts)[:-1])


def dephased(
    encode: Encode,
    at_rest: Complex64[np.ndarray, "coil line k0"],
    map_hz: Float64[np.ndarray, "y x"],
    time_s: Float64[np.ndarray, " k0"],
    segments: int,
) -> Complex64[np.ndarray, "coil line k0"]:
    """Return lines of an object that precesses off resonance by a map during the readout, by time segmentation.

    k(n) = sum over l of b_l(n) F[m exp(2 pi i f t_l)](n), with the fewest t_l, at most ``segments``, that err by no
    more than ``SEGMENTATION_ERROR``; see :func:`_segmented`. ``encode`` makes the lines of the object times a factor,
    and ``at_rest`` are those of the object itself, the first segment.
    """
    centres_s, weights = _segmented(map_hz, time_s, segments)
    total = weights[0] * at_rest
    for centre_s, weight in zip(centres_s[1:], weights[1:], strict=True):
        segment = encode(phases(map_hz * centre_s))
        total += np.multiply(segment, weight, out=segment)
    return np.asarray(total)


def _segmented(
    map_hz: Float64[np.ndarray, "y x"], time_s: Float64[np.ndarray, " k0"], most: int
) -> tuple[Float64[np.ndarray, " segment"], Complex64[np.ndarray, "segment k0"]]:
    """Return the times t_l of segments, zero first, and the weights b_l of each in every sample.

    The t_l are Chebyshev's nodes of the readout, of which the one nearest to the echo is moved there, and b_l the
    least squares fit of exp(2 pi i f t_n) over the frequencies of the map (Sutton et al., IEEE Trans Med Imaging
    2003;22:178). That errs by little more than the best basis there is, the singular vectors of exp(2 pi i f t)
    (Fessler et al., IEEE Trans Signal Process 2005;53:3393).
    """
    frequencies = np.linspace(map_hz.min(), map_hz.max(), 4 * most)
    wanted = np.exp(2j * np.pi * np.outer(frequencies, time_s))
    half_s, middle_s = (time_s[-1] - time_s[0]) / 2, (time_s[-1] + time_s[0]) / 2
    for count in range(min(3, most), most + 1):
        nodes_s = middle_s + half_s * np.cos(np.pi * (np.arange(count) + 0.5) / count)
        centres_s = np.append(0.0, np.delete(nodes_s, np.argmin(np.abs(nodes_s))))
        at_centres = np.exp(2j * np.pi * np.outer(frequencies, centres_s))
        weights = np.linalg.lstsq(at_centres, wanted, rcond=1e-10)[0]
        if np.linalg.norm(at_centres @ weights - wanted) <= SEGMENTATION_ERROR * np.linalg.norm(wanted):
            break
    return centres_s, weights.astype(np.complex64)


def _multiplied(
    kspace: KSpace, factor: Complex64[np.ndarray, "y x"]
) -> tuple[Complex64[np.ndarray, "coil k2 k1 k0"], Complex64[np.ndarray, "coil k2 k1 k0"]]:
    """Return image and calibration lines as if the object were multiplied by a factor."""
    data = kspace.data.copy()
    data[:, kspace.acquired] += encoder(kspace)[0](factor - 1)
    if not has_separate_calibration(kspace):
        return data, kspace.calibration
    calibration = np.zeros_like(kspace.calibration)
    calibration[:, kspace.calibrated] = encoded(to_image(kspace.calibration), factor, kspace.calibrated)
    return data, calibration


def _misfiled(kspace: KSpace, offset: int) -> KSpace:
    """Return k-space whose lines, other than calibration, lie ``offset`` places further along k1."""
    if offset == 0:
        return kspace
    fixed = kspace.sampled & kspace.calibrated
    if np.array_equal(fixed, kspace.sampled):
        fixed = np.zeros_like(fixed)
    staying = fixed | (kspace.acquired & ~kspace.sampled)  # sentinels keep their place
    targets = _rolled_off(kspace.sampled & ~fixed, offset) & ~staying
    lines = np.where(targets[..., None], np.roll(kspace.data, offset, axis=2), 0)
    data = np.where(staying[..., None], kspace.data, lines)
    return replace(kspace, data=data, sampled=fixed | targets)


def _rolled_off(lines: Bool[np.ndarray, "k2 k1"], offset: int) -> Bool[np.ndarray, "k2 k1"]:
    """Move lines along k1; what passes the end is gone."""
    moved = np.zeros_like(lines)
    source, target = (slice(None, -offset), slice(offset, None))
    if offset < 0:
        source, target = slice(-offset, None), slice(None, offset)
    moved[:, target] = lines[:, source]
    return moved


def _positions(shape: tuple[int, ...]) -> tuple[Float64[np.ndarray, "y 1"], Float64[np.ndarray, " x"]]:
    """Return y and x from the centre, as fractions of the field of view."""
    n_y, n_x = shape
    return ((np.arange(n_y) - n_y // 2) / n_y)[:, None], (np.arange(n_x) - n_x // 2) / n_x


def _smooth_map(shape: tuple[int, ...], rng: np.random.Generator) -> Float64[np.ndarray, "y x"]:
    """Return a random combination of shim terms up to second order, largest magnitude 1."""
    y, x = (2 * axis for axis in _positions(shape))
    by_x, by_y, by_xy, by_xx, by_yy = rng.standard_normal(5)
    drawn = (by_x * x + by_xx * x**2) + (by_y * y + by_yy * y**2) + (by_xy * y) * x
    return np.asarray(drawn / np.abs(drawn).max())


def _positive(value: float, label: str) -> float:
    if value <= 0:
        raise PerturbationError(f"{label} must be a positive time, got {value}")
    return value
