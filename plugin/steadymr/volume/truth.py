"""What full sampling would have shown, where that is known, and how far an image is from it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from steadymr.perturb.catalogue import PERTURBATIONS, repeated
from steadymr.recon import methods
from steadymr.stability.metrics import compare_with_truth, tissue_mask
from steadymr.stability.registration import register_to
from steadymr.types import Image, KSpace, TruthReport
from steadymr.volume.planes import Plane, Run


def distorted_like(full: KSpace | None, perturbed: KSpace) -> KSpace | None:
    """The full scan after those injected imperfections that distort the object alike in every line.

    Full sampling would have shown the same distortion, so that an image which shows it is not wrong.
    """
    distorting = {name for name, kind in PERTURBATIONS.items() if kind.distorts}  # a worst case is not among them
    for record in perturbed.perturbations:
        if full is not None and record.name in distorting:
            full = repeated(full, record)
    return full


def reference_of(plane: Plane, full: KSpace | None, run: Run) -> Float32[np.ndarray, "z=1 y x"] | None:
    """The same plane from the full scan, combined with the coil maps of the scan that is judged."""
    if full is None:
        return None
    with run.watch("reference"):
        return plane.on_recon_grid(methods.fully_sampled(full, plane.problem))


def in_its_place(reference: Float32[np.ndarray, "z=1 y x"], image: Image) -> Float32[np.ndarray, "z=1 y x"]:
    """The reference where the image shows the object: being elsewhere is no error.

    It stays as it is, unless an imperfection that moves the object was injected; then it is registered to the image.
    One that only distorts the object does so to the full scan as well, see `distorted_like`.
    """
    movers = {name for name, kind in PERTURBATIONS.items() if kind.moves_object and not kind.distorts}
    moved_by = [record for record in image.perturbations if record.name in movers]
    if not moved_by:
        return reference
    turn_deg = max(abs(record.parameters.get("rotation_deg", 0.0)) for record in moved_by)
    return register_to(image.data[0], reference[0], max_rotation_deg=turn_deg).image[None]


def compare(image: Image, reference: Float32[np.ndarray, "z=1 y x"]) -> TruthReport | None:
    """How far the image is from a reference that shows the object in the same place; None if that shows no tissue."""
    mask = tissue_mask(reference[0])
    return compare_with_truth(image.data[0], reference[0], mask) if mask.any() else None
