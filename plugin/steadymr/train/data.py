"""A bank of slices, drawn or read once and kept on disk, and the random crops that training takes from it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Complex64, Float16, Float32
from pydantic import BaseModel, ConfigDict, Field

from steadymr.errors import OutputError, SettingsError
from steadymr.simulate.anatomy import draw_measured, draw_mixed
from steadymr.simulate.heads import load_head
from steadymr.simulate.seeds import Purpose, subject_rng
from steadymr.train.sources import DataSettings, files_of, read_images, recipe_of, recipe_of_heads

logger = logging.getLogger(__name__)

#: Goes up whenever the same numbers would draw other slices, so that an old bank is not taken for a new one.
BANK_VERSION: Final = 1


class BankSettings(BaseModel):
    """How many slices, how large, how fine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_slices: int = Field(1600, gt=0, description="Slices to train on.")
    n_validation: int = Field(48, gt=0, description="Slices that figures are computed on.")
    matrix: int = Field(160, ge=16, description="Pixels a side of a slice; crops are taken from it.")
    pixel_mm_range: tuple[float, float] = Field((1.0, 2.2), description="Pixel sizes, drawn evenly on a log scale.")


def draw_slice(
    purpose: Purpose, number: int, settings: BankSettings, data: DataSettings | None = None
) -> Complex64[np.ndarray, "y x"]:
    """Draw the slice of one subject with a random pixel size.

    Measured heads serve training alone: bent copies of the same persons would say nothing in validation.
    """
    rng = subject_rng(purpose, number)
    matrix = (settings.matrix, settings.matrix)
    pixel_mm = float(np.exp(rng.uniform(*np.log(settings.pixel_mm_range))))
    if data is not None and data.heads and purpose == "train" and rng.random() < data.heads_share:
        return draw_measured(rng, matrix, pixel_mm, load_head(data.heads[int(rng.integers(len(data.heads)))]))
    return draw_mixed(rng, matrix, pixel_mm)


def prepare_bank(
    settings: BankSettings, purpose: Purpose, folder: Path, n_workers: int = 1, data: DataSettings | None = None
) -> Float16[np.ndarray, "slice 2 y x"]:
    """Return the bank of one purpose, read from ``folder`` if it was made with the same settings, else made now.

    Raises:
        SettingsError: the folder of a site's own data holds nothing that can be used.
        OutputError: the bank could not be written.
    """
    n_slices = settings.n_slices if purpose == "train" else settings.n_validation
    recipe = {"version": BANK_VERSION, "purpose": purpose, "n_slices": n_slices, **settings.model_dump(mode="json")}
    if data is None or data.source == "simulation":
        data = data or DataSettings()
        recipe |= recipe_of_heads(data, purpose)
        path = folder / f"bank_{purpose}.npy"
        return stored(path, recipe, lambda: _drawn(data, settings, purpose, n_slices, n_workers))
    recipe |= recipe_of(data, purpose)
    return stored(folder / f"bank_{purpose}.npy", recipe, lambda: _read(data, settings, purpose, n_slices, n_workers))


def _drawn(
    data: DataSettings, settings: BankSettings, purpose: Purpose, n_slices: int, n_workers: int
) -> Float16[np.ndarray, "slice 2 y x"]:
    logger.info("drawing %d slices for %s", n_slices, purpose)
    parts = [range(start, min(start + 50, n_slices)) for start in range(0, n_slices, 50)]
    n = len(parts)
    return np.concatenate(_map(_draw_part, n_workers, [purpose] * n, parts, [settings] * n, [data] * n))


def _draw_part(
    purpose: Purpose, numbers: range, settings: BankSettings, data: DataSettings
) -> Float16[np.ndarray, "slice 2 y x"]:
    return _as_channels([draw_slice(purpose, number, settings, data) for number in numbers])


def _read(
    data: DataSettings, settings: BankSettings, purpose: Purpose, n_slices: int, n_workers: int
) -> Float16[np.ndarray, "slice 2 y x"]:
    """Read a site's own scans, about as many slices from each file."""
    files = files_of(data, purpose)
    logger.info("reading %d files for %s", len(files), purpose)
    n = len(files)
    n_each, matrix, sizes = -(-n_slices // n), settings.matrix, settings.pixel_mm_range
    parts = _map(read_images, n_workers, [data] * n, files, [n_each] * n, [matrix] * n, [sizes] * n)
    images = [image for part in parts for image in part][:n_slices]
    if not images:
        raise SettingsError(f"none of the {n} files in {data.folder} for {purpose} can be used: see the log")
    return _as_channels(images)


def _as_channels(images: Sequence[Complex64[np.ndarray, "y x"]]) -> Float16[np.ndarray, "slice 2 y x"]:
    stacked = np.stack(images)
    return np.stack([stacked.real, stacked.imag], axis=1).astype(np.float16)


def _map(function: Callable[..., Any], n_workers: int, *arguments: Sequence[Any]) -> list[Any]:
    """Apply a function to each set of arguments, in processes if there are several workers."""
    if n_workers == 1:
        return list(map(function, *arguments))
    with ProcessPoolExecutor(n_workers, mp_context=get_context("spawn")) as pool:  # torch's threads survive no fork
        return list(pool.map(function, *arguments))


def stored(path: Path, recipe: dict[str, Any], make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array of a file that was made by the same recipe, else make it and store it with its recipe.

    Raises:
        OutputError: the file could not be written.
    """
    recipe_path = path.with_suffix(".json")
    if recipe_path.exists() and json.loads(recipe_path.read_text()) == recipe:
        kept: np.ndarray = np.load(path, allow_pickle=False)
        return kept
    array = make()
    partial_path = path.with_suffix(".part.npy")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(partial_path, array)
        os.replace(partial_path, path)
        recipe_path.write_text(json.dumps(recipe))
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error.strerror}") from error
    return array


def random_crops(
    bank: Float16[np.ndarray, "slice channel y x"],
    rng: np.random.Generator,
    n_crops: int,
    size: tuple[int, int],
    transpose: bool = True,
) -> Float32[np.ndarray, "crop channel {size[0]} {size[1]}"]:
    """Return crops of random slices: flipped, transposed, cut, turned in phase, and scaled by about 25 per cent.

    Channels are pairs of real and imaginary part; all pairs of a slice are treated alike.
    """
    crops = np.empty((n_crops, bank.shape[1], *size), np.float32)
    for crop, number in zip(crops, rng.integers(len(bank), size=n_crops), strict=True):
        crop[:] = _cut(_flip(bank[number], rng, transpose), rng, size)
        angle_rad, scale = rng.uniform(0, 2 * np.pi), np.exp(rng.normal(0, 0.25))
        turned = (crop[0::2] + 1j * crop[1::2]) * (scale * np.exp(1j * angle_rad))
        crop[0::2], crop[1::2] = turned.real, turned.imag
    return crops


def _flip(
    slice_: Float16[np.ndarray, "channel y x"], rng: np.random.Generator, transpose: bool
) -> Float16[np.ndarray, "channel y2 x2"]:
    flips = rng.random(3) < 0.5
    slice_ = slice_.swapaxes(1, 2) if flips[0] and transpose else slice_
    slice_ = slice_[:, ::-1] if flips[1] else slice_
    return slice_[:, :, ::-1] if flips[2] else slice_


def _cut(
    slice_: Float16[np.ndarray, "channel y x"], rng: np.random.Generator, size: tuple[int, int]
) -> Float16[np.ndarray, "channel cut_y cut_x"]:
    """Cut a window that leans towards the middle, where the anatomy is; beyond the slice lies air."""
    starts = []
    for available, wanted in zip(slice_.shape[1:], size, strict=True):
        slack = available - wanted
        starts.append(int(np.rint(slack * np.clip(rng.normal(0.5, 0.25), 0, 1))) if slack > 0 else 0)
    window = slice_[:, starts[0] : starts[0] + size[0], starts[1] : starts[1] + size[1]]
    short = [(0, wanted - got) for wanted, got in zip(size, window.shape[1:], strict=True)]
    return np.pad(window, ((0, 0), *short)) if any(after for _, after in short) else window
