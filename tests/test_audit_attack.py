from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from attacks import problem, scan
from laws import assert_close

from steadymr.audit.attack import (
    attacked,
    change_between,
    to_kspace_delta,
    with_worst_case,
    worst_case,
    worst_cases,
)
from steadymr.audit.losses import disc, draw, erase, known_lines, mse_to, mse_to_clean, mse_to_truth
from steadymr.audit.norms import (
    AXES,
    Ball,
    Budget,
    gaussian_equal_norm,
    relative_norm,
    scaled_to_norm,
    thermal_norm,
)
from steadymr.audit.surrogates import (
    classical_surrogate,
    diffusion_surrogate,
    ensemble,
    unet_surrogate,
    varnet_surrogate,
)
from steadymr.errors import ReconError, SettingsError
from steadymr.recon.likelihood import Likelihood
from steadymr.recon.methods import REGULARISATION, classical, supervised
from steadymr.recon.networks import SupervisedUnet
from steadymr.recon.noise import complex_normal
from steadymr.recon.problem import prepare, whitened_slice
from steadymr.recon.samplers import noise_levels, preconditioned_langevin
from steadymr.recon.varnet import SupervisedVarnet


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shrinking_denoiser(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Exact for independent pixels of variance 1/9."""
    return x / (1 + 9 * sigma[:, None, None, None] ** 2)


def unet(seed: int = 0) -> SupervisedUnet:
    torch.manual_seed(seed)
    return SupervisedUnet(4).requires_grad_(False).eval()


def varnet(seed: int = 0) -> SupervisedVarnet:
    torch.manual_seed(seed)
    return SupervisedVarnet(2, 4).requires_grad_(False).eval()


def noise_like(kspace: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return complex_normal(tuple(kspace.shape), generator(seed), kspace.device)


@pytest.mark.parametrize("norm", AXES)
def test_a_worst_case_keeps_its_budget_and_changes_acquired_samples_only(norm):
    made = problem()
    found = worst_case(made, classical_surrogate(made), budget=Budget(0.02, norm), generator=generator(), n_steps=4)
    outside = found.delta * ~made.sense.mask
    ratio = torch.linalg.vector_norm(found.delta, dim=(1, 2)) / torch.linalg.vector_norm(made.kspace, dim=(1, 2))
    n_samples = int(made.sense.mask.sum()) * made.kspace.shape[2] * made.kspace.shape[0]
    largest = found.delta.abs().max() / torch.linalg.vector_norm(made.kspace) * n_samples**0.5
    assert not outside.any()
    assert found.relative_norm <= 0.02 * (1 + 1e-5)
    assert {"scan": found.relative_norm, "coil": float(ratio.max()), "maximum": float(largest)}[norm] == pytest.approx(
        0.02, rel=1e-4
    )


@pytest.mark.parametrize("norm", AXES)
def test_projection_leads_to_the_nearest_point_of_the_ball(norm):
    """The way from any point to its projection meets every other way into the ball at no acute angle."""
    ball = Ball.around((problem(),), Budget(0.05, norm), n_restarts=2)
    far, inside = 2 * ball.draw(4, generator(1)), 0.5 * ball.draw(4, generator(2))
    nearest = ball.project(far)
    assert_close(ball.project(nearest), nearest)
    assert_close(ball.project(inside), inside)
    assert torch.vdot((far - nearest).flatten(), (inside - nearest).flatten()).real <= 0


def test_the_ascent_finds_the_largest_singular_value_of_a_linear_reconstruction():
    made = problem()
    surrogate = classical_surrogate(made)
    clean, budget = surrogate(made.kspace[None]), Budget(0.05)

    def energy(images: torch.Tensor) -> torch.Tensor:
        return (images - clean).abs().square().sum((-2, -1))

    found = worst_case(made, surrogate, budget=budget, generator=generator(), loss=energy, n_steps=40, n_restarts=2)
    weight = REGULARISATION * made.noise_to_signal
    largest = (made.sense.columns.eigenvalues.sqrt() / (made.sense.columns.eigenvalues + weight)).max()
    radius = 0.05 * torch.linalg.vector_norm(made.kspace)
    bound = float((largest * radius) ** 2)
    assert 0.9 * bound < found.loss < 1.001 * bound


def test_fifty_steps_cost_at_most_four_times_fifty_forward_passes():
    made, calls = problem(), {"forward": 0, "backward": 0}
    inner = classical_surrogate(made)

    def counting(kspace: torch.Tensor) -> torch.Tensor:
        calls["forward"] += 1
        if kspace.requires_grad:
            kspace.register_hook(lambda gradient: calls.__setitem__("backward", calls["backward"] + 1))
        return inner(kspace)

    found = worst_case(made, counting, budget=Budget(0.01), generator=generator(), n_steps=50)
    assert calls["backward"] == 50
    assert calls["forward"] + 2 * calls["backward"] <= 4 * 50
    assert calls["forward"] == found.n_evaluations


def test_the_best_iterate_of_all_restarts_is_kept():
    made = problem()
    surrogate = unet_surrogate(made, unet())
    found = worst_case(made, surrogate, budget=Budget(0.02), generator=generator(), n_steps=6, n_restarts=2)
    again = mse_to_clean(surrogate(made.kspace[None])[0])(surrogate(attacked(made, found).kspace[None]))
    assert found.loss_curve.shape == (2, 7)
    assert found.loss == float(found.loss_curve.max())
    assert float(again) == pytest.approx(found.loss, rel=1e-3)


def test_a_worst_case_is_worse_than_noise_of_equal_norm_and_the_same_for_the_same_seed():
    made = problem()
    surrogate = unet_surrogate(made, unet())
    loss = mse_to_truth(surrogate(made.kspace[None])[0])
    runs = [worst_case(made, surrogate, budget=Budget(0.02), generator=generator(), n_steps=8) for _ in range(2)]
    noise = gaussian_equal_norm(made, runs[0].relative_norm, generator(1))
    assert_close(runs[0].delta, runs[1].delta)
    assert runs[0].loss > 3 * float(loss(surrogate(attacked(made, noise).kspace[None])))


def test_several_slices_are_attacked_at_once_each_within_its_own_budget():
    several = (problem(2), problem(3))
    surrogate = unet_surrogate(several, unet())
    found = worst_cases(several, surrogate, budget=Budget(0.02), generator=generator(), n_steps=4, n_restarts=2)
    for made, case in zip(several, found, strict=True):
        alone = unet_surrogate(made, unet())
        loss = mse_to_clean(alone(made.kspace[None])[0])(alone(attacked(made, case).kspace[None]))
        assert case.relative_norm == pytest.approx(0.02, rel=1e-4)
        assert float(loss) == pytest.approx(case.loss, rel=1e-3)


def test_progress_is_told_after_each_step():
    made, told = problem(), []
    worst_case(
        made, classical_surrogate(made), budget=Budget(0.01), generator=generator(), n_steps=3,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("by_lines", [True, False])
def test_the_unet_surrogate_is_the_supervised_method(by_lines):
    """But for what conjugate gradients leave unsolved, where the surrogate is exact."""
    made = problem(by_lines=by_lines)
    image, expected = unet_surrogate(made, unet())(made.kspace[None])[0], supervised(made, unet())
    assert torch.linalg.vector_norm(image - expected) < 0.02 * torch.linalg.vector_norm(expected)


def test_the_varnet_surrogate_is_the_network_and_an_ensemble_is_the_mean():
    made = problem()
    one, other = varnet_surrogate(made, varnet()), unet_surrogate(made, unet())
    kspace = torch.stack([made.kspace, 2 * made.kspace])
    expected = varnet()(kspace, made.sense.maps, made.sense.mask)
    assert_close(one(kspace), expected * made.support)
    assert_close(ensemble((one, other))(kspace), (one(kspace) + other(kspace)) / 2)


@pytest.mark.parametrize("by_lines", [True, False])
@pytest.mark.parametrize("n_samples", [1, 2])
def test_the_diffusion_surrogate_is_the_sampler_with_its_noise_held_still(by_lines, n_samples):
    made = problem(by_lines=by_lines)
    surrogate = diffusion_surrogate(made, shrinking_denoiser, generator=generator(), n_levels=3, n_samples=n_samples)
    likelihood = Likelihood.of(made.sense, made.kspace[None], made.noise_sd[None]).repeated(n_samples)
    levels = noise_levels(3, sigma_min=min(0.01, float(made.noise_sd) / 3))
    start = classical(made).expand(n_samples, -1, -1)
    expected = preconditioned_langevin(shrinking_denoiser, likelihood, start, levels=levels, generator=generator())
    rows = surrogate(torch.stack([made.kspace, made.kspace]))
    assert_close(rows[0], expected.mean(0), atol=2e-3)
    assert_close(rows[1], rows[0], atol=1e-5)


@pytest.mark.parametrize("name", ["classical", "unet", "varnet", "diffusion"])
@pytest.mark.parametrize("by_lines", [True, False])
def test_gradients_of_surrogates_are_those_of_finite_differences(name, by_lines):
    made = problem(by_lines=by_lines, n=32)
    surrogate = {
        "classical": lambda: classical_surrogate(made),
        "unet": lambda: unet_surrogate(made, unet()),
        "varnet": lambda: varnet_surrogate(made, varnet()),
        "diffusion": lambda: diffusion_surrogate(made, shrinking_denoiser, generator=generator(), n_levels=2),
    }[name]()
    loss = mse_to(torch.zeros_like(made.support, dtype=torch.float32)[None] + 0.5)
    variable = made.kspace[None].clone().requires_grad_()
    value = loss(surrogate(variable))
    (gradient,) = torch.autograd.grad(value.sum(), variable)
    slope = torch.linalg.vector_norm(gradient)
    step = 0.001 * value.detach() / slope  # along the gradient, where the loss changes most
    ahead, behind = (loss(surrogate(made.kspace[None] + s * gradient / slope)) for s in (step, -step))
    assert float((ahead - behind) / (2 * step)) == pytest.approx(float(slope), rel=0.03)


def test_a_scan_too_small_for_a_network_is_refused():
    with pytest.raises(ReconError, match="32 pixels"):
        unet_surrogate(problem(n=24), unet())


def test_a_surrogate_that_makes_nan_is_reported():
    made = problem()
    with pytest.raises(ReconError, match="finite images"):
        worst_case(made, lambda kspace: kspace[:, 0] * torch.nan, budget=Budget(0.01), generator=generator())


@pytest.mark.parametrize("relative", [-0.1, 1.0])
def test_what_is_no_budget_is_refused(relative):
    with pytest.raises(SettingsError, match="budget"):
        Budget(relative)


def test_equal_norm_means_equal_norm_on_the_acquired_samples():
    made = problem()
    noise = gaussian_equal_norm(made, 0.03, generator())
    natural = scaled_to_norm(made, noise_like(made.kspace, 3), 0.03)
    for delta in (noise, natural):
        assert relative_norm(made, delta) == pytest.approx(0.03, rel=1e-5)
        assert not (delta * ~made.sense.mask).any()
    with pytest.raises(SettingsError, match="zero"):
        scaled_to_norm(made, torch.zeros_like(made.kspace), 0.03)


def test_the_thermal_norm_is_that_of_drawn_noise():
    made = problem()
    drawn = relative_norm(made, noise_like(made.kspace) * made.noise_sd * made.sense.mask)
    assert thermal_norm(made) == pytest.approx(drawn, rel=0.05)


def test_drawing_is_lost_by_one_if_nothing_is_drawn_and_by_nothing_if_exactly_the_target_is():
    clean, region = classical(problem()), disc((32, 32), (13.0, 15.0), 3.0)
    target = torch.polar(clean.abs() + 0.4 * region, clean.angle())
    assert_close(draw(clean, region, 0.4)(torch.stack([clean, target])), torch.tensor([-1.0, 0.0]), atol=1e-4)
    erased = erase(target, region)(torch.stack([target, clean]))
    assert float(erased[0]) == pytest.approx(-1.0, abs=1e-4)
    assert erased[1] > -0.5
    with pytest.raises(SettingsError, match="surroundings"):
        erase(clean, torch.ones(32, 32, dtype=torch.bool))
    with pytest.raises(SettingsError, match="pixels and a contrast"):
        draw(clean, region, 0.0)


def test_a_targeted_attack_brightens_its_region_more_than_the_rest():
    made, region = problem(), disc((32, 32), (12.0, 19.0), 2.5)
    surrogate = classical_surrogate(made)
    clean = surrogate(made.kspace[None])[0]
    loss = draw(clean, region, 0.3)
    found = worst_case(made, surrogate, budget=Budget(0.08), generator=generator(), loss=loss, n_steps=20)
    change = surrogate(attacked(made, found).kspace[None])[0].abs() - clean.abs()
    assert found.loss > -0.6
    assert change[region].mean() > 0.1
    assert change[~region].abs().mean() < 0.02


def test_an_attacker_who_knows_withheld_lines_stays_less_visible_there():
    made = problem()
    surrogate = classical_surrogate(made)
    clean = surrogate(made.kspace[None])
    lines = ~made.sense.mask[:, 0] & (torch.arange(32) > 10) & (torch.arange(32) < 22)
    measured = dataclasses.replace(made.sense, mask=torch.ones_like(made.sense.mask)).forward(clean)[0]
    seen = known_lines(made.sense.maps, lines, measured, float(made.noise_sd))
    priced = known_lines(made.sense.maps, lines, measured, float(made.noise_sd), weight=0.01)
    deviations = []
    for penalties in ((), (priced,)):
        found = worst_case(made, surrogate, budget=Budget(0.05), generator=generator(), penalties=penalties, n_steps=15)
        changed = attacked(made, found).kspace[None]
        deviations.append(float(seen(changed, surrogate(changed))))
    assert float(seen(made.kspace[None], clean)) == pytest.approx(0, abs=1e-3)
    assert deviations[1] < 0.5 * deviations[0]


@pytest.mark.parametrize(("n_z", "k0_first"), [(1, 0), (1, 5), (4, 0)])
def test_a_worst_case_becomes_kspace_in_the_receivers_channels_and_back(n_z, k0_first):
    kspace = scan(n_z, k0_first)
    made = list(prepare(kspace))[n_z // 2]
    found = worst_case(made, classical_surrogate(made), budget=Budget(0.05), generator=generator(7), n_steps=2)
    carried = with_worst_case(kspace, made, found, seed=7)
    whitened = whitened_slice(carried, made.z) / made.scale
    assert_close(whitened, made.kspace + found.delta, atol=1e-4)
    assert_close(change_between(made, carried), found.delta, atol=1e-4)
    assert (carried.data[..., ~kspace.sampled, :] == 0).all()
    assert carried.perturbations[-1].name == "worst_case"
    assert carried.perturbations[-1].seed == 7


def test_the_change_of_one_slice_leaves_the_others_alone():
    kspace = scan(4)
    made = list(prepare(kspace))[1]
    raw = to_kspace_delta(kspace, made, gaussian_equal_norm(made, 0.05, generator()))
    carried = dataclasses.replace(kspace, data=kspace.data + raw)
    others = [z for z in range(4) if z != 1]
    before, after = (np.stack([whitened_slice(k, z).numpy() for z in others]) for k in (kspace, carried))
    np.testing.assert_allclose(after, before, atol=1e-3)
