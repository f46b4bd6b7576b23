"""Complex MR images of heads that never lived, drawn from the ICBM152 tissue maps that nilearn ships.

Each call draws another subject: a slice and tilt through the maps, an affine map and smooth displacements at two
scales, cortical folds sharpened and wobbled, tissue intensities of a contrast family, cerebrospinal fluid, skull,
marrow and scalp as shells around the brain, lesions, vessels, texture, shading and a smooth phase. The picture is
drawn finer than asked and its k-space is cropped, as a scanner would: edges ring.

ICBM152 2009a, symmetric: Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological
Institute, McGill University; Fonov et al., NeuroImage 47 (2009) S102.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Complex64, Float32
from scipy import fft, ndimage

from steadymr.errors import SettingsError
from steadymr.simulate.fields import bias_field, smooth_field, smooth_phase
from steadymr.simulate.heads import Head, slice_head
from steadymr.simulate.planes import Cut, bent_plane_mm
from steadymr.simulate.shapes import draw_cells, draw_knee, ellipse, paint, pixel_grid_mm, step, warped_grid_mm

Anatomy: TypeAlias = Literal["brain", "knee", "cells"]
ANATOMIES: Final[tuple[Anatomy, ...]] = get_args(Anatomy)
ATLAS_FILE: Final = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
FINENESS: Final = 2  # the drawing has this many pixels a side for each pixel asked


@dataclass(frozen=True, slots=True, eq=False)
class Atlas:
    """Probabilities of grey and white matter and the T1 template, 1 mm, with the centre of the brain's index."""

    grey: Float32[np.ndarray, "i j k"]
    white: Float32[np.ndarray, "i j k"]
    template: Float32[np.ndarray, "i j k"]
    centre: tuple[float, float, float] = (98.0, 118.0, 82.0)


@dataclass(frozen=True, slots=True)
class Tissues:
    """Signal of each tissue, white matter near 1 or whatever the contrast makes of it."""

    white: float
    grey: float
    fluid: float
    fat: float
    skin: float
    marrow: float
    bone: float = 0.03


#: Typical relative signals of each contrast family; each subject's are scattered around them by about 12 per cent.
CONTRASTS: Final[dict[str, Tissues]] = {
    "t1": Tissues(white=1.0, grey=0.68, fluid=0.22, fat=1.35, skin=0.6, marrow=0.95),
    "t2": Tissues(white=0.42, grey=0.62, fluid=1.25, fat=0.75, skin=0.35, marrow=0.5),
    "flair": Tissues(white=0.6, grey=0.8, fluid=0.1, fat=0.8, skin=0.4, marrow=0.45),
    "pd": Tissues(white=0.72, grey=0.9, fluid=0.95, fat=0.95, skin=0.6, marrow=0.7),
}


@functools.cache
def load_atlas() -> Atlas:
    """Load the ICBM152 maps from the installed nilearn package.

    Its files are read as they lie there, because importing nilearn takes ten seconds.

    Raises:
        SettingsError: nilearn is not installed, or holds other files than we know.
    """
    nilearn = importlib.util.find_spec("nilearn")
    if nilearn is None or not nilearn.submodule_search_locations:
        raise SettingsError("drawing a brain needs the tissue maps of the package nilearn: pip install nilearn")
    folder = Path(nilearn.submodule_search_locations[0]) / "datasets" / "data"
    try:
        grey, white, template = (_read_nifti(folder / ATLAS_FILE.format(kind)) for kind in ("gm", "wm", "t1"))
    except (OSError, ValueError, struct.error) as error:
        raise SettingsError(
            f"the ICBM152 maps in {folder} cannot be read, is nilearn 0.11 or newer? {error}"
        ) from error
    return Atlas(grey, white, template)


def _read_nifti(path: Path) -> Float32[np.ndarray, "i j k"]:
    """Read a map of bytes from a NIfTI-1 file and scale its largest value to 1.

    The header is 348 bytes long; dim is at byte 40, datatype at 70 (2 is uint8), vox_offset at 108.
    """
    content = gzip.decompress(path.read_bytes())
    dim = struct.unpack_from("<8h", content, 40)
    datatype, offset = struct.unpack_from("<h", content, 70)[0], int(struct.unpack_from("<f", content, 108)[0])
    if dim[0] != 3 or datatype != 2:
        raise ValueError(f"expected 3 axes of bytes in {path.name}, found {dim[0]} of type {datatype}")
    voxels = np.frombuffer(content, np.uint8, count=dim[1] * dim[2] * dim[3], offset=offset)
    scaled = voxels.reshape(dim[1:4], order="F").astype(np.float32)
    return np.ascontiguousarray(scaled / scaled.max())


def draw(
    rng: np.random.Generator,
    matrix: tuple[int, int],
    pixel_mm: float,
    anatomy: Anatomy,
    contrast: str | None = None,
    cut: Cut | None = None,
) -> Complex64[np.ndarray, "y x"]:
    """Draw one complex image of ``matrix`` (y, x) pixels; the 99th percentile of its magnitude is 1.

    Args:
        rng: everything random comes from here.
        matrix: number of pixels along y and x.
        pixel_mm: their size, 0.5 to 4.
        anatomy: what to draw.
        contrast: a key of ``CONTRASTS``, or None for a random one; brains only.
        cut: which slice, or None for a random one; brains only. Generators in the same state draw the same subject
            in every cut.

    Raises:
        SettingsError: the contrast or the anatomy does not exist.
    """
    fine = (matrix[0] * FINENESS, matrix[1] * FINENESS)
    fine_mm = pixel_mm / FINENESS
    if anatomy == "brain":
        magnitude = _draw_head(rng, fine, fine_mm, contrast, cut)
    elif anatomy == "knee":
        magnitude = draw_knee(rng, fine, fine_mm)
    elif anatomy == "cells":
        magnitude = draw_cells(rng, fine, fine_mm)
    else:
        raise SettingsError(f"no anatomy is called {anatomy!r}; choose one of {', '.join(ANATOMIES)}")
    return _finish(rng, magnitude, matrix, pixel_mm)


def _finish(
    rng: np.random.Generator, magnitude: Float32[np.ndarray, "fine_y fine_x"], matrix: tuple[int, int], pixel_mm: float
) -> Complex64[np.ndarray, "y x"]:
    """Shade a fine drawing, give it a phase, and measure it."""
    fine, fine_mm = (magnitude.shape[0], magnitude.shape[1]), pixel_mm / FINENESS
    image = magnitude * bias_field(rng, fine, fine_mm) * smooth_phase(rng, fine, fine_mm)
    return _acquire(image, matrix, _measured_share(rng))


def draw_brain(
    rng: np.random.Generator,
    matrix: tuple[int, int],
    pixel_mm: float,
    contrast: str | None = None,
    cut: Cut | None = None,
) -> Complex64[np.ndarray, "y x"]:
    """Draw one complex image of a head; see `draw`."""
    return draw(rng, matrix, pixel_mm, "brain", contrast, cut)


def draw_measured(
    rng: np.random.Generator, matrix: tuple[int, int], pixel_mm: float, head: Head
) -> Complex64[np.ndarray, "y x"]:
    """Draw one complex image of another subject made from a measured head: bent, its contrast changed; see `draw`."""
    fine, fine_mm = (matrix[0] * FINENESS, matrix[1] * FINENESS), pixel_mm / FINENESS
    magnitude = slice_head(rng, fine, fine_mm, head)
    if rng.random() < 0.3:
        magnitude = _lesions_and_vessels(rng, magnitude, (magnitude > 0.3).astype(np.float32), fine_mm)
    return _finish(rng, magnitude, matrix, pixel_mm)


def draw_mixed(rng: np.random.Generator, matrix: tuple[int, int], pixel_mm: float) -> Complex64[np.ndarray, "y x"]:
    """Draw what networks are trained on: a brain in 4 of 5 cases, else a knee or cells."""
    anatomy = ANATOMIES[int(rng.choice(3, p=(0.80, 0.08, 0.12)))]
    return draw(rng, matrix, pixel_mm, anatomy)


def _measured_share(rng: np.random.Generator) -> tuple[float, float]:
    """Return the share of k-space measured along y and x: 1, or for one image in four less, the rest filled with 0."""
    if rng.random() < 0.75:
        return 1.0, 1.0
    both = rng.uniform(0.6, 1.0)
    return both, both * rng.uniform(0.85, 1.0)


def _acquire(image: np.ndarray, matrix: tuple[int, int], share: tuple[float, float]) -> Complex64[np.ndarray, "y x"]:
    """Keep the central k-space of a fine drawing and scale the image's 99th percentile to 1."""
    kspace = fft.fftshift(fft.fft2(fft.ifftshift(image)))
    start = [kspace.shape[axis] // 2 - matrix[axis] // 2 for axis in (0, 1)]
    kspace = kspace[start[0] : start[0] + matrix[0], start[1] : start[1] + matrix[1]]
    for axis in (0, 1):
        frequency = np.abs(np.arange(matrix[axis]) - matrix[axis] // 2)
        kspace = kspace * np.expand_dims(frequency <= share[axis] * matrix[axis] / 2, 1 - axis)
    coarse = fft.fftshift(fft.ifft2(fft.ifftshift(kspace)))
    return np.asarray(coarse / max(float(np.percentile(np.abs(coarse), 99)), 1e-12), dtype=np.complex64)


def choose_tissues(rng: np.random.Generator, contrast: str | None) -> Tissues:
    """Draw the signals of one subject: scattered around a family's, or for one in four without a family at random."""
    if contrast is None:
        contrast = str(rng.choice([*CONTRASTS, "random"]))
    jitter = np.exp(rng.normal(0, 0.12, size=6))
    if contrast == "random":
        return Tissues(*(float(value) for value in rng.uniform(0.08, 1.2, size=6)))
    if contrast not in CONTRASTS:
        raise SettingsError(f"no contrast is called {contrast!r}; choose one of {', '.join(CONTRASTS)}")
    family = CONTRASTS[contrast]
    base = (family.white, family.grey, family.fluid, family.fat, family.skin, family.marrow)
    return Tissues(*(float(value * factor) for value, factor in zip(base, jitter, strict=True)))


def _draw_head(
    rng: np.random.Generator, matrix: tuple[int, int], pixel_mm: float, contrast: str | None, cut: Cut | None
) -> Float32[np.ndarray, "y x"]:
    tissues = choose_tissues(rng, contrast)
    grey, white, template = _slice_atlas(rng, matrix, pixel_mm, cut)
    brain = np.clip((grey + white + (template > 0.1)) * 1.5, 0, 1).astype(np.float32)
    canvas = _shells(rng, brain, pixel_mm, tissues)
    grey, white, fluid = _sharpen(rng, grey, white, brain, pixel_mm)
    inside = tissues.white * white + tissues.grey * grey + tissues.fluid * fluid
    expected = 1.0 * white + 0.68 * grey + 0.25 * fluid  # what the template, a T1 image, shows of such a mixture
    detail = rng.normal(0, 0.35) * (template - expected) * (white + grey)
    texture = rng.uniform(0, 0.045) * smooth_field(rng, matrix, pixel_mm, rng.uniform(2.5, 8)) * inside
    canvas = paint(canvas, brain, np.clip(inside + detail + texture, 0, None))
    return _lesions_and_vessels(rng, canvas, brain, pixel_mm)


def _slice_atlas(
    rng: np.random.Generator, matrix: tuple[int, int], pixel_mm: float, cut: Cut | None
) -> tuple[Float32[np.ndarray, "y x"], Float32[np.ndarray, "y x"], Float32[np.ndarray, "y x"]]:
    """Cut grey matter, white matter and template along a random, bent plane, most often an axial one."""
    atlas = load_atlas()
    index = bent_plane_mm(rng, matrix, pixel_mm, cut) + np.asarray(atlas.centre)[:, None, None]
    maps = (atlas.grey, atlas.white, atlas.template)
    grey, white, template = (ndimage.map_coordinates(m, index, order=1, output=np.float32) for m in maps)
    return grey, white, template


def _sharpen(
    rng: np.random.Generator,
    grey: Float32[np.ndarray, "y x"],
    white: Float32[np.ndarray, "y x"],
    brain: Float32[np.ndarray, "y x"],
    pixel_mm: float,
) -> tuple[Float32[np.ndarray, "y x"], Float32[np.ndarray, "y x"], Float32[np.ndarray, "y x"]]:
    """Turn averaged probabilities into one subject's tissues: add folds of 5 to 9 mm, then let the likeliest win.

    A map averaged over 152 heads is blurred where heads differ; noise on the logarithms, larger where the map is
    undecided, followed by a soft maximum, gives crisp borders that differ from subject to subject.
    """
    fluid = np.clip(brain - grey - white, 0, 1)
    gain = rng.uniform(1.5, 5.0)
    fold_mm, fold = rng.uniform(4.0, 8.0), rng.uniform(0.2, 0.9)
    logits = []
    for tissue in (grey, white, fluid):
        wobble = fold * smooth_field(rng, (tissue.shape[0], tissue.shape[1]), pixel_mm, fold_mm)
        logits.append(gain * (np.log(np.clip(tissue, 1e-3, 1)) + wobble))
    weights = np.exp(np.stack(logits) - np.max(logits, axis=0))
    weights = (weights / weights.sum(axis=0)).astype(np.float32)
    return weights[0], weights[1], weights[2]


def _shells(
    rng: np.random.Generator, brain: Float32[np.ndarray, "y x"], pixel_mm: float, tissues: Tissues
) -> Float32[np.ndarray, "y x"]:
    """Draw what surrounds the brain, from fluid to skin, as shells of a wobbling distance to a rounded brain."""
    matrix = (brain.shape[0], brain.shape[1])
    rounded = ndimage.gaussian_filter(brain, 5.0 / pixel_mm) > 0.35
    outside = ndimage.distance_transform_edt(~(rounded | (brain > 0.5)), sampling=pixel_mm)
    distance_mm = (outside + 0.8 * smooth_field(rng, matrix, pixel_mm, 25.0)).astype(np.float32)
    widths_mm = rng.uniform((0.5, 1.2, 0.8, 1.0, 2.0, 1.0), (4.0, 2.5, 4.5, 2.0, 7.0, 2.5))
    widths_mm *= rng.uniform(0.85, 1.3)
    values = (tissues.fluid, tissues.bone, tissues.marrow, tissues.bone, tissues.fat, tissues.skin)
    wobble = 1 + 0.35 * np.clip(smooth_field(rng, matrix, pixel_mm, 30.0), -2, 2)
    canvas = np.zeros(matrix, np.float32)
    edges_mm = np.cumsum(widths_mm)
    for width_mm, edge_mm, value in reversed(list(zip(widths_mm, edges_mm, values, strict=True))):
        texture = 1 + rng.uniform(0, 0.12) * smooth_field(rng, matrix, pixel_mm, 6.0)
        reach_mm = (edge_mm - width_mm + width_mm * wobble).astype(np.float32)
        canvas = paint(canvas, step(reach_mm - distance_mm, pixel_mm), value * texture)
    if rng.random() < 0.12:  # a brain whose skull was stripped, as many public data sets hold
        canvas *= step(1.5 - distance_mm, pixel_mm)
    return np.clip(canvas, 0, None).astype(np.float32)


def _lesions_and_vessels(
    rng: np.random.Generator,
    canvas: Float32[np.ndarray, "y x"],
    brain: Float32[np.ndarray, "y x"],
    pixel_mm: float,
) -> Float32[np.ndarray, "y x"]:
    """Put 0 to 4 lesions (radius 1.5 to 12 mm) and 0 to 12 vessels (radius 0.6 to 1.8 mm) into the brain."""
    matrix = (brain.shape[0], brain.shape[1])
    rows, columns = np.nonzero(brain > 0.9)
    if rows.size == 0:
        return canvas
    n_lesions = int(rng.integers(0, 5)) if rng.random() < 0.5 else 0
    sizes_mm = [*np.exp(rng.uniform(np.log(1.5), np.log(12), n_lesions)), *rng.uniform(0.6, 1.8, rng.integers(0, 13))]
    grid = pixel_grid_mm(matrix, pixel_mm)
    bent = warped_grid_mm(rng, matrix, pixel_mm, 1.5) if n_lesions else grid
    for number, size_mm in enumerate(sizes_mm):
        pick = int(rng.integers(rows.size))
        centre = (float(grid[0][rows[pick], 0]), float(grid[1][0, columns[pick]]))
        radii = (float(size_mm), float(size_mm * rng.uniform(0.5, 1.0)))
        mask = ellipse(bent if number < n_lesions else grid, centre, radii, rng.uniform(0, np.pi), pixel_mm)
        canvas = paint(canvas, mask * brain * rng.uniform(0.5, 1.0), rng.uniform(0.02, 1.5))
    return canvas
