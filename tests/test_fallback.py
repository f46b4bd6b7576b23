"""When learned steps fail, take too long or are in doubt: what leaves, in which order, and what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from calibrations import calibration_for_scan, small_prior
from ismrmrd.meta import Meta
from scans import accelerated_lines, write_scan

from steadymr.config import Settings, load_settings
from steadymr.errors import DeadlineError, ReconError, WeightsError
from steadymr.live.scan import reconstruct_stream
from steadymr.models import load_models
from steadymr.pipeline import replay
from steadymr.recon.problem import prepare
from steadymr.source.replay import open_scan
from steadymr.source.wire.messages import ImageMessage
from steadymr.stopwatch import Stopwatch
from steadymr.volume import sampling
from steadymr.volume.arriving import assembled
from steadymr.volume.fallback import Deadline, load_or_fall_back
from steadymr.volume.planes import Plane, acceleration_of
from steadymr.volume.reconstruct import READ_CLASSICAL_FIRST, begin

LEARNED: dict[str, Any] = {"methods": ["diffusion", "classical"], "samples": 4}


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scan(tmp_path_factory.mktemp("scan") / "scan.h5", n=32, lines=accelerated_lines(32, 2, 12))


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_prior(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def settings(prior: Path, **changes: Any) -> Settings:
    return load_settings(None, LEARNED | {"diffusion": {"levels": 2, "weights": str(prior)}} | changes)


def live(scan: Path, wanted: dict[str, str]) -> list[Any]:
    """What a client gets for the same lines, streamed."""
    with open_scan(scan) as opened:
        return list(reconstruct_stream(opened.header, opened.readouts(), wanted))


def images(messages: list[Any]) -> list[Any]:
    return [Meta.deserialize(one.meta.decode()) for one in messages if isinstance(one, ImageMessage)]


def test_a_deadline_comes_when_the_clock_says_so() -> None:
    """Not before, and never if there is none."""
    now = [0.0]
    deadline = Deadline.after(5.0, lambda: now[0])
    deadline.check()
    now[0] = 5.1
    with pytest.raises(DeadlineError, match="deadline of 5 s"):
        deadline.check()
    Deadline.after(None).check()


def test_a_sampler_is_stopped_between_two_evaluations_of_its_network() -> None:
    """The clock is looked at each time; what has begun is finished."""
    now, calls = [0.0], []

    def denoiser(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        now[0] += 1
        return images

    watched = Deadline.after(2.5, lambda: now[0]).watched(denoiser)
    for _ in range(3):
        watched(torch.zeros(1), torch.zeros(1))
    with pytest.raises(DeadlineError):
        watched(torch.zeros(1), torch.zeros(1))
    assert len(calls) == 3


def test_past_the_deadline_a_replay_is_unscored_and_says_why(scan: Path, prior: Path, tmp_path: Path) -> None:
    """The classical series leaves; the diffusion image, which is made of samples, is missing, and that is said."""
    content = replay(scan, tmp_path / "out", settings(prior, fallback={"deadline_s": 1e-9}))
    assert [(one["method"], one["verdict"]) for one in content["series"]] == [("classical", "unscored")]
    assert any("the diffusion image is missing: the deadline" in warning for warning in content["warnings"])
    (path,) = (tmp_path / "out").rglob("*.dcm")
    assert "the deadline of 1e-09 s passed" in pydicom.dcmread(path).ImageComments


def test_past_the_deadline_a_live_image_is_unscored_and_says_why(scan: Path, prior: Path) -> None:
    """The same, as the client sees it."""
    wanted = {"methods": "diffusion,classical", "samples": "4", "diffusion.levels": "2", "fallback.deadline_s": "1e-9"}
    (meta,) = images(live(scan, wanted | {"diffusion.weights": str(prior)}))
    assert (meta["StabilityVerdict"], meta["StabilityScore"] or "") == ("unscored", "")
    assert any("deadline" in reason for reason in meta["StabilityReasons"])


def test_weights_that_make_nan_leave_the_classical_series(scan: Path, tmp_path: Path) -> None:
    """And the sentence says what the sampler made."""
    broken = small_prior(tmp_path / "broken.safetensors", broken=True)
    content = replay(scan, tmp_path / "out", settings(broken))
    assert [one["method"] for one in content["series"]] == ["classical"]
    assert any("sampling failed" in warning and "NaN" in warning for warning in content["warnings"])


def test_weights_that_make_nan_leave_the_classical_image_live(scan: Path, tmp_path: Path) -> None:
    """A scanner gets an image whatever the network does."""
    broken = small_prior(tmp_path / "broken.safetensors", broken=True)
    wanted = {"methods": "diffusion", "samples": "4", "diffusion.levels": "2", "diffusion.weights": str(broken)}
    (meta,) = images(live(scan, wanted))
    assert meta["SeriesDescription"] == "steadymr classical"
    assert any("the diffusion image is missing" in caveat for caveat in meta["StabilityCaveats"])


def out_of_memory(*arguments: Any, **options: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_without_memory_the_classical_series_still_leaves(
    scan: Path, prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if nobody asked for it."""
    monkeypatch.setattr(sampling.methods, "posterior_samples", out_of_memory)
    content = replay(scan, tmp_path / "out", settings(prior, methods=["diffusion"]))
    assert [one["method"] for one in content["series"]] == ["classical"]
    assert any("memory ran out" in reason for reason in content["images"][0]["reasons"])


def test_whoever_wants_to_stop_at_a_failure_is_stopped(scan: Path, tmp_path: Path) -> None:
    """A research run may prefer no result to another one."""
    broken = small_prior(tmp_path / "broken.safetensors", broken=True)
    with pytest.raises(ReconError, match="NaN"):
        replay(scan, tmp_path / "out", settings(broken, fallback={"on_failure": "stop"}))


def test_damaged_weights_leave_the_classical_series(scan: Path, tmp_path: Path) -> None:
    """Replay: the file is named in the warnings, and in the image itself."""
    (tmp_path / "damaged.safetensors").write_bytes(b"\xff" * 64)
    content = replay(scan, tmp_path / "out", settings(tmp_path / "damaged.safetensors"))
    assert [(one["method"], one["verdict"]) for one in content["series"]] == [("classical", "unscored")]
    assert any("only the classical series is made" in warning for warning in content["warnings"])
    assert any("damaged.safetensors" in reason for reason in content["images"][0]["reasons"])


def test_damaged_weights_leave_the_classical_image_live(scan: Path, tmp_path: Path) -> None:
    """The client is told why."""
    (meta,) = images(live(scan, {"samples": "4", "diffusion.weights": str(tmp_path / "missing.safetensors")}))
    assert meta["SeriesDescription"] == "steadymr classical"
    assert any("missing.safetensors" in caveat for caveat in meta["StabilityCaveats"])


def test_damaged_weights_stop_a_run_that_wants_to_stop(tmp_path: Path) -> None:
    """With the sentence of the weights."""
    wanted = settings(tmp_path / "missing.safetensors", fallback={"on_failure": "stop"})
    with pytest.raises(WeightsError, match="cannot be read"):
        load_or_fall_back(wanted)


def test_in_doubt_the_classical_image_comes_first_and_the_learned_one_is_marked(
    scan: Path, prior: Path, tmp_path: Path
) -> None:
    """By number, by folder, and in words; nobody asked for the classical one here."""
    content = replay(scan, tmp_path / "out", settings(prior, methods=["diffusion"]))
    assert [one["folder"] for one in content["series"]] == ["dicom/7001-classical", "dicom/7002-diffusion"]
    reasons = {image["method"]: image["reasons"] for image in content["images"]}
    assert READ_CLASSICAL_FIRST in reasons["diffusion"]
    assert READ_CLASSICAL_FIRST not in reasons["classical"]


def test_in_doubt_a_live_scan_sends_the_classical_image_first(scan: Path, prior: Path) -> None:
    """Each image says which series it belongs to, whatever the order."""
    wanted = {"methods": "diffusion,classical", "samples": "4", "diffusion.levels": "2"}
    metas = images(live(scan, wanted | {"diffusion.weights": str(prior)}))
    assert [meta["SeriesDescription"] for meta in metas] == ["steadymr classical", "steadymr diffusion"]
    assert metas[1]["StabilityVerdict"] == "uncalibrated"


def test_images_can_leave_as_ordered(scan: Path, prior: Path, tmp_path: Path) -> None:
    """And then nothing is added."""
    content = replay(scan, tmp_path / "out", settings(prior, fallback={"on_doubt": "as ordered"}))
    assert [one["method"] for one in content["series"]] == ["diffusion", "classical"]


def test_a_scan_within_a_calibrations_reach_is_scored(scan: Path, prior: Path, tmp_path: Path) -> None:
    """From the file that the settings name; the body part is the settings' word here."""
    wanted = settings(prior, stability={"anatomy": "head"})
    made = calibration_for_scan(scan, wanted, tmp_path / "mine.json")
    content = replay(scan, tmp_path / "out", settings(prior, stability={"anatomy": "head", "calibration": str(made)}))
    assert all(0 <= one["score"] <= 1 for one in content["series"])
    assert all(image["interval_median_percent"] > 0 for image in content["images"])


def test_a_site_model_gives_a_second_map(scan: Path, prior: Path, tmp_path: Path) -> None:
    """How far its draws move the image, beside how far the samples differ."""
    wanted = settings(prior, stability={"site_model": "quiet_3t", "site_draws": 2})
    content = replay(scan, tmp_path / "out", wanted)
    assert all(image["sensitivity_median_percent"] >= 0 for image in content["images"])
    assert "sensitivity map of diffusion" in (tmp_path / "out" / "report.html").read_text()


def plane_of(scan: Path, wanted: Settings) -> Plane:
    with open_scan(scan) as opened:
        kspace = next(iter(assembled(opened.readouts(), opened.header, wanted)))
    return Plane(kspace, next(iter(prepare(kspace))))


@pytest.mark.parametrize(("sd", "n_samples"), [(0.0, 4), (0.5, 12)])
def test_samples_are_drawn_until_chance_hardly_matters(
    scan: Path, prior: Path, monkeypatch: pytest.MonkeyPatch, sd: float, n_samples: int
) -> None:
    """Samples that agree are enough after one round; those that differ go on to the limit."""
    wanted = settings(prior, stability={"max_samples": 12})
    plane = plane_of(scan, wanted)
    generator = torch.Generator().manual_seed(0)
    image = plane.problem.sense.adjoint(plane.problem.kspace)

    def drawn(problem: Any, denoiser: Any, **options: Any) -> torch.Tensor:
        each = torch.rand((options["n_samples"], 1, 1), generator=generator)
        noise = torch.randn((options["n_samples"], *image.shape), generator=generator)
        return image + sd * each * noise * image.abs().max()

    monkeypatch.setattr(sampling.methods, "posterior_samples", drawn)
    draws = sampling.draw_samples(plane, begin(wanted, load_models(wanted), Stopwatch()), Deadline())
    assert len(draws.samples.data) == n_samples
    assert list(np.flatnonzero(draws.samples.noise_redrawn)) == list(range(n_samples - n_samples // 4, n_samples))


@pytest.mark.parametrize(("lines", "acceleration"), [(None, 1.0), ((2, 12), 2.0), ((4, 8), 4.0)])
def test_acceleration_is_counted_beyond_the_gapless_centre(
    tmp_path: Path, prior: Path, lines: tuple[int, int] | None, acceleration: float
) -> None:
    """Whatever was acquired in the centre for the coil maps does not make a scan look slower."""
    acquired = None if lines is None else accelerated_lines(48, *lines)
    path = write_scan(tmp_path / "scan.h5", n=48, lines=acquired)
    with open_scan(path) as opened:
        kspace = next(iter(assembled(opened.readouts(), opened.header, settings(prior))))
    assert acceleration_of(kspace) == pytest.approx(acceleration, abs=0.3)


def test_a_server_without_networks_serves_classical_images(tmp_path: Path) -> None:
    """It starts, whatever became of the weights."""
    wanted, models, reason = load_or_fall_back(settings(tmp_path / "missing.safetensors"))
    assert (wanted.methods, wanted.samples) == (("classical",), 0)
    assert (models.prior, models.supervised) == (None, None)
    assert "only the classical series" in reason
