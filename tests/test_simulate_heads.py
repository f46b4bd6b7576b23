"""Slices through a measured head: the volume's own where nothing is bent, another subject's where it is."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage
from torch import nn

from steadymr.errors import SettingsError
from steadymr.simulate.anatomy import draw_measured
from steadymr.simulate.heads import AIR, Head, load_head, slice_head
from steadymr.simulate.planes import Cut, bent_plane_mm
from steadymr.simulate.seeds import subject_rng
from steadymr.train.card import write_card
from steadymr.train.data import BankSettings, prepare_bank
from steadymr.train.sources import DataSettings

BANK = BankSettings(n_slices=6, n_validation=3, matrix=32, pixel_mm_range=(6.0, 6.0))


def ball(path: Path, voxel_mm: float = 2.0, flipped: bool = False, n: int = 96) -> Path:
    """Write a head that is a ball of 80 mm with a bright core on its right, as scanners file it or mirrored."""
    i, j, k = (np.indices((n, n, n)) - (n - 1) / 2) * voxel_mm
    volume = 100.0 * (i**2 + j**2 + k**2 < 80**2) + 60.0 * ((i - 40) ** 2 + j**2 + k**2 < 15**2)
    sign = -1 if flipped else 1
    affine = np.diag([sign * voxel_mm, voxel_mm, voxel_mm, 1.0])
    nibabel.save(nibabel.Nifti1Image(volume[::sign].astype(np.int16), affine), path)
    return path


@pytest.mark.parametrize("flipped", [False, True], ids=["to the right", "to the left"])
def test_a_head_is_read_in_the_same_directions_however_it_is_stored(flipped: bool, tmp_path: Path) -> None:
    head = load_head(ball(tmp_path / "head.nii.gz", flipped=flipped))
    assert head.voxel_mm == (2.0, 2.0, 2.0)
    vertex = 47.5 + 80 / 2
    assert head.centre == pytest.approx((47.5, 47.5, vertex - 92 / 2), abs=2.5)
    row = slice_along_x(head)
    assert row[40 + 20] > 1.1 > row[40 - 20] > 0.4  # the core lies to the right


def store(volume: np.ndarray, path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)


def slice_along_x(head: Head) -> np.ndarray:
    index = np.stack([np.arange(7.5, 88.5), np.full(81, 47.5), np.full(81, 47.5)])
    return np.asarray(ndimage.map_coordinates(head.coefficients, index, order=3, prefilter=False))


def test_a_slice_lies_where_the_plane_says(tmp_path: Path) -> None:
    place = bent_plane_mm(subject_rng("demo", 0), (40, 40), 4.0, Cut("axial", 0.0))
    assert np.abs(place[2].mean()) < 15  # tilted and bent, but at the height that was asked
    assert place[0, 20, 39] > place[0, 20, 0] + 100  # x runs to the right
    assert place[1, 0, 20] > place[1, 39, 20] + 100  # y runs backwards, the face at the top


def test_each_slice_is_another_subject_and_the_same_seed_the_same(tmp_path: Path) -> None:
    head = load_head(ball(tmp_path / "head.nii.gz"))
    first, again, other = (draw_measured(subject_rng("train", n), (32, 32), 6.0, head) for n in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.abs(np.abs(first) - np.abs(other)).max() > 0.2
    assert np.percentile(np.abs(first), 99) == pytest.approx(1, abs=1e-3)
    assert np.abs(np.angle(first[np.abs(first) > 0.5])).max() > 0


def test_air_stays_black(tmp_path: Path) -> None:
    i, j, k = np.indices((96, 96, 96)) * 2.0 - 95
    inside = i**2 + j**2 + k**2 < 80**2
    noise = np.random.default_rng(0).uniform(0, 0.8 * AIR * 100, inside.shape)
    nibabel.save(nibabel.Nifti1Image(np.where(inside, 100.0, noise), np.diag([2.0, 2, 2, 1])), tmp_path / "noisy.nii")
    drawn = slice_head(np.random.default_rng(0), (64, 64), 4.0, load_head(tmp_path / "noisy.nii"))
    assert drawn[0].max() < 0.01 < 0.1 < drawn[32, 32]


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: path.write_bytes(b"no volume"), "should be a volume of a head in NIfTI"),
        (lambda path: store(np.zeros((4, 4, 4)), path), "one volume with signal"),
        (lambda path: store(np.ones((4, 4, 4, 2)), path), "one volume"),
        (lambda path: ball(path, 5.0, n=40), "5.0 mm; to draw slices from it takes 2 mm"),
        (lambda path: None, "should be a volume of a head in NIfTI"),
    ],
    ids=["text", "empty", "several volumes", "coarse", "missing"],
)  # fmt: skip
def test_what_is_no_head_gets_one_sentence(write: object, words: str, tmp_path: Path) -> None:
    write(tmp_path / "bad.nii")  # type: ignore[operator]
    with pytest.raises(SettingsError, match=words):
        load_head(tmp_path / "bad.nii")


def test_heads_are_trained_on_and_never_validated_on(tmp_path: Path) -> None:
    data = DataSettings(heads=(ball(tmp_path / "head.nii.gz"),), heads_share=1.0)
    plain = {purpose: prepare_bank(BANK, purpose, tmp_path / "plain") for purpose in ("train", "validation")}
    mixed = {purpose: prepare_bank(BANK, purpose, tmp_path / "mixed", data=data) for purpose in ("train", "validation")}
    assert np.array_equal(plain["validation"], mixed["validation"])
    assert not np.array_equal(plain["train"], mixed["train"])


def test_a_bank_is_drawn_anew_when_the_head_is_another(tmp_path: Path) -> None:
    def bank(voxel_mm: float) -> np.ndarray:
        data = DataSettings(heads=(ball(tmp_path / f"{voxel_mm}.nii", voxel_mm),), heads_share=1.0)
        return np.asarray(prepare_bank(BANK, "train", tmp_path / "bank", data=data))

    first, other = bank(2.0), bank(1.8)
    assert not np.array_equal(first, other)
    assert np.array_equal(first, bank(2.0))


def test_a_missing_head_is_named(tmp_path: Path) -> None:
    data = DataSettings(heads=(tmp_path / "absent.nii",))
    with pytest.raises(SettingsError, match=r"absent\.nii"):
        prepare_bank(BANK, "train", tmp_path / "bank", data=data)


def test_heads_belong_to_the_simulation() -> None:
    with pytest.raises(ValueError, match="heads belong to the simulation"):
        DataSettings(source="fastmri", folder=Path("scans"), heads=(Path("head.nii"),))


def test_the_card_says_that_persons_were_seen(tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes(b"weights")
    arguments = (tmp_path / "net.safetensors", nn.Linear(1, 1), BANK)
    text = write_card(*arguments, DataSettings(heads=(Path("head.nii"),)), BANK, {}, ()).read_text()
    assert "50% of the slices" in text
    assert "head.nii" in text
    assert "| licence | for the owner" in text
    assert "No image of a person" not in text
    assert "No image of a person" in write_card(*arguments, DataSettings(), BANK, {}, ()).read_text()
