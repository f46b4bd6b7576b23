"""The worst slices as pictures: truth, images and errors side by side."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import torch

mpl.use("Agg")
import matplotlib.pyplot as plt


def draw(path: Path, title: str, truth: torch.Tensor, images: dict[str, torch.Tensor]) -> None:
    """Magnitudes on one grey scale, errors five times enhanced below."""
    figure, axes = plt.subplots(2, len(images) + 1, figsize=(2.6 * (len(images) + 1), 5.6), squeeze=False)
    top = float(truth.abs().max())
    axes[0, 0].imshow(truth.abs().numpy(), cmap="gray", vmin=0, vmax=top)
    axes[0, 0].set_title("truth")
    for column, (name, image) in enumerate(images.items(), start=1):
        axes[0, column].imshow(image.abs().numpy(), cmap="gray", vmin=0, vmax=top)
        axes[0, column].set_title(name, fontsize=8)
        axes[1, column].imshow((image.abs() - truth.abs()).abs().numpy(), cmap="magma", vmin=0, vmax=top / 5)
    for axis in axes.flat:
        axis.axis("off")
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
