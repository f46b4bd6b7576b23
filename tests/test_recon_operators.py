from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from laws import assert_adjoint, assert_close
from scanner import coil_maps, line_mask

from steadymr.assemble import assemble
from steadymr.errors import ReconError
from steadymr.recon.operators import ColumnSolver, Sense, cg_sense, conjugate_gradient, fft_centred, ifft_centred
from steadymr.recon.problem import prepare
from steadymr.simulate.scan import simulate_scan
from steadymr.source.replay import open_scan

SHAPES = [(16, 16), (15, 18), (18, 15), (7, 9)]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def sense_by_lines(n_y: int = 18, n_x: int = 15) -> Sense:
    maps = coil_maps(4, n_y, n_x)
    maps[:, :4] = 0  # a hole, as outside ESPIRiT's support
    return Sense(maps, line_mask(n_y, 3, 4))


def sense_by_samples(n_y: int = 18, n_x: int = 15) -> Sense:
    return Sense(coil_maps(4, n_y, n_x), line_mask(n_y, 3, 4) & (torch.arange(n_x) > 3))


@pytest.mark.parametrize("shape", SHAPES)
def test_zero_frequency_and_the_centre_of_the_image_sit_at_half_the_size(shape):
    kspace = fft_centred(torch.ones(shape, dtype=torch.complex64))
    assert kspace[shape[0] // 2, shape[1] // 2].real == pytest.approx(np.sqrt(np.prod(shape)))
    point = torch.zeros(shape, dtype=torch.complex64)
    point[shape[0] // 2, shape[1] // 2] = 1
    assert_close(fft_centred(point), torch.full(shape, np.prod(shape) ** -0.5 + 0j).to(torch.complex64))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_inverse_transform_undoes_the_transform_and_is_its_adjoint(shape):
    image, kspace = noise(*shape), noise(*shape, seed=1)
    assert_close(ifft_centred(fft_centred(image)), image)
    assert_adjoint(fft_centred, ifft_centred, image, kspace)


@pytest.mark.parametrize("sense", [sense_by_lines(), sense_by_samples()])
def test_the_encoding_has_its_adjoint_and_their_product(sense):
    image, kspace = noise(3, 18, 15), noise(3, 4, 18, 15, seed=1)
    assert_adjoint(sense.forward, sense.adjoint, image, kspace)
    assert_close(sense.normal(image), sense.adjoint(sense.forward(image)))


def test_conjugate_gradients_solve_any_small_system_each_sample_alone():
    root = noise(6, 6)
    matrix = root @ root.mH + torch.eye(6)
    rhs = noise(5, 6, 1, seed=1)
    rhs[0] = 0
    solution = conjugate_gradient(lambda x: matrix @ x, rhs, torch.zeros_like(rhs), 12, tolerance=1e-6)
    assert_close(matrix @ solution, rhs, rtol=1e-3, atol=1e-3)


def test_a_sample_within_tolerance_is_left_alone():
    rhs = noise(2, 4, 4)
    start = torch.stack([rhs[0], torch.zeros(4, 4)])
    solution = conjugate_gradient(lambda x: x, rhs, start, 5, tolerance=1e-3)
    assert torch.equal(solution[0], rhs[0])
    assert_close(solution[1], rhs[1])


def test_columns_solve_what_conjugate_gradients_solve():
    sense, rhs = sense_by_lines(), noise(3, 18, 15)
    weight = torch.tensor([100.0, 200.0, 400.0])
    exact = ColumnSolver.of(sense).solve(rhs, weight, 5.0)
    assert_close(weight[:, None, None] * sense.normal(exact) + 5.0 * exact, rhs, rtol=1e-3, atol=1e-3)


def test_the_inverse_square_root_applied_twice_is_the_solution():
    solver, rhs = sense_by_lines().columns, noise(2, 18, 15)
    twice = solver.inverse_sqrt(solver.inverse_sqrt(rhs, 50.0, 2.0), 50.0, 2.0)
    assert_close(twice, solver.solve(rhs, 50.0, 2.0), rtol=1e-4, atol=1e-5)


def test_columns_are_refused_where_the_readout_has_gaps():
    with pytest.raises(ValueError, match="readout"):
        ColumnSolver.of(sense_by_samples())


@pytest.mark.parametrize("sense", [sense_by_lines(), sense_by_samples()])
def test_cg_sense_finds_the_image_where_coils_see_and_nothing_elsewhere(sense):
    support = (sense.maps != 0).any(0)
    image = torch.outer(torch.hann_window(18), torch.hann_window(15)) * support
    found = cg_sense(sense, sense.forward(image.to(torch.complex64)), regularisation=1e-4, n_iterations=60)
    assert (found - image).norm() < 0.05 * image.norm()
    assert not found[~support].any()


def fails_in(*dtypes: torch.dtype):
    """LAPACK's eigh, but for giving up in some precisions."""
    eigh = torch.linalg.eigh

    def maybe(matrices: torch.Tensor) -> object:
        if matrices.dtype in dtypes:
            raise torch.linalg.LinAlgError("did not converge")
        return eigh(matrices)

    return maybe


def test_where_single_precision_does_not_converge_double_does(monkeypatch: pytest.MonkeyPatch) -> None:
    sense = Sense(coil_maps(4, 16, 12), line_mask(16, 4, 4))
    expected = ColumnSolver.of(sense).eigenvalues
    monkeypatch.setattr(torch.linalg, "eigh", fails_in(torch.complex64))
    found = ColumnSolver.of(sense)
    assert found.eigenvectors.dtype == torch.complex64
    assert_close(found.eigenvalues, expected)


def test_where_single_precision_answers_with_nan_double_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    sense, eigh = Sense(coil_maps(4, 16, 12), line_mask(16, 4, 4)), torch.linalg.eigh
    expected = ColumnSolver.of(sense).eigenvalues

    def silent(matrices: torch.Tensor) -> object:
        values, vectors = eigh(matrices)
        return (values * torch.nan if matrices.dtype == torch.complex64 else values), vectors

    monkeypatch.setattr(torch.linalg, "eigh", silent)
    assert_close(ColumnSolver.of(sense).eigenvalues, expected)


def test_where_nothing_converges_the_coil_maps_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.linalg, "eigh", fails_in(torch.complex64, torch.complex128))
    with pytest.raises(ReconError, match="coil maps"):
        ColumnSolver.of(Sense(coil_maps(4, 16, 12), line_mask(16, 4, 4)))


def test_columns_partly_outside_the_support_are_solved(tmp_path: Path) -> None:
    """A simulated head whose equations LAPACK gave up on in single precision."""
    simulate_scan(
        tmp_path / "scan.h5", seed=2, purpose="test", acceleration=4, n_calibration=20, signal_to_noise=25.0,
        contrast=None, matrix=(112, 112), pixel_mm=2.0,
    )  # fmt: skip
    with open_scan(tmp_path / "scan.h5") as scan:
        (kspace,) = assemble(scan.readouts(), scan.header)
    (problem,) = prepare(kspace)
    image = torch.randn(1, 112, 112, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    sense = problem.supported
    rhs = sense.normal(image) + 0.01 * image
    assert_close(sense.columns.solve(rhs, 1.0, 0.01), image, rtol=1e-3, atol=1e-3)
