"""A simulated scan as a scanner would have written it: an ISMRMRD file whose true images are known."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import ismrmrd
import numpy as np
from jaxtyping import Bool, Complex64, Complex128, Float64
from scipy import fft

from steadymr.errors import OutputError, SettingsError
from steadymr.simulate.anatomy import Anatomy, draw
from steadymr.simulate.coils import simulate_coils
from steadymr.simulate.header import NOISE_BANDWIDTH_RATIO, write_header
from steadymr.simulate.masks import centre_lines, equispaced_lines
from steadymr.simulate.planes import Cut
from steadymr.simulate.seeds import PURPOSES, Purpose
from steadymr.types import Geometry, Vector

DWELL_US: Final = 5.0  # of an imaging sample, oversampling included
NOISE_DWELL_US: Final = 10.0
N_NOISE_READOUTS: Final = 16
FIRST_TIME_STAMP: Final = 13_680_000  # 09:30 in ticks of 2.5 ms
TICKS_PER_LINE: Final = 200  # TR 500 ms


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What a simulated scan was made of.

    A fully sampled, noiseless scan has k-space F(coil_maps * images), without readout oversampling, with the centred
    orthonormal transform; the root sum of squares of the maps is 1.
    """

    images: Complex64[np.ndarray, "slice y x"]
    coil_maps: Complex64[np.ndarray, "coil y x"]
    sampled: Bool[np.ndarray, "y"]  #: lines in the file
    calibrated: Bool[np.ndarray, "y"]  #: lines flagged as calibration; none if every line is acquired
    noise_covariance: Complex128[np.ndarray, "coil coil2"]  #: E[n n^H] of one imaging sample
    geometry: tuple[Geometry, ...]  #: one for each slice


def simulate_scan(
    path: Path,
    *,
    seed: int,
    purpose: Purpose = "demo",
    n_coils: int = 8,
    matrix: tuple[int, int] = (128, 128),
    pixel_mm: float = 1.8,
    n_slices: int = 1,
    slice_mm: float = 5.0,
    acceleration: int = 4,
    n_calibration: int = 24,
    signal_to_noise: float = 40.0,
    noise_scan: bool = True,
    readout_oversampling: int = 2,
    centre_mm: Vector = (3.0, -12.0, 20.0),
    tilt_deg: float = 0.0,
    turn_deg: float = 0.0,
    anatomy: Anatomy = "brain",
    contrast: str | None = "t1",
) -> Truth:
    """Write a 2-D Cartesian multi-slice scan and return what it was made of.

    The same arguments write the same data. Scans that differ in ``acceleration`` or ``n_calibration`` only hold the
    same samples, noise included, in the lines that both acquire: the one with ``acceleration=1`` is the other's
    reference.

    Args:
        path: of the HDF5 file; one that is there is replaced.
        seed: number of the subject among those of ``purpose``.
        purpose: which subjects to draw from, see `steadymr.simulate.seeds`.
        n_coils: receive channels.
        matrix: lines (y) and samples without oversampling (x).
        pixel_mm: side of a pixel.
        n_slices: slices through the same head, without gaps; for other anatomies a new object each.
        slice_mm: slice thickness.
        acceleration: every so-manieth line is acquired.
        n_calibration: lines in the centre, acquired and flagged as calibration, unless ``acceleration`` is 1.
        signal_to_noise: the 99th percentile of the image's magnitude over the s.d. of noise per real channel that a
            fully sampled scan has in its combined image.
        noise_scan: whether the file begins with noise readouts.
        readout_oversampling: 1 or 2.
        centre_mm: of the stack, LPS.
        tilt_deg: turns the axial slices about the patient's left-right axis.
        turn_deg: then turns them about the head-foot axis.
        anatomy: what to draw.
        contrast: see `steadymr.simulate.anatomy.draw`.

    Raises:
        SettingsError: the anatomy or contrast does not exist, or a count is not positive.
        OutputError: the file could not be written.
    """
    if min(n_coils, *matrix, n_slices, acceleration, readout_oversampling) < 1 or n_calibration < 0:
        raise SettingsError(
            "a simulated scan needs at least one coil, line, sample and slice, and acceleration 1 or more"
        )
    key = (PURPOSES[purpose], seed)
    images = _draw_slices(key, matrix, pixel_mm, n_slices, slice_mm, anatomy, contrast)
    coil_maps = simulate_coils(np.random.default_rng([*key, 1]), n_coils, matrix, matrix[0] / matrix[1])
    noise_rng = np.random.default_rng([*key, 2])
    covariance = _noise_covariance(noise_rng, n_coils, signal_to_noise)
    sampled = equispaced_lines(matrix[0], acceleration, n_calibration, (matrix[0] // 2) % acceleration)
    calibrated = centre_lines(matrix[0], n_calibration) & (acceleration > 1)
    geometry = _stack(centre_mm, tilt_deg, turn_deg, (matrix[1] * pixel_mm, matrix[0] * pixel_mm, slice_mm), n_slices)
    truth = Truth(images, coil_maps, sampled, calibrated, covariance, geometry)
    xml = write_header(
        seed=seed,
        n_coils=n_coils,
        matrix_yx=matrix,
        pixel_mm=pixel_mm,
        slice_mm=slice_mm,
        n_slices=n_slices,
        acceleration=acceleration,
        readout_oversampling=readout_oversampling,
    )
    readouts = _noise_readouts(noise_rng, covariance, matrix[1] * readout_oversampling) if noise_scan else []
    readouts += _image_readouts(np.random.default_rng([*key, 3]), truth, readout_oversampling, acceleration)
    _write(path, xml, readouts)
    return truth


def _draw_slices(
    key: tuple[int, int],
    matrix: tuple[int, int],
    pixel_mm: float,
    n_slices: int,
    slice_mm: float,
    anatomy: Anatomy,
    contrast: str | None,
) -> Complex64[np.ndarray, "slice y x"]:
    heights_mm = [10.0 + (number - (n_slices - 1) / 2) * slice_mm for number in range(n_slices)]
    same_head = anatomy == "brain"
    rngs = [np.random.default_rng([*key, 0, 0 if same_head else number]) for number in range(n_slices)]
    cuts = [Cut("axial", height_mm) for height_mm in heights_mm]
    drawn = (draw(rng, matrix, pixel_mm, anatomy, contrast, cut) for rng, cut in zip(rngs, cuts, strict=True))
    return np.stack(list(drawn))


def _noise_covariance(
    rng: np.random.Generator, n_coils: int, signal_to_noise: float
) -> Complex128[np.ndarray, "coil coil2"]:
    """Return the covariance of channels of equal noise that share some of it, the more the closer."""
    distance = np.abs(np.arange(n_coils)[:, None] - np.arange(n_coils)[None, :])
    distance = np.minimum(distance, n_coils - distance)
    phase = rng.uniform(0, 2 * np.pi, n_coils)
    turned = np.exp(1j * (phase[:, None] - phase[None, :]))
    return np.asarray(2 / signal_to_noise**2 * 0.15**distance * turned, dtype=np.complex128)


def _stack(centre_mm: Vector, tilt_deg: float, turn_deg: float, fov_mm: Vector, n_slices: int) -> tuple[Geometry, ...]:
    """Return the geometry of each slice; x runs to the left, y to the back, z to the head before any turn."""
    tilt, turn = np.deg2rad(tilt_deg), np.deg2rad(turn_deg)
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    read, phase, slice_ = (about_z @ about_x).T
    shifts_mm = ((number - (n_slices - 1) / 2) * fov_mm[2] for number in range(n_slices))
    centres = (np.asarray(centre_mm) + shift_mm * slice_ for shift_mm in shifts_mm)
    return tuple(Geometry(_vector(c), _vector(read), _vector(phase), _vector(slice_), fov_mm) for c in centres)


def _vector(values: Float64[np.ndarray, "3"]) -> Vector:
    return (float(values[0]), float(values[1]), float(values[2]))


def _correlated(
    rng: np.random.Generator, covariance: Complex128[np.ndarray, "coil coil2"], shape: tuple[int, ...]
) -> Complex64[np.ndarray, "coil *shape"]:
    """Return complex noise with E[n n^H] = covariance in each sample."""
    white = rng.standard_normal((2, len(covariance), int(np.prod(shape))))
    noise = np.linalg.cholesky(covariance) @ ((white[0] + 1j * white[1]) / np.sqrt(2))
    return np.asarray(noise.reshape(len(covariance), *shape), dtype=np.complex64)


def _noise_readouts(
    rng: np.random.Generator, covariance: Complex128[np.ndarray, "coil coil2"], n_samples: int
) -> list[ismrmrd.Acquisition]:
    """Return readouts without signal, of another dwell time, seen through the receiver's filter.

    Variance falls as the dwell time rises, and the filter passes ``NOISE_BANDWIDTH_RATIO`` of it (Kellman and
    McVeigh, Magn Reson Med 54:1439, 2005).
    """
    scaled = covariance * (DWELL_US / NOISE_DWELL_US) * NOISE_BANDWIDTH_RATIO
    readouts = []
    for _ in range(N_NOISE_READOUTS):
        readout = ismrmrd.Acquisition.from_array(_correlated(rng, scaled, (n_samples,)))
        readout.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        readout.sample_time_us = NOISE_DWELL_US
        readout.center_sample = n_samples // 2
        readout.available_channels = len(covariance)
        readout.acquisition_time_stamp = FIRST_TIME_STAMP
        readouts.append(readout)
    return readouts


def _image_readouts(
    rng: np.random.Generator, truth: Truth, oversampling: int, acceleration: int
) -> list[ismrmrd.Acquisition]:
    readouts = []
    lines = [int(line) for line in np.flatnonzero(truth.sampled)]
    for number, image in enumerate(truth.images):
        kspace = _oversampled_kspace(truth.coil_maps * image, oversampling)
        # noise is drawn for all lines, so that scans of different acceleration agree where both have data
        kspace += _correlated(rng, truth.noise_covariance, kspace.shape[1:])
        for line in lines:
            readout = ismrmrd.Acquisition.from_array(np.ascontiguousarray(kspace[:, line]))
            _place(readout, truth.geometry[number])
            readout.idx.slice, readout.idx.kspace_encode_step_1 = number, line
            on_grid = (line - len(truth.sampled) // 2) % acceleration == 0
            for flag in _flags(line, lines, bool(truth.calibrated[line]), on_grid):
                readout.set_flag(flag)
            readouts.append(readout)
    readouts[-1].set_flag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
    for count, readout in enumerate(readouts):
        readout.scan_counter = count + 1
        readout.acquisition_time_stamp = FIRST_TIME_STAMP + TICKS_PER_LINE * (count + 1)
    return readouts


def _oversampled_kspace(
    images: Complex64[np.ndarray, "coil y x"], oversampling: int
) -> Complex64[np.ndarray, "coil y x2"]:
    """Return the k-space of images in a field of view made wider along x by air."""
    n_x = images.shape[2]
    before = n_x * oversampling // 2 - n_x // 2
    wide = np.pad(images, ((0, 0), (0, 0), (before, n_x * (oversampling - 1) - before)))
    spectrum = fft.fftn(fft.ifftshift(wide, axes=(1, 2)), axes=(1, 2), norm="ortho")
    return np.asarray(fft.fftshift(spectrum, axes=(1, 2)), dtype=np.complex64)


def _place(readout: ismrmrd.Acquisition, geometry: Geometry) -> None:
    readout.sample_time_us = DWELL_US
    readout.center_sample = readout.number_of_samples // 2
    readout.available_channels = readout.active_channels
    readout.position[:] = geometry.centre_mm
    readout.read_dir[:] = geometry.read_dir
    readout.phase_dir[:] = geometry.phase_dir
    readout.slice_dir[:] = geometry.slice_dir


def _flags(line: int, lines: list[int], is_calibration: bool, on_grid: bool) -> list[int]:
    flags = []
    if is_calibration:
        flags.append(
            ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING if on_grid else ismrmrd.ACQ_IS_PARALLEL_CALIBRATION
        )
    if line == lines[0]:
        flags += [ismrmrd.ACQ_FIRST_IN_SLICE, ismrmrd.ACQ_FIRST_IN_ENCODE_STEP1]
    if line == lines[-1]:
        flags += [ismrmrd.ACQ_LAST_IN_SLICE, ismrmrd.ACQ_LAST_IN_ENCODE_STEP1]
    return flags


def _write(path: Path, xml: str, readouts: list[ismrmrd.Acquisition]) -> None:
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        dataset = ismrmrd.Dataset(str(partial), "dataset", create_if_needed=True)
        dataset.write_xml_header(xml.encode())
        for readout in readouts:
            dataset.append_acquisition(readout)
        dataset.close()
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(f"the simulated scan could not be written to {path}: {error}") from error
