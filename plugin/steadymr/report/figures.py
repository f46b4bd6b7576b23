"""Pictures: one plane as a small PNG in grey or in colours, and an overview of methods side by side.

Grey values are linear from 0 to ``white``, so that pictures of one window can be compared. In maps, what was not
judged (NaN) is slate grey: it must not look like the dark end of the colours, which means agreement.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image as Picture

from steadymr.report.summary import judgement
from steadymr.types import SliceResult

NOT_JUDGED_RGB = (58, 66, 76)
SPREAD_COLOURS = "inferno"
ERROR_COLOURS = "viridis"


def central_plane(volume: Float32[np.ndarray, "z y x"]) -> Float32[np.ndarray, "y x"]:
    """Return the plane in the middle of z, the only one of a 2-D scan."""
    plane: np.ndarray = volume[volume.shape[0] // 2]
    return plane


def white_level(plane: Float32[np.ndarray, "y x"]) -> float | None:
    """Return the magnitude to show as white, the 99.5th percentile; None if the plane holds no signal."""
    finite = plane[np.isfinite(plane)]
    level = float(np.percentile(finite, 99.5)) if finite.size else 0.0
    return level if level > 0 else None


def shown_size(shape: tuple[int, ...], fov_mm_xy: tuple[float, float], longest_px: int) -> tuple[int, int]:
    """Return width and height of the picture: square pixels, at most ``longest_px``, never enlarged needlessly."""
    n_y, n_x = shape
    pixel_mm = fov_mm_xy[0] / n_x, fov_mm_xy[1] / n_y
    width, height = (n * mm / min(pixel_mm) for n, mm in zip((n_x, n_y), pixel_mm, strict=True))
    shrink = min(1.0, longest_px / max(width, height))
    return max(1, round(width * shrink)), max(1, round(height * shrink))


def grey_png(plane: Float32[np.ndarray, "y x"], white: float, size: tuple[int, int]) -> bytes:
    """Return the plane as a grey PNG; values that are not finite are black, so say elsewhere that there are some."""
    resized = _resize(np.nan_to_num(plane, nan=0.0, posinf=0.0, neginf=0.0), size)
    return _png(Picture.fromarray(np.clip(np.rint(resized * (255 / white)), 0, 255).astype(np.uint8)))


def map_png(
    plane: Float32[np.ndarray, "y x"], maximum: float, palette: UInt8[np.ndarray, "256 3"], size: tuple[int, int]
) -> bytes:
    """Return a map from 0 to ``maximum`` as a PNG with a palette, whose entry 0 stands for NaN.

    When the picture is smaller than the map, each of its pixels is the mean over what was judged there.
    """
    judged = np.isfinite(plane)
    weight = _resize(judged.astype(np.float32), size)
    mean = _resize(np.where(judged, plane, 0).astype(np.float32), size) / np.maximum(weight, 1e-6)
    level = np.clip(np.rint(mean * (254 / maximum)), 0, 254) + 1
    picture = Picture.fromarray(np.where(weight >= 0.5, level, 0).astype(np.uint8))
    picture.putpalette(palette.tobytes())
    return _png(picture)


def map_palette(name: str) -> UInt8[np.ndarray, "256 3"]:
    """Return the colours of a map: entry 0 for what was not judged, then 255 steps of matplotlib's ``name``."""
    from matplotlib import colormaps  # slow to import, and only a run that writes a report needs it

    colours = colormaps[name](np.linspace(0, 1, 255), bytes=True)[:, :3]
    return np.vstack([np.array([NOT_JUDGED_RGB], np.uint8), colours])


def data_uri(png: bytes) -> str:
    """Return the PNG as an address that needs no second file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def error_percent(
    image: Float32[np.ndarray, "z y x"], reference: Float32[np.ndarray, "z y x"], white: float
) -> Float32[np.ndarray, "z y x"]:
    """Return the absolute difference to the reference in per cent of the magnitude shown as white."""
    percent: np.ndarray = np.abs(image - reference) * np.float32(100 / white)
    return percent


def overview_png(results: Sequence[SliceResult], *, map_max_percent: float = 20.0, dots_per_inch: int = 110) -> bytes:
    """Return one picture of a volume: a row for each method with its image, stability map and true error.

    All rows share one grey window, taken from the reference where there is one; without any reference the error
    column is left out.

    Raises:
        ValueError: no results.
    """
    if not results:
        raise ValueError("expected at least one result to draw, got none")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_columns = 3 if any(result.reference is not None for result in results) else 2
    figure = Figure(figsize=(3.3 * n_columns, 3.0 * len(results)), dpi=dots_per_inch, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(results), n_columns, squeeze=False)
    white = _shared_white(results)
    for row, result in zip(axes, results, strict=True):
        _draw_row(figure, row, result, white, map_max_percent)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()


def overview_title(result: SliceResult) -> str:
    """Return method, verdict and score, and whether the image was perturbed on purpose."""
    judged = judgement(result.stability)
    without = "not calibrated" if judged["verdict"] == "uncalibrated" else "not scored"
    verdict = without if judged["score"] is None else f"{judged['verdict']}, score {judged['score']:.2f}"
    return f"{result.image.method}: {verdict}" + ("\nPERTURBED ON PURPOSE" if result.image.perturbations else "")


def _draw_row(figure: Any, row: Any, result: SliceResult, white: float, map_max_percent: float) -> None:
    _draw(row[0], central_plane(result.image.data), "gray", white, result, overview_title(result))
    maps = [(result.stability.spread_percent, SPREAD_COLOURS, "spread, % of local tissue signal")]
    if result.reference is not None:
        error = error_percent(result.image.data, result.reference, white)
        maps.append((error, ERROR_COLOURS, "true error, % of white"))
    for axis, (volume, colours, title) in zip(row[1:], maps, strict=False):
        drawn = _draw(axis, central_plane(volume), colours, map_max_percent, result, title)
        if not np.isfinite(central_plane(volume)).any():
            axis.text(0.5, 0.5, "not judged", color="white", ha="center", va="center", transform=axis.transAxes)
        figure.colorbar(drawn, ax=axis, shrink=0.8, extend="max")
    for axis in row[1 + len(maps) :]:
        axis.set_axis_off()


def _draw(
    axis: Any, plane: Float32[np.ndarray, "y x"], colours: str, maximum: float, result: SliceResult, title: str
) -> Any:
    from matplotlib import colormaps

    fov_x_mm, fov_y_mm, _ = result.image.geometry.fov_mm_xyz
    colour_map = colormaps[colours].with_extremes(bad=[channel / 255 for channel in NOT_JUDGED_RGB])
    axis.set_title(title, fontsize=9)
    axis.set_axis_off()
    return axis.imshow(plane, cmap=colour_map, vmin=0, vmax=maximum, extent=(0, fov_x_mm, fov_y_mm, 0))


def _shared_white(results: Sequence[SliceResult]) -> float:
    references = [result.reference for result in results if result.reference is not None]
    for volume in [*references, *(result.image.data for result in results)]:
        level = white_level(central_plane(volume))
        if level is not None:
            return level
    return 1.0


def _resize(plane: Float[np.ndarray, "y x"], size: tuple[int, int]) -> Float32[np.ndarray, "height width"]:
    """Average when shrinking, interpolate when stretching pixels to squares; the same size is left alone."""
    if size == (plane.shape[1], plane.shape[0]):
        return plane.astype(np.float32)
    picture = Picture.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.array(picture.resize(size, Picture.Resampling.BILINEAR), dtype=np.float32)


def _png(picture: Picture.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
