"""What to train on: the simulation, with measured heads in it or without, or a site's own fully sampled scans.

Scans come as fastMRI's HDF5 files or as ISMRMRD, and are made complex images.

Coils are combined with ESPIRiT's maps; each image is brought to the pixel size and matrix of the bank, and the 99th
percentile of its magnitude to 1. Which files serve for validation is decided by their place in the sorted folder, so
that no file serves twice.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import h5py
import numpy as np
import torch
from jaxtyping import Complex64
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from steadymr.assemble import assemble
from steadymr.errors import AssemblyError, CalibrationError, SettingsError, SourceError
from steadymr.recon.coils import combine_coils, espirit_maps
from steadymr.recon.operators import fft_centred, ifft_centred
from steadymr.recon.problem import whitened_slice
from steadymr.source.header import parse_header
from steadymr.source.replay import open_scan
from steadymr.types import KSpace, Space

logger = logging.getLogger(__name__)

VALIDATION_EVERY: Final = 10  #: of so many files one is for validation, and at least one


class DataSettings(BaseModel):
    """Where images come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["simulation", "fastmri", "ismrmrd"] = Field("simulation", description="Kind of data.")
    folder: Path | None = Field(None, description="Folder of *.h5 files, fully sampled; not for simulation.")
    heads: tuple[Path, ...] = Field((), description="NIfTI volumes of heads, slices of which the simulation takes too.")
    heads_share: float = Field(0.5, ge=0, le=1, description="Share of the slices that show a measured head, if any.")

    @model_validator(mode="after")
    def _heads_only_in_simulation(self) -> DataSettings:
        if self.heads and self.source != "simulation":
            raise ValueError("heads belong to the simulation: give none with source fastmri or ismrmrd")
        return self

    @model_validator(mode="after")
    def _folder_where_needed(self) -> DataSettings:
        if (self.folder is None) != (self.source == "simulation"):
            raise ValueError("give a folder of scans with source fastmri or ismrmrd, and none with simulation")
        return self


def files_of(data: DataSettings, purpose: str) -> list[Path]:
    """Return the files of a folder that serve a purpose, ``train`` or ``validation``.

    Raises:
        SettingsError: there are not at least two files, one for each.
    """
    files = sorted(Path(data.folder or ".").glob("*.h5"))
    if len(files) < 2:
        raise SettingsError(f"{data.folder} should hold two *.h5 files or more, one for validation, not {len(files)}")
    return [path for n, path in enumerate(files) if (n % VALIDATION_EVERY == 0) == (purpose == "validation")]


def read_images(
    data: DataSettings, path: Path, n_images: int, matrix: int, pixel_mm_range: tuple[float, float]
) -> list[Complex64[np.ndarray, "y x"]]:
    """Return at most ``n_images`` images of one file, spread over it, on ``matrix`` x ``matrix`` pixels.

    Pixels that are smaller than a random size from the range are made as large, by cropping k-space; larger ones
    stay. The size is drawn from the file's name, so that the same file always gives the same images. A file that
    cannot be used gives none, and a warning says why.
    """
    rng = np.random.default_rng(list(path.name.encode()))
    try:
        scans = list(_fastmri_scans(path) if data.source == "fastmri" else _ismrmrd_scans(path))
    except (SettingsError, SourceError, AssemblyError) as error:
        logger.warning("%s is left out: %s", path, error)
        return []
    kept = np.unique(np.linspace(0, len(scans) - 1, min(n_images, len(scans))).round().astype(int))
    images = []
    for number in kept:
        kspace, pixel_mm_yx = scans[number]
        target_mm = float(np.exp(rng.uniform(*np.log(pixel_mm_range))))
        try:
            images.append(_image(kspace, pixel_mm_yx, target_mm, matrix))
        except CalibrationError as error:
            logger.warning("slice %d of %s is left out: %s", number, path, error)
    return images


def _image(
    kspace: Complex64[Tensor, "coil y x"], pixel_mm_yx: tuple[float, float], target_mm: float, matrix: int
) -> Complex64[np.ndarray, "matrix matrix"]:
    """Combine the coils, enlarge pixels to the target, bring to the matrix, and scale the 99th percentile to 1."""
    n_y, n_x = kspace.shape[1:]
    maps = espirit_maps(kspace, torch.ones(n_y, dtype=torch.bool), (0, n_x))
    image = combine_coils(kspace, maps)
    for dim, pixel_mm in ((-2, pixel_mm_yx[0]), (-1, pixel_mm_yx[1])):
        n_kept = min(round(image.shape[dim] * pixel_mm / target_mm), image.shape[dim])
        image = ifft_centred(_centre(fft_centred(image, (dim,)), n_kept, dim), (dim,))
        image = _centre(image, matrix, dim)
    pixels: np.ndarray = image.numpy()
    return np.asarray(pixels / max(float(np.percentile(np.abs(pixels), 99)), 1e-12), np.complex64)


def _centre(values: Complex64[Tensor, "*axes"], n: int, dim: int) -> Complex64[Tensor, "*axes2"]:
    """Crop or zero-pad one axis, keeping index ``n // 2`` where it is."""
    shift = values.shape[dim] // 2 - n // 2
    kept = values.narrow(dim, max(shift, 0), min(n, values.shape[dim]))
    padding = [0, 0] * (-dim - 1) + [max(-shift, 0), n - max(-shift, 0) - kept.shape[dim]]
    padded: Tensor = torch.nn.functional.pad(kept, padding)
    return padded


def _fastmri_scans(path: Path) -> Iterator[tuple[Complex64[Tensor, "coil y x"], tuple[float, float]]]:
    """Yield k-space and pixel size (y, x) of each slice of a multi-coil fastMRI file.

    Its ``kspace`` is (slice coil x y), the readout first and oversampled; ``ismrmrd_header`` tells by how much
    (fastMRI: Zbontar et al., arXiv 1811.08839).
    """
    try:
        with h5py.File(path) as file:
            if "mask" in file:
                raise SettingsError("it is a masked test file, but training needs full k-space")
            header = parse_header(file["ismrmrd_header"][()])
            kspace = np.asarray(file["kspace"], np.complex64)
    except (OSError, KeyError) as error:
        raise SettingsError(f"expected fastMRI's HDF5 with kspace and ismrmrd_header: {error}") from error
    if kspace.ndim != 4:
        raise SettingsError(f"expected multi-coil k-space of (slice coil x y), found {kspace.ndim} axes")
    n_x = min(_same_pixels(header.encoded, header.recon), kspace.shape[2])
    for coils in torch.from_numpy(np.swapaxes(kspace, 2, 3).copy()):
        cropped = fft_centred(_centre(ifft_centred(coils, (-1,)), n_x, -1), (-1,))
        yield cropped, _pixel_mm(header.encoded, cropped)


def _same_pixels(encoded: Space, recon: Space) -> int:
    """The readout's points without its oversampling: as many of the encoded pixels as the recon's field of view has."""
    return round(encoded.matrix_xyz[0] * recon.fov_mm_xyz[0] / encoded.fov_mm_xyz[0])


def _pixel_mm(encoded: Space, kspace: Complex64[Tensor, "coil y x"]) -> tuple[float, float]:
    return encoded.fov_mm_xyz[1] / kspace.shape[1], encoded.fov_mm_xyz[0] / encoded.matrix_xyz[0]


def _ismrmrd_scans(path: Path) -> Iterator[tuple[Complex64[Tensor, "coil y x"], tuple[float, float]]]:
    """Yield whitened k-space and pixel size (y, x) of each plane of a fully sampled ISMRMRD file."""
    with open_scan(path) as scan:
        for kspace in assemble(scan.readouts(), scan.header, averages="combine"):
            if not kspace.sampled.all():
                raise SettingsError(f"{int((~kspace.sampled).sum())} lines are missing, training needs full k-space")
            yield from _planes(kspace)


def _planes(kspace: KSpace) -> Iterator[tuple[Complex64[Tensor, "coil y x"], tuple[float, float]]]:
    fov_mm, matrix = kspace.encoded.fov_mm_xyz, kspace.encoded.matrix_xyz
    for z in range(kspace.data.shape[1]):
        yield whitened_slice(kspace, z), (fov_mm[1] / matrix[1], fov_mm[0] / matrix[0])


def recipe_of(data: DataSettings, purpose: str) -> dict[str, Any]:
    """Return what decides which images come from the data, for a bank to be recognised by: files, sizes, times."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files_of(data, purpose)]
    return {"source": data.source, "files": [list(stat) for stat in stats]}


def recipe_of_heads(data: DataSettings, purpose: str) -> dict[str, Any]:
    """Return what decides which measured heads a bank of drawings holds: nothing if none, as in validation.

    Raises:
        SettingsError: a volume is not there.
    """
    if not data.heads or purpose != "train":
        return {}
    try:
        heads = [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in data.heads]
    except OSError as error:
        raise SettingsError(f"a head to train on cannot be read: {error}") from error
    return {"heads": heads, "heads_share": data.heads_share}
