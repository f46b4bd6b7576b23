"""What a network does to held-out slices, as a picture for the eye beside the figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from steadymr.errors import OutputError


def write_pictures(rows: Sequence[Sequence[Float[np.ndarray, "y x"]]], titles: Sequence[str], path: Path) -> Path:
    """Write magnitudes as a PNG, one slice a row, all of a row in the grey scale of its last, the truth; return path.

    Raises:
        OutputError: the file could not be written.
    """
    from matplotlib.figure import Figure  # takes a second to import, only needed here

    figure = Figure(figsize=(2.2 * len(titles), 2.2 * len(rows) + 0.3), layout="constrained")
    for axes_of_row, row in zip(figure.subplots(len(rows), len(titles), squeeze=False), rows, strict=True):
        for axes, image in zip(axes_of_row, row, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=max(float(np.max(row[-1])), 1e-6))
            axes.set_axis_off()
    for axes, title in zip(figure.axes, titles, strict=False):
        axes.set_title(title, fontsize=9)
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error}") from error
    return path
