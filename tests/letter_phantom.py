"""A cube with a letter on three of its faces, fixed in the patient, and MRD files of it in any position of slices.

No turn and no mirror image of it looks like itself, so a landmark that lands in the right place proves the geometry.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mrd
import numpy as np

CENTRE_MM = np.array([7.0, -11.0, 23.0])  #: in the patient, LPS
HALF_MM = 44.0
BODY, LETTER = 0.35, 1.0
LETTERS = {"F": "####/#.../###./#.../#...", "R": "###./#..#/###./#.#./#..#", "J": "..##/...#/...#/#..#/.##."}
#: Each face: the axis it is across, which side, the letter, and the patient axes along which letters run and rise.
FACES = (
    (0, +1, "F", (1, 2)),  # left
    (1, -1, "R", (0, 2)),  # front
    (2, +1, "J", (0, 1)),  # head
)
CELL_MM, DEPTH_MM = 16.0, 18.0

MATRIX, FOV_MM, THICKNESS_MM, N_SLICES = (24, 20), (192.0, 150.0), 14.0, 7

#: Device axes (x to the right of somebody facing the bore, y up, z into the bore) as patient axes, DICOM C.7.3.1.1.2.
POSITIONS = {
    "HFS": np.array([[1, 0, 0], [0, -1, 0], [0, 0, -1]]),
    "HFP": np.array([[-1, 0, 0], [0, 1, 0], [0, 0, -1]]),
    "FFS": np.array([[-1, 0, 0], [0, -1, 0], [0, 0, 1]]),
    "FFP": np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
}


def density(points_mm: np.ndarray) -> np.ndarray:
    """The object at points (..., 3) of the patient: 0 outside, ``BODY``, or ``LETTER``."""
    from_centre = points_mm - CENTRE_MM
    inside = (np.abs(from_centre) < HALF_MM).all(-1)
    lettered = np.zeros(inside.shape, bool)
    for across, side, letter, (along, up) in FACES:
        rows = LETTERS[letter].split("/")
        ink = np.array([[cell == "#" for cell in row] for row in rows])
        column = np.floor(from_centre[..., along] / CELL_MM + 2).astype(int)
        row = np.floor(2.5 - from_centre[..., up] / CELL_MM).astype(int)
        on_letter = (column >= 0) & (column < 4) & (row >= 0) & (row < 5)
        on_letter &= ink[np.clip(row, 0, 4), np.clip(column, 0, 3)]
        lettered |= on_letter & (side * from_centre[..., across] > HALF_MM - DEPTH_MM)
    return np.where(inside, np.where(lettered, LETTER, BODY), 0.0)


def voxels_mm(directions: np.ndarray) -> np.ndarray:
    """Centres of the voxels (z y x 3) of a stack about the cube with the given read, phase and slice directions."""
    (n_x, n_y), read, phase, slice_ = MATRIX, *directions
    x = (np.arange(n_x) - n_x // 2) * FOV_MM[0] / n_x
    y = (np.arange(n_y) - n_y // 2) * FOV_MM[1] / n_y
    z = (np.arange(N_SLICES) - (N_SLICES - 1) / 2) * THICKNESS_MM
    in_plane = x[:, None] * read + y[:, None, None] * phase
    return np.asarray(CENTRE_MM + z[:, None, None, None] * slice_ + in_plane)


def write_scan(path: Path, directions: np.ndarray, patient_position: str) -> np.ndarray:
    """Write a multi-slice scan of the cube; the positions of all voxels of its letters, in mm."""
    places = voxels_mm(directions)
    images = density(places)
    covariance = mrd.covariance(4, 1e-3)
    readouts = [mrd.noise_readout(covariance)]
    read, phase, slice_ = (tuple(map(float, direction)) for direction in directions)
    for number, image in enumerate(images):
        position = CENTRE_MM + (number - (N_SLICES - 1) / 2) * THICKNESS_MM * directions[2]
        facts = {"position_mm": tuple(position), "read_dir": read, "phase_dir": phase, "slice_dir": slice_}
        for line in mrd.readouts(_kspace(image, number), **facts):
            readouts.append(replace(line, index=replace(line.index, slice=number)))
    xml = mrd.header_xml(*MATRIX, fov_mm=(*FOV_MM, THICKNESS_MM), counters={"slice": N_SLICES})
    stated = f"<measurementInformation><patientPosition>{patient_position}</patientPosition></measurementInformation>"
    head, _, end = xml.rpartition("</")
    mrd.write(path, f"{head}{stated}</{end}", readouts)
    return np.asarray(places[images == LETTER])


def _kspace(image: np.ndarray, seed: int) -> np.ndarray:
    """Lines (coil k2 k1 k0) of one slice as four smooth coils see it, readout oversampled twice."""
    n_y, n_x = image.shape
    y, x = np.meshgrid(np.linspace(-1, 1, n_y), np.linspace(-1, 1, n_x), indexing="ij")
    coils = [np.exp(-((x - a) ** 2 + (y - b) ** 2) / 6 + 0.5j * (a * x + b * y)) for a in (-1, 1) for b in (-1, 1)]
    maps = np.stack(coils) / np.sqrt(sum(np.abs(coil) ** 2 for coil in coils))
    wide = np.pad(maps * image, [(0, 0), (0, 0), (n_x // 2, n_x - n_x // 2)])
    data = mrd.fft(wide, (1, 2)) + 1e-3 * mrd.complex_normal(np.random.default_rng(seed), wide.shape)
    return np.asarray(data[:, None], np.complex64)
