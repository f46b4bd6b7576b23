"""From one volume of k-space to images with a verdict: every method, every plane."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Complex64, Float32

from steadymr import perturb
from steadymr.config import Method, Settings
from steadymr.errors import CalibrationError, DeadlineError, ReconError
from steadymr.models import Models
from steadymr.perturb import site
from steadymr.recon import methods
from steadymr.recon.evidence import Findings
from steadymr.recon.problem import prepare
from steadymr.stability.evidence import reasons as evidence_words
from steadymr.stability.score import DOUBTFUL, Basis, Thresholds, score_image
from steadymr.stopwatch import Stopwatch
from steadymr.types import Image, KSpace, ModelIdentity, SliceResult
from steadymr.volume.examine import Examination, examine_image, examine_plane, measured_samples, with_sentinels
from steadymr.volume.fallback import LEARNED_FAILURES, Deadline, load_or_fall_back, sentence
from steadymr.volume.judging import calibration_for
from steadymr.volume.map_free import map_free_images
from steadymr.volume.planes import Plane, Run, conditions_of, plane_geometry, seed_for, wanted_partitions
from steadymr.volume.sampling import Draws, draw_samples, site_sensitivity
from steadymr.volume.truth import compare, distorted_like, in_its_place, reference_of

METHOD_DESCRIPTIONS: dict[Method, str] = {
    "diffusion": "Mean of posterior samples under a diffusion prior",
    "supervised": "Supervised network: U-Net on top of CG-SENSE, or unrolled variational network",
    "classical": "CG-SENSE with Tikhonov regularisation",
}
READ_CLASSICAL_FIRST = "in doubt: read the classical image first"
USES_SENTINELS = "the delivered image uses the sentinel lines too; its score is that of the image made without them"


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """An image with the complex values that it is the magnitude of."""

    image: Image
    on_encoded_grid: Complex64[torch.Tensor, "y x"]  #: in the problem's unit


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """What repeated sampling of one plane gave, and in words what it did not give."""

    draws: Draws | None = None
    sensitivity: Float32[np.ndarray, "z=1 y x"] | None = None
    missing: str = ""  #: why there are no samples
    late: bool = False  #: the deadline is why
    notes: tuple[str, ...] = ()  #: what else was given up


def begin(
    settings: Settings,
    models: Models,
    watch: Stopwatch,
    step: Callable[[str], None] = lambda what: None,
    note: Callable[[str], None] = lambda sentence: None,
    failure: str = "",
) -> Run:
    """A run with all that its settings name: imperfections to inject, the calibration, the site model.

    ``note`` is told what failed, and at once why nothing learned is made, if that is so. Raises SettingsError or
    PerturbationError for what does not exist.
    """
    named = settings.stability.site_model
    if failure:
        note(failure)
    return Run(
        settings,
        models,
        perturb.parse_all(settings.perturb),
        watch,
        step,
        calibration_for(settings),
        None if named is None else site.load(named),
        failure,
        note,
    )


def begin_or_fall_back(
    settings: Settings, watch: Stopwatch, step: Callable[[str], None], note: Callable[[str], None]
) -> Run:
    """`begin` with freshly loaded networks, or where they cannot be loaded, for the classical series alone."""
    with watch("load models"):
        settings, models, failure = load_or_fall_back(settings)
    return begin(settings, models, watch, step, note, failure)


def reconstruct(kspace: KSpace, full: KSpace | None, run: Run) -> Iterator[SliceResult]:
    """Scored images of one volume: plane by plane, one for each method of the settings.

    ``full`` is the same volume fully sampled, if known; its reconstruction is the truth that images are compared with.
    The classical image of a plane comes first where a learned one is in doubt, and in place of one that failed.
    """
    deadline = Deadline.after(run.settings.fallback.deadline_s)
    seed = seed_for(run.settings.seed, kspace, "perturb")
    perturbed = perturb.apply(kspace, run.perturbations, seed)
    full = distorted_like(full, perturbed)
    wanted = wanted_partitions(perturbed)
    problems = run.watch.each("coil maps", prepare(perturbed, device=run.models.device))
    try:
        first = next(problems)
    except CalibrationError as error:  # it shows before the first plane, or never
        if run.settings.fallback.on_no_calibration == "refuse":
            raise
        yield from map_free_images(perturbed, error, run)
        return
    for problem in itertools.chain([first], problems):
        run.step("coil maps")
        if problem.z not in wanted:
            continue
        yield from reconstruct_plane(Plane(perturbed, problem), full, run, deadline)


def reconstruct_plane(plane: Plane, full: KSpace | None, run: Run, deadline: Deadline) -> Iterator[SliceResult]:
    """Scored images of one plane, in the order in which they should leave."""
    reference = reference_of(plane, full, run)
    sampled = sample_plane(plane, run, deadline)
    made, missing = make_images(plane, sampled, run)
    examination = examined(plane, sampled, made, run, deadline)
    missing = [*missing, *examination.missing]
    for problem in (*missing, sampled.missing, *sampled.notes, *run.models.shortages()):
        if problem:
            run.note(problem)
    reasons = [*([run.failure] if run.failure else []), *missing, *sampled.notes]
    results = [scored(plane, one, sampled, examination, reasons, reference, run) for one in made]

    def classical() -> SliceResult:
        one = _made(plane, "classical", None, run)
        return scored(plane, one, sampled, examination, reasons, reference, run)

    for result in _in_order(results, classical, run):
        _note_calibration(result, run)
        yield _after_test(result, plane, run, deadline)


def sample_plane(plane: Plane, run: Run, deadline: Deadline) -> Sampled:
    """Posterior samples and the sensitivity map; a failure becomes the reason why there are none."""
    if not run.settings.samples:
        return Sampled()
    try:
        with run.watch("samples"):
            deadline.check()
            draws = draw_samples(plane, run, deadline)
    except DeadlineError as error:
        return Sampled(missing=str(error), late=True)
    except LEARNED_FAILURES as error:
        if run.settings.fallback.on_failure == "stop":
            raise
        return Sampled(missing=f"sampling failed: {sentence(error)}")
    finally:
        run.step("samples")
    try:
        with run.watch("site draws"):
            return Sampled(draws, site_sensitivity(plane, run, draws, deadline))
    except LEARNED_FAILURES as error:
        return Sampled(draws, notes=(f"the sensitivity to imperfections is unknown: {sentence(error)}",))


def make_images(plane: Plane, sampled: Sampled, run: Run) -> tuple[list[Made], list[str]]:
    """The image of each method, and in words which of them are missing and why; then the classical one is there."""
    images, missing = [], []
    for method in run.settings.methods:
        with run.watch(method):
            try:
                images.append(_made(plane, method, sampled, run))
            except LEARNED_FAILURES as error:
                if method == "classical" or _must_stop(error, run):
                    raise
                missing.append(f"the {method} image is missing: {sentence(error)}")
        run.step(method)
    if missing and "classical" not in run.settings.methods:
        images.append(_made(plane, "classical", None, run))
    return images, missing


def examined(plane: Plane, sampled: Sampled, made: Sequence[Made], run: Run, deadline: Deadline) -> Examination:
    """The evidence beside repeated sampling; nothing without samples, which leave an image unscored anyway."""
    if sampled.draws is None:
        return Examination()
    with run.watch("evidence"):
        magnitudes = {one.image.method: one.image.data for one in made}
        if "classical" not in magnitudes:
            magnitudes["classical"] = _made(plane, "classical", None, run).image.data
        return examine_plane(plane, run, sampled.draws, magnitudes, deadline)


def _must_stop(error: BaseException, run: Run) -> bool:
    return run.settings.fallback.on_failure == "stop" and not isinstance(error, DeadlineError)


def scored(
    plane: Plane,
    made: Made,
    sampled: Sampled,
    examination: Examination,
    reasons: Sequence[str],
    reference: Float32[np.ndarray, "z=1 y x"] | None,
    run: Run,
) -> SliceResult:
    """One image with its verdict; ``reasons`` join those of the score."""
    settings, draws, image = run.settings.stability, sampled.draws, made.image
    samples = None if draws is None else draws.samples
    evidence = Findings() if draws is None else examine_image(plane, draws, made.on_encoded_grid, image, examination)
    with run.watch("stability"):
        stability = score_image(
            image,
            samples,
            Thresholds(settings.stable, settings.review),
            basis=Basis(run.calibration, conditions_of(plane, image.method, run), settings.tolerance_percent),
            unscored=sampled.missing,
            evidence=evidence.values,
            evidence_reasons=evidence_words(evidence.values, evidence.places),
        )
        reference = None if reference is None else in_its_place(reference, image)
        truth = None if reference is None else compare(image, reference)
    moved = examination.moved.get(image.method)
    stability = replace(
        stability,
        reasons=(*stability.reasons, *reasons),
        sensitivity_percent=sampled.sensitivity,
        vulnerability_percent=None if moved is None else moved.percent,
    )
    return SliceResult(image, stability, truth, samples, reference)


def _in_order(results: list[SliceResult], classical: Callable[[], SliceResult], run: Run) -> list[SliceResult]:
    """The classical image first, made if nobody asked for it, and a mark on each learned image that is in doubt."""
    doubtful = [one for one in results if one.image.method != "classical" and one.stability.verdict in DOUBTFUL]
    if not doubtful or run.settings.fallback.on_doubt != "classical first":
        return results
    if all(one.image.method != "classical" for one in results):
        results = [*results, classical()]
    marked = [_with_reason(one, READ_CLASSICAL_FIRST) if one in doubtful else one for one in results]
    return sorted(marked, key=lambda one: one.image.method != "classical")


def _after_test(
    result: SliceResult,
    plane: Plane,
    run: Run,
    deadline: Deadline,
) -> SliceResult:
    """The same result with an image made once more, from the sentinels too, if the settings want that."""
    joined = with_sentinels(plane) if run.settings.sentinels.use_after_test else None
    if joined is None:
        return result
    method = next(name for name in METHOD_DESCRIPTIONS if name == result.image.method)
    try:
        draws = draw_samples(joined, run, deadline) if method == "diffusion" else None
        image = _made(joined, method, Sampled(draws), run).image
    except LEARNED_FAILURES as error:
        note = f"the image was made without the sentinel lines, since with them it failed: {sentence(error)}"
        return _with_reason(result, note)
    if result.reference is None:
        return replace(_with_reason(result, USES_SENTINELS), image=image)
    truth = compare(image, result.reference)
    return replace(_with_reason(result, USES_SENTINELS), image=image, truth=truth)


def _note_calibration(result: SliceResult, run: Run) -> None:
    """What the scores of a run rest on, or why there are none, is said once for the whole run."""
    if result.stability.verdict == "uncalibrated":
        run.note(f"{result.image.method}: {result.stability.reasons[0]}; see 'steadymr calibrate'")
    elif result.stability.score is not None and run.calibration is not None:
        run.note(f"scores rest on calibration {run.calibration.sha256[:12]}, made from {run.calibration.made_from}")


def _with_reason(result: SliceResult, reason: str) -> SliceResult:
    return replace(result, stability=replace(result.stability, reasons=(*result.stability.reasons, reason)))


def _made(plane: Plane, method: Method, sampled: Sampled | None, run: Run) -> Made:
    values, model = _values(plane, method, sampled, run)
    kspace, z = plane.kspace, plane.problem.z
    image = Image(
        data=plane.on_recon_grid(values),
        method=method,
        index=replace(kspace.index, partition=z),
        geometry=plane_geometry(kspace, z),
        header=kspace.header,
        derivation=_derivation(method, run.models),
        is_mean_of_samples=method == "diffusion",
        model=model,
        time_stamp=kspace.time_stamp,
        perturbations=kspace.perturbations,
    )
    return Made(image, values)


def _derivation(method: Method, models: Models) -> str:
    supervised = models.supervised if method == "supervised" else None
    return METHOD_DESCRIPTIONS[method] if supervised is None else supervised.description


def _values(
    plane: Plane, method: Method, sampled: Sampled | None, run: Run
) -> tuple[Complex64[torch.Tensor, "y x"], ModelIdentity | None]:
    models, classical = run.models, run.settings.classical
    if method == "diffusion" and sampled is not None:
        if sampled.draws is None:
            raise DeadlineError(sampled.missing) if sampled.late else ReconError(sampled.missing)
        return measured_samples(sampled.draws).mean(0), models.prior_identity
    if method == "supervised" and models.supervised is not None:
        return models.supervised.reconstruct(plane.problem), models.supervised.identity
    if method == "classical":
        image = methods.classical(
            plane.problem, regularisation=classical.regularisation, n_iterations=classical.iterations
        )
        return image, None
    raise ValueError(f"{method} needs what load_models and draw_samples provide, and they were not asked")
