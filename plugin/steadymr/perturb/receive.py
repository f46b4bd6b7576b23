"""Imperfections of the receive chain: coils, preamplifiers, demodulator, converter and what the antenna picks up.

In every equation k is the signal of one coil, n a sample of the readout, t the place of a line among the T lines in
the order of acquisition (see :mod:`steadymr.perturb.lines`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Complex64, Complex128, Float32

from steadymr.errors import PerturbationError
from steadymr.perturb.base import Perturbation, setting, strength
from steadymr.perturb.lines import (
    AnyComplex,
    acquisition_fraction,
    columns,
    readout_samples,
    received,
    through_receiver,
)
from steadymr.types import KSpace

DWELL_SOURCE = "50 kHz over the field of view, about 200 Hz per pixel at 256 points; read it from your protocol"


@dataclass(frozen=True, slots=True)
class ThermalNoise(Perturbation):
    """More thermal noise, with the correlation between coils that the scan's own noise has.

    k' = k + s L z, with z complex white noise of unit variance and L L^H the noise covariance of one complex sample
    (Roemer et al., Magn Reson Med 1990;16:192). With s = 1 as much again is added as the scan has: SNR falls by
    sqrt(1 + s^2). The range is a working assumption around the noise of one scan; the unit is measured in each scan.
    """

    name: ClassVar[str] = "thermal_noise"
    principal: ClassVar[str] = "sigma"

    sigma: float = strength(
        "standard deviation of the added noise, in units of the scan's own noise",
        "x measured noise s.d.",
        (0.0, 4.0),
        "unit from the noise scan; 0.5 to 4 spans a larger bore or lower field to a quarter of the scan time",
        assumption=True,
    )

    def perturb(self, kspace: KSpace, rng: np.random.Generator) -> KSpace:
        """Add the noise; calibration lines acquired apart get noise of their own."""
        colour = _colouring(kspace.noise_covariance)
        return through_receiver(kspace, lambda lines: lines + np.float32(self.sigma) * _noise(colour, lines.shape, rng))


@dataclass(frozen=True, slots=True)
class GainDrift(Perturbation):
    """Receiver gain that drifts linearly over the scan, in all coils alike and in each coil on its own.

    Line t is scaled by 1 + (d + e_c) t/(T-1), e_c ~ N(0, ``coil_spread_percent``). The ranges are working assumptions:
    a transmitter may be 5 % off its baseline (AAPM TG-284), for the receiver no tolerance was found.
    """

    name: ClassVar[str] = "gain_drift"
    principal: ClassVar[str] = "drift_percent"

    drift_percent: float = strength(
        "relative change of gain from the first line to the last",
        "%",
        (0.0, 2.0),
        "no published receiver tolerance found; below the transmitter's +-5 % of AAPM TG-284",
        assumption=True,
        signed=True,
    )
    coil_spread_percent: float = strength(
        "standard deviation over coils of a further drift of their own",
        "%",
        (0.0, 2.0),
        "taken as large as the common drift",
        assumption=True,
    )

    def perturb(self, kspace: KSpace, rng: np.random.Generator) -> KSpace:
        """Scale the lines."""
        own = self.coil_spread_percent * rng.standard_normal((kspace.data.shape[0], 1, 1, 1))
        gain = 1 + (self.drift_percent + own) / 100 * acquisition_fraction(kspace)[..., None]
        return through_receiver(kspace, lambda lines: lines * gain.astype(np.float32))


@dataclass(frozen=True, slots=True)
class PhaseDrift(Perturbation):
    """A receiver phase that drifts over the scan and jitters from line to line, the same in all coils.

    Line t is multiplied by exp(i (a t/(T-1) + b_t)), b_t ~ N(0, ``jitter_rad``) independently. Both ranges are working
    assumptions: clock jitter, breathing and eddy currents are of this order, none is a specified tolerance.
    """

    name: ClassVar[str] = "phase_drift"
    principal: ClassVar[str] = "drift_rad"

    drift_rad: float = strength(
        "phase gathered from the first line to the last", "rad", (0.0, 0.2), "common experience", assumption=True,
        signed=True,
    )  # fmt: skip
    jitter_rad: float = strength(
        "standard deviation of an independent phase of each line", "rad", (0.0, 0.2), "common experience",
        assumption=True,
    )  # fmt: skip

    def perturb(self, kspace: KSpace, rng: np.random.Generator) -> KSpace:
        """Turn the lines."""
        fraction = acquisition_fraction(kspace)
        phase_rad = self.drift_rad * fraction + self.jitter_rad * rng.standard_normal(fraction.shape)
        turn = np.exp(1j * phase_rad)[..., None].astype(np.complex64)
        return through_receiver(kspace, lambda lines: lines * turn)


@dataclass(frozen=True, slots=True)
class CoilFault(Perturbation):
    """One coil with a wrong gain, and coils that are dead; which ones is drawn at random.

    k'_c = (1 + g) k_c for one coil. A dead coil is deaf, not silent: its samples become noise of that coil's own
    variance, because the preamplifier behind it still works. The noise covariance in the data is left as the noise
    scan found it, so the fault is taken to arise after that scan. The range of g is a working assumption.

    Raises :class:`PerturbationError` when no coil would be left.
    """

    name: ClassVar[str] = "coil_fault"
    principal: ClassVar[str] = "gain_error_percent"

    gain_error_percent: float = strength(
        "relative gain error of one coil", "%", (0.0, 10.0), "common experience, 1 to 10 %", assumption=True,
        signed=True,
    )  # fmt: skip
    dead_coils: int = strength(
        "number of dead coils", "coils", (0.0, 1.0), "one element at a time; quality assurance finds more",
        assumption=True, whole=True,
    )  # fmt: skip

    def perturb(self, kspace: KSpace, rng: np.random.Generator) -> KSpace:
        """Mis-gain one coil and replace the dead ones by noise."""
        n_coils, n_dead = kspace.data.shape[0], int(self.dead_coils)
        if n_dead >= n_coils:
            raise PerturbationError(
                f"coil_fault.dead_coils must leave at least one coil, got {n_dead} of the scan's {n_coils} coils"
            )
        order = rng.permutation(n_coils)
        dead, faulty = order[:n_dead], order[n_dead]
        gain = np.ones((n_coils, 1, 1, 1), dtype=np.float32)
        gain[dead], gain[faulty] = 0, 1 + self.gain_error_percent / 100
        deaf = np.zeros((n_coils, n_coils), dtype=np.complex64)
        deaf[dead, dead] = np.sqrt(np.diag(kspace.noise_covariance).real[dead])
        return through_receiver(kspace, lambda lines: lines * gain + _noise(deaf, lines.shape, rng))


@dataclass(frozen=True, slots=True)
class CoilSensitivityError(Perturbation):
    """Calibration lines that show other coil sensitivities than the scan: coils that moved or were loaded otherwise.

    In the calibration, S'_c(r) = S_c(r) (1 + e_c(r)), e_c(r) = sum a_pq exp(-2 pi i (p x/X + q y/Y)) over
    p, q in {-1, 0, 1}, X and Y the field of view, a_pq independent and complex normal, scaled so that the root mean
    square of e_c over the field of view is ``error_percent``. In k-space this is a convolution of nine points, exact
    but for the outermost calibration lines, whose neighbours are unknown and taken as zero. The image's lines are
    left alone: what breaks is the agreement between maps and data. The range is a working assumption.

    Raises :class:`PerturbationError` when the scan has no calibration lines.
    """

    name: ClassVar[str] = "coil_sensitivity_error"
    principal: ClassVar[str] = "error_percent"

    error_percent: float = strength(
        "root mean square of the smooth relative error of each coil's sensitivity", "%", (0.0, 10.0),
        "common experience, 1 to 10 %", assumption=True,
    )  # fmt: skip

    def perturb(self, kspace: KSpace, rng: np.random.Generator) -> KSpace:
        """Convolve the calibration lines, coil by coil."""
        if not kspace.calibrated.any():
            raise PerturbationError(
                "coil_sensitivity_error needs calibration lines to falsify, and this scan has none; "
                "choose coil_fault instead"
            )
        weights = rng.standard_normal((kspace.data.shape[0], 3, 3, 2)) @ np.array([1, 1j])
        weights *= self.error_percent / 100 / np.linalg.norm(weights, axis=(1, 2), keepdims=True)
        lines = kspace.calibration.astype(np.complex128)
        for p, q in np.ndindex(3, 3):
            moved = np.roll(kspace.calibration, (q - 1, p - 1), axis=(2, 3))
            lines += weights[:, q, p, None, None, None] * moved
        mask = kspace.calibrated[..., None] & columns(kspace)
        return replace(kspace, calibration=np.where(mask, lines, 0).astype(np.complex64))


@dataclass(frozen=True, slots=True)
class Spikes(Perturbation):
    """Sparks that spoil single samples and weave a herringbone over the whole image.

    k'(n, t) = k(n, t) + a m_c exp(i p_c) at ``count`` samples drawn from the acquired ones, m_c the largest magnitude
    of that coil and p_c a random phase: a spark reaches all coils at once. In the image of N points each spike is a
    plane wave of magnitude a m_c / sqrt(N). The ranges are working assumptions.
    """

    name: ClassVar[str] = "spikes"
    principal: ClassVar[str] = "amplitude"

    amplitude: float = strength(
        "magnitude of a spike, relative to the largest sample of its coil", "x largest sample", (0.0, 1.0),
        "common experience, 0.1 to 1", assumption=True,
    )  # fmt: skip
    count: int = setting(
        1, "number of spikes", "", (1.0, 5.0), "common experience", assumption=True, whole=True,
    )  # fmt: skip

    def perturb(self, kspace: KSpace, rng: np.random.Generator) -> KSpace:
        """Add the spikes; a spoilt line that serves as calibration too is spoilt there as well."""
        places = np.argwhere(kspace.acquired[..., None] & columns(kspace))
        k2, k1, k0 = rng.choice(places, size=min(int(self.count), len(places)), replace=False).T
        largest = np.abs(kspace.data).max(axis=(1, 2, 3))
        turn = np.exp(2j * np.pi * rng.random((len(largest), len(k0))))
        data = kspace.data.copy()
        data[:, k2, k1, k0] += (self.amplitude * largest[:, None] * turn).astype(np.complex64)
        return received(kspace, data, kspace.calibration)


@dataclass(frozen=True, slots=True)
class Zipper(Perturbation):
    """A foreign radio frequency, picked up in every readout: a bright line across the image at one place along x.

    k'(n, t) = k(n, t) + a s_c exp(i (2 pi f dt n + p_t + q_c)), n counted from the echo, dt the dwell time, s_c the
    noise standard deviation of coil c, p_t and q_c random phases of line and coil. The line lies -f dt N pixels from
    the centre along the readout, wrapped into the field of view. The ranges are working assumptions.
    """

    name: ClassVar[str] = "zipper"
    principal: ClassVar[str] = "amplitude"

    amplitude: float = strength(
        "magnitude of the tone in each sample, in units of the coil's noise", "x measured noise s.d.", (0.0, 5.0),
        "common experience, 0.5 to 5", assumption=True,
    )  # fmt: skip
    frequency_hz: float = setting(
        10000.0, "frequency of the tone relative to the receiver's centre", "Hz", (0.0, 50000.0),
        "any frequency within the receiver's band", assumption=True, signed=True,
    )  # fmt: skip
    dwell_us: float = setting(
        20.0, "time between samples of the grid, readout oversampling removed", "us", (1.0, 100.0), DWELL_SOURCE,
        assumption=True,
    )  # fmt: skip

    def perturb(self, kspace: KSpace, rng: np.random.Generator) -> KSpace:
        """Add the tone, its phase free from line to line."""
        time_s = readout_samples(kspace) * self.dwell_us * 1e-6
        tone = np.exp(2j * np.pi * self.frequency_hz * time_s)
        coil_turn = np.exp(2j * np.pi * rng.random(kspace.data.shape[0]))
        level = self.amplitude * np.sqrt(np.diag(kspace.noise_covariance).real) * coil_turn

        def with_tone(lines: Complex64[np.ndarray, "coil k2 k1 k0"]) -> AnyComplex:
            line_turn = np.exp(2j * np.pi * rng.random(lines.shape[1:3]))
            added = (level[:, None, None] * line_turn)[..., None] * tone
            return np.asarray(lines + added.astype(np.complex64))

        return through_receiver(kspace, with_tone)


@dataclass(frozen=True, slots=True)
class Converter(Perturbation):
    """An analogue-to-digital converter with few bits, or driven into clipping.

    Real and imaginary part are clipped to +-F and rounded to multiples of 2 F / 2^b, zero among them. F is the
    largest part in the scan, less ``clip_percent``. Rounding adds noise of variance (2F/2^b)^2 / 12 to each part
    (Widrow, IRE Trans 1956). Modelled on the grid, after the readout oversampling was removed, which a real converter
    comes before. Converters of present scanners have 16 bits; fewer, and the clipping, are working assumptions.
    """

    name: ClassVar[str] = "adc"
    principal: ClassVar[str] = "bits"

    bits: int = strength(
        "resolution of real and imaginary part, sign included; 0 means no rounding", "bit", (10.0, 16.0),
        "16 bits in present scanners; fewer stand for a badly set receiver gain", assumption=True, whole=True,
    )  # fmt: skip
    clip_percent: float = strength(
        "part of the largest amplitude that is cut off", "%", (0.0, 5.0), "common experience, the top 1 to 5 %",
        assumption=True,
    )  # fmt: skip

    def perturb(self, kspace: KSpace, rng: np.random.Generator) -> KSpace:
        """Clip, then round."""
        full_scale = max(_largest_part(kspace.data), _largest_part(kspace.calibration)) * (1 - self.clip_percent / 100)
        if full_scale <= 0:
            raise PerturbationError(
                f"adc needs signal below full scale, but nothing is left of this scan at "
                f"clip_percent = {self.clip_percent:g}"
            )
        step = 2 * full_scale / 2.0**self.bits if self.bits else 0.0
        return through_receiver(kspace, lambda lines: _converted(lines, full_scale, step))


def _colouring(covariance: Complex128[np.ndarray, "coil coil2"]) -> Complex64[np.ndarray, "coil coil2"]:
    """Return L with L L^H the covariance; eigenvalues, because a coil without noise makes it singular."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)), dtype=np.complex64)


def _noise(
    colour: Complex64[np.ndarray, "coil coil2"], shape: tuple[int, ...], rng: np.random.Generator
) -> Complex64[np.ndarray, "coil k2 k1 k0"]:
    """Draw noise of covariance L L^H on a grid of the given shape."""
    pairs: Float32[np.ndarray, " n"] = rng.standard_normal((*shape, 2), dtype=np.float32) * np.float32(np.sqrt(0.5))
    return np.tensordot(colour, pairs.view(np.complex64)[..., 0], axes=1)


def _largest_part(lines: Complex64[np.ndarray, "coil k2 k1 k0"]) -> float:
    return float(max(np.abs(lines.real).max(), np.abs(lines.imag).max()))


def _converted(lines: Complex64[np.ndarray, "coil k2 k1 k0"], full_scale: float, step: float) -> AnyComplex:
    parts = np.clip(np.ascontiguousarray(lines).view(np.float32), -full_scale, full_scale)
    if step:
        parts = np.round(parts / np.float32(step)) * np.float32(step)
    return parts.view(np.complex64)
