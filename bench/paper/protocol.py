"""The paper's protocol on simulated heads: how a slice is scanned, and how its worst case is crafted.

Han et al., On Instabilities of Unsupervised Denoising Diffusion Models in MRI Reconstruction (MICCAI 2024, arXiv
2406.16983): T1 brains, one coil simulated from magnitude images, an equispaced mask with an eighth of the lines, a
32nd of all lines in the centre, and a change of k-space of relative norm eps that moves a supervised network's image
away from its clean one, found by Adam with projection. Where the paper's code counts in its own units, ours are:
Adam's step is a tenth of the radius of the ball, per sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex64
from torch import Tensor

from steadymr.audit.norms import Ball, Budget
from steadymr.recon.noise import complex_normal
from steadymr.recon.operators import fft_centred
from steadymr.recon.problem import Problem, problem_from
from steadymr.simulate.anatomy import draw_brain
from steadymr.simulate.coils import simulate_coils
from steadymr.simulate.masks import centre_lines
from steadymr.simulate.seeds import subject_rng
from steadymr.types import Geometry, KSpace, ScanHeader, Space, VolumeIndex

FOV_MM = 230.0
SIGNAL_TO_NOISE = 100.0  #: 99th percentile of the image over the noise of a sample, per real channel
START_NORM = 1e-4  #: relative, where the ascent starts
STEP_SHARE = 0.1  #: of the radius per sample: Adam's learning rate
LONGEST = 2000  #: steps of Adam, however few projections there were


@dataclass(frozen=True)
class Arm:
    """One way to scan."""

    name: str
    n_coils: int
    acceleration: int
    n_centre_of_256: int

    def lines(self, n: int) -> np.ndarray:
        """The centre, and the rest of n / acceleration lines in equal distances."""
        lines = centre_lines(n, max(round(self.n_centre_of_256 * n / 256), 2))
        n_more = max(round(n / self.acceleration) - int(lines.sum()), 0)
        others = np.flatnonzero(~lines)
        lines[others[np.linspace(0, len(others) - 1, n_more).round().astype(int)]] = True
        return lines


ARMS = (
    Arm("1 coil, R 8", 1, 8, 8),
    Arm("8 coils, R 4", 8, 4, 20),
    Arm("8 coils, R 8", 8, 8, 16),
)


@dataclass(frozen=True, eq=False)
class Case:
    """A scanned slice."""

    problem: Problem
    truth: Complex64[Tensor, "y x"]  #: in the problem's unit
    kspace: KSpace
    pixel_mm: float


def scan(arm: Arm, number: int, n: int) -> Case:
    """Draw one T1 head of the subjects that are kept for tests, and scan it; coil maps are known."""
    rng = subject_rng("test", number)
    pixel_mm = FOV_MM / n
    truth = torch.from_numpy(draw_brain(rng, (n, n), pixel_mm, "t1"))
    maps = torch.from_numpy(simulate_coils(rng, arm.n_coils, (n, n)))
    if arm.n_coils == 1:
        truth, maps = truth.abs().to(torch.complex64), torch.ones_like(maps)
    noise = complex_normal((arm.n_coils, n, n), torch.Generator().manual_seed(number), truth.device)
    full = fft_centred(maps * truth) * SIGNAL_TO_NOISE + noise
    lines = arm.lines(n)
    problem = problem_from(full, maps, torch.from_numpy(lines)[:, None])
    return Case(problem, truth * SIGNAL_TO_NOISE / problem.scale, _as_kspace(full, lines, arm, n, pixel_mm), pixel_mm)


def _as_kspace(full: Tensor, lines: np.ndarray, arm: Arm, n: int, pixel_mm: float) -> KSpace:
    """The same data as perturbations want them."""
    data = full.numpy()[:, None]
    centre = centre_lines(n, max(round(arm.n_centre_of_256 * n / 256), 2))[None]
    space = Space((n, n, 1), (FOV_MM, FOV_MM, 5.0))
    return KSpace(
        data=data * lines[None, None, :, None],
        sampled=lines[None],
        k0_range=(0, n),
        calibration=data * centre[None, :, :, None],
        calibrated=centre,
        noise_covariance=2 * np.eye(arm.n_coils, dtype=np.complex128),
        noise_source="noise scan",
        index=VolumeIndex(),
        geometry=Geometry((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), space.fov_mm_xyz),
        encoded=space,
        header=ScanHeader("", "", "cartesian", space, space, None, None, {}, (arm.acceleration, 1)),
    )


def adam_worst_case(
    problem: Problem,
    surrogate: Callable[[Tensor], Tensor],
    eps: float,
    n_projections: int,
    generator: torch.Generator,
) -> Complex64[Tensor, "coil y x"]:
    """Maximise the mean squared distance from the clean image; the worst iterate is kept."""
    ball = Ball.around((problem,), Budget(eps))
    size = torch.linalg.vector_norm(problem.kspace)
    n_samples = int(problem.sense.mask.sum()) * problem.kspace.shape[-1] * problem.kspace.shape[0]
    start = ball.draw(problem.kspace.shape[0], generator)
    with torch.no_grad():
        clean = surrogate(problem.kspace[None])
    z = (start * START_NORM / eps).requires_grad_()
    adam = torch.optim.Adam([z], lr=STEP_SHARE * eps * float(size) / n_samples**0.5)
    worst, highest, projections = z.detach().clone(), -1.0, 0
    for _ in range(LONGEST):
        loss = (surrogate(problem.kspace + z) - clean).abs().square().mean()
        if float(loss.detach()) > highest:
            worst, highest = z.detach().clone(), float(loss.detach())
        if projections >= n_projections:
            break
        adam.zero_grad()
        (-loss).backward()
        adam.step()
        with torch.no_grad():
            projections += bool(torch.linalg.vector_norm(z * ball.acquired) > ball.radius)
            z.copy_(ball.project(z))
    return worst[0]


def epsilons(quick: bool) -> Sequence[float]:
    """Relative norms: the paper's, or a few of them."""
    return (0.01, 0.03, 0.08) if quick else tuple(percent / 100 for percent in range(1, 9))
