"""MRD scans for tests: a seeded object, its readouts, a header, and files written by the ismrmrd package.

``readouts(kspace(...))`` is the whole scan of one volume as the source would yield it; change single readouts with
``dataclasses.replace``, or give ``readouts`` the fields that all of them share. ``write`` makes the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ismrmrd
import ismrmrd.xsd as xsd
import numpy as np

from steadymr.source.header import parse_header
from steadymr.types import Readout, ScanHeader, VolumeIndex

ROLE_FLAGS = {
    "image": (),
    "calibration": (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION,),
    "image and calibration": (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING,),
    "noise": (ismrmrd.ACQ_IS_NOISE_MEASUREMENT,),
    "set aside": (ismrmrd.ACQ_IS_NAVIGATION_DATA,),
}


def header_xml(
    n_x: int = 32,
    n_y: int = 32,
    n_z: int = 1,
    *,
    oversampling: float = 2.0,
    trajectory: str = "cartesian",
    k1_limits: tuple[int, int, int] | None = None,
    counters: dict[str, int] | None = None,
    acceleration: int = 1,
    bandwidth_ratio: float | None = None,
    fov_mm: tuple[float, float, float] = (256.0, 256.0, 5.0),
    calibration_mode: str | None = None,
) -> str:
    """A valid MRD header; ``n_x`` without oversampling, ``k1_limits`` as (minimum, maximum, centre)."""
    minimum, maximum, centre = k1_limits or (0, n_y - 1, n_y // 2)
    limits = {name: xsd.limitType(maximum=number - 1) for name, number in (counters or {}).items()}
    limits["kspace_encoding_step_1"] = xsd.limitType(minimum=minimum, maximum=maximum, center=centre)
    if n_z > 1:
        limits["kspace_encoding_step_2"] = xsd.limitType(maximum=n_z - 1, center=n_z // 2)
    factor = xsd.accelerationFactorType(kspace_encoding_step_1=acceleration, kspace_encoding_step_2=1)
    header = xsd.ismrmrdHeader(
        acquisitionSystemInformation=xsd.acquisitionSystemInformationType(
            relativeReceiverNoiseBandwidth=bandwidth_ratio
        ),
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63_500_000),
        encoding=[
            xsd.encodingType(
                encodedSpace=_space(round(n_x * oversampling), n_y, n_z, (fov_mm[0] * oversampling, *fov_mm[1:])),
                reconSpace=_space(n_x, n_y, n_z, fov_mm),
                encodingLimits=xsd.encodingLimitsType(**limits),
                trajectory=xsd.trajectoryType(trajectory),
                parallelImaging=xsd.parallelImagingType(
                    accelerationFactor=factor,
                    calibrationMode=None if calibration_mode is None else xsd.calibrationModeType(calibration_mode),
                ),
            )
        ],
    )
    return str(header.toXML())


def _space(x: int, y: int, z: int, fov_mm: Sequence[float]) -> xsd.encodingSpaceType:
    fov = xsd.fieldOfViewMm(x=float(fov_mm[0]), y=float(fov_mm[1]), z=float(fov_mm[2]))
    return xsd.encodingSpaceType(matrixSize=xsd.matrixSizeType(x=x, y=y, z=z), fieldOfView_mm=fov)


def scan_header(*args: Any, **options: Any) -> ScanHeader:
    """``header_xml``, parsed."""
    return parse_header(header_xml(*args, **options))


def image(seed: int = 0, n_coils: int = 4, n_x: int = 32, n_y: int = 32, n_z: int = 1) -> np.ndarray:
    """A smooth object seen by ``n_coils`` coils, axes (coil z y x), peak about 1, dark at the edge."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in (n_z, n_y, n_x)), indexing="ij")
    body = sum(
        np.exp(-(((x - a) / 0.25) ** 2 + ((y - b) / 0.3) ** 2 + z**2)) for a, b in rng.uniform(-0.3, 0.3, (3, 2))
    )
    centres = rng.uniform(-1, 1, (n_coils, 2))
    coils = [np.exp(-((x - a) ** 2 + (y - b) ** 2) / 2 + 1j * (a * x + b * y)) for a, b in centres]
    return (body * np.stack(coils)).astype(np.complex64)


def kspace(
    seed: int = 0,
    n_coils: int = 4,
    n_x: int = 32,
    n_y: int = 32,
    n_z: int = 1,
    *,
    oversampling: int = 2,
    noise: float = 0,
) -> np.ndarray:
    """k-space of ``image``, axes (coil k2 k1 k0), k0 oversampled, noise of s.d. ``noise`` per real channel."""
    seen = image(seed, n_coils, n_x, n_y, n_z)
    padding = n_x * oversampling // 2 - n_x // 2
    wide = np.pad(seen, [(0, 0)] * 3 + [(padding, n_x * oversampling - n_x - padding)])
    rng = np.random.default_rng(seed + 1000)
    return (fft(wide, (1, 2, 3)) + noise * complex_normal(rng, wide.shape)).astype(np.complex64)


def without_oversampling(oversampled: np.ndarray, n_x: int = 32) -> np.ndarray:
    """The truth that the assembler should arrive at."""
    wide = ifft(oversampled, (-1,))
    left = wide.shape[-1] // 2 - n_x // 2
    return fft(wide[..., left : left + n_x], (-1,)).astype(np.complex64)


def fft(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Centred and orthonormal."""
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(array, axes), axes=axes, norm="ortho"), axes)


def ifft(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Centred and orthonormal."""
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(array, axes), axes=axes, norm="ortho"), axes)


def complex_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise with E|n|^2 = 2, that is s.d. 1 per real channel."""
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def readout(data: np.ndarray, k1: int = 0, k2: int = 0, **changes: Any) -> Readout:
    """One readout, axial, at 10 us per sample."""
    plain = Readout(
        data=np.ascontiguousarray(data, np.complex64),
        role="image",
        index=VolumeIndex(),
        k1=k1,
        k2=k2,
        centre_sample=data.shape[1] // 2,
        discard_pre=0,
        discard_post=0,
        reversed=False,
        last_of_volume=False,
        sample_time_us=10.0,
        position_mm=(0.0, 0.0, 0.0),
        read_dir=(1.0, 0.0, 0.0),
        phase_dir=(0.0, 1.0, 0.0),
        slice_dir=(0.0, 0.0, 1.0),
        time_stamp=0,
        scan_counter=0,
    )
    return replace(plain, **changes)


def readouts(
    data: np.ndarray, mask: Sequence[int] | np.ndarray | None = None, *, last: bool = True, **changes: Any
) -> list[Readout]:
    """The lines of one volume's k-space (coil k2 k1 k0); ``mask`` is a list of k1, or a boolean (k2 k1).

    The last of them is ``last_of_volume`` unless ``last`` says otherwise.
    """
    places = _places(data, mask)
    lines = [readout(data[:, k2, k1], int(k1), int(k2), **changes) for k2, k1 in places]
    return [*lines[:-1], replace(lines[-1], last_of_volume=last)]


def _places(data: np.ndarray, mask: Sequence[int] | np.ndarray | None) -> list[tuple[int, int]]:
    n_k2, n_k1 = data.shape[1:3]
    if isinstance(mask, np.ndarray) and mask.ndim == 2:
        return list(zip(*np.nonzero(mask), strict=True))
    return [(k2, k1) for k2 in range(n_k2) for k1 in (range(n_k1) if mask is None else mask)]


def noise_readout(
    covariance: np.ndarray, n_samples: int = 4096, seed: int = 0, sample_time_us: float = 10.0, **changes: Any
) -> Readout:
    """A noise readout whose samples have the given covariance E[n n^H]."""
    rng = np.random.default_rng(seed)
    white = complex_normal(rng, (len(covariance), n_samples)) / np.sqrt(2)
    return readout(
        np.linalg.cholesky(covariance) @ white, role="noise", sample_time_us=sample_time_us, centre_sample=0, **changes
    )


def covariance(n_coils: int = 4, level: float = 0.01, seed: int = 0) -> np.ndarray:
    """A well-conditioned channel covariance with mean variance about ``level`` squared times 2."""
    mix = np.eye(n_coils) + 0.3 * complex_normal(np.random.default_rng(seed), (n_coils, n_coils)) / np.sqrt(n_coils)
    found = mix @ mix.conj().T
    return np.asarray(2 * level**2 * found * n_coils / np.trace(found).real)


def acquisition(line: Readout, flags: Iterable[int] = ()) -> ismrmrd.Acquisition:
    """The readout as ismrmrd writes it, with the flags of its role and any others."""
    acq = ismrmrd.Acquisition.from_array(line.data)
    for flag in (*ROLE_FLAGS[line.role], *((ismrmrd.ACQ_IS_REVERSE,) if line.reversed else ()), *flags):
        acq.setFlag(flag)
    for name in ("discard_pre", "discard_post", "sample_time_us", "scan_counter"):
        setattr(acq, name, getattr(line, name))
    acq.center_sample, acq.encoding_space_ref = line.centre_sample, line.encoding_space
    acq.acquisition_time_stamp = line.time_stamp
    acq.position[:], acq.read_dir[:] = line.position_mm, line.read_dir
    acq.phase_dir[:], acq.slice_dir[:] = line.phase_dir, line.slice_dir
    acq.idx.kspace_encode_step_1, acq.idx.kspace_encode_step_2 = line.k1, line.k2
    for name in ("repetition", "set", "phase", "contrast", "average", "slice"):
        setattr(acq.idx, name, getattr(line.index, name))
    return acq


def write(path: Path, xml: str | None, lines: Iterable[Readout | ismrmrd.Acquisition], group: str = "dataset") -> Path:
    """Write an MRD file; without ``xml`` it has no header."""
    with ismrmrd.Dataset(str(path), group, mode="w") as dataset:
        if xml is not None:
            dataset.write_xml_header(xml)
        for line in lines:
            dataset.append_acquisition(acquisition(line) if isinstance(line, Readout) else line)
    return path
