"""Where targeted worst cases draw or erase, and how much of it an image shows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from steadymr.audit.aim import Aim, region
from steadymr.audit.attacks import Attack, Structure, described
from steadymr.errors import PerturbationError

N = 48
PIXEL_MM = (2.0, 1.0)  # along y and x
Y, X = np.ogrid[:N, :N]


def disc(y: float, x: float, radius_mm: float) -> np.ndarray:
    return np.asarray(np.hypot((Y - y) * PIXEL_MM[0], (X - x) * PIXEL_MM[1]) <= radius_mm)


TISSUE = disc(24, 24, 22)


def test_a_named_centre_is_counted_from_the_middle_in_millimetres() -> None:
    attack = Attack("unet", "draw", structure=Structure(diameter_mm=8, centre_mm_xy=(5.0, -6.0)))
    found = region(attack, np.ones((N, N), np.float32), TISSUE, PIXEL_MM)
    assert ndimage.center_of_mass(found) == pytest.approx((24 - 3, 24 + 5))
    assert np.array_equal(found, disc(21, 29, 4))


def test_what_stands_out_most_is_erased() -> None:
    image = (1 + 0.2 * disc(20, 18, 3) + 0.5 * disc(26, 30, 3)).astype(np.float32)
    found = region(Attack("unet", "erase"), image, TISSUE, PIXEL_MM)
    assert ndimage.center_of_mass(found) == pytest.approx((26, 30), abs=1)


def test_a_structure_is_drawn_where_the_image_is_flattest() -> None:
    noise = np.random.default_rng(0).standard_normal((N, N))
    image = (1 + 0.1 * noise * (X < 26)).astype(np.float32)
    found = region(Attack("unet", "draw"), image, TISSUE, PIXEL_MM)
    assert not np.any(found[:, :26])
    assert np.all(TISSUE[found])


def test_a_structure_larger_than_the_tissue_is_refused() -> None:
    attack = Attack("unet", "draw", structure=Structure(diameter_mm=60))
    with pytest.raises(PerturbationError, match="fits nowhere into the tissue"):
        region(attack, np.ones((N, N), np.float32), TISSUE, PIXEL_MM)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_what_is_shown_is_the_share_of_the_contrast_drawn(share: float) -> None:
    where = disc(24, 24, 4)
    clean = np.full((N, N), 7.0, np.float32)
    image = (clean + share * 0.3 * 20 * where).astype(np.float32)
    assert Aim(where, 0.3, scale=20.0).shown(image, clean) == pytest.approx(share, abs=1e-6)


def test_what_is_erased_is_shown_to_be_as_its_surroundings() -> None:
    where = disc(24, 24, 4)
    clean = (5.0 + 2.0 * where).astype(np.float32)
    aim = Aim(where, None, scale=1.0)
    assert aim.shown(np.full((N, N), 5.0, np.float32), clean) == pytest.approx(1.0)
    assert aim.shown(clean, clean) == 0.0
    assert aim.shown(clean, np.full((N, N), 5.0, np.float32)) is None


def test_attacks_are_told_apart_by_what_is_not_plain() -> None:
    assert Attack("varnet").title == "varnet"
    assert Attack("varnet", "truth", "coil").title == "varnet, truth, norm coil"
    assert Attack("unet", "draw").title == described("unet", "draw", "scan", "6 mm") == "unet, draw 6 mm"
