"""Small volumes with every fact a DICOM series needs, and the real validators."""

from __future__ import annotations

import subprocess
import sysconfig
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from steadymr.dicom import identity, pixels, series
from steadymr.types import (
    Geometry,
    Identity,
    Image,
    ModelIdentity,
    PerturbationRecord,
    ScanHeader,
    Sequence,
    SliceResult,
    Space,
    StabilityReport,
    System,
    Vector,
    VolumeIndex,
)

MODEL = ModelIdentity(name="prior-small", sha256="ab" * 32)
DRIFT = PerturbationRecord(name="gain_drift", parameters={"drift": 0.2}, seed=7)
KNOWN = Identity(
    patient_name="Müller^Jörg",
    patient_id="000123",
    patient_birth_date="19700228",
    patient_sex="M",
    patient_weight_kg=71.5,
    study_instance_uid="1.2.826.0.1.3680043.8.498.1",
    study_date="20261122",
    study_time="093000.5",
    study_description="Head",
    study_id="S1",
    accession_number="00042",
    referring_physician="Doe^Jane",
    body_part="HEAD",
)
SPACE = Space(matrix_xyz=(32, 24, 1), fov_mm_xyz=(240.0, 192.0, 5.0))
HEADER = ScanHeader(
    xml="",
    measurement_id="m1",
    trajectory="cartesian",
    encoded=SPACE,
    recon=SPACE,
    k1_limits=None,
    k2_limits=None,
    counters={"contrast": 2, "repetition": 3},
    acceleration=(4, 1),
    identity=KNOWN,
    sequence=Sequence(
        protocol_name="t2_tse",
        sequence_type="TurboSpinEcho",
        patient_position="HFS",
        tr_ms=(4000.0,),
        te_ms=(20.0, 90.0),
        flip_angle_deg=(150.0,),
    ),
    system=System(
        vendor="Acme", model="One", institution="Hospital", station="MR1", field_strength_t=2.89, frequency_hz=1.23e8
    ),
)
UNKNOWN_HEADER = replace(
    HEADER, measurement_id="", counters={}, identity=Identity(), sequence=Sequence(), system=System()
)
AXIAL = Geometry(
    centre_mm=(10.0, -20.0, 30.0),
    read_dir=(1.0, 0.0, 0.0),
    phase_dir=(0.0, 1.0, 0.0),
    slice_dir=(0.0, 0.0, 1.0),
    fov_mm_xyz=SPACE.fov_mm_xyz,
)


def landmark_volume(shape: tuple[int, int, int] = (1, 24, 32)) -> np.ndarray:
    """A dim gradient with one bright voxel off every symmetry axis, at ``landmark_index``."""
    z, y, x = np.indices(shape)
    volume = 1.0 + 0.01 * (x + y + z)
    volume[landmark_index(shape)] = 50.0
    return volume.astype(np.float32)


def landmark_index(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return shape[0] // 3, shape[1] // 4, (2 * shape[2]) // 3


def slice_result(
    data: np.ndarray | None = None,
    *,
    geometry: Geometry = AXIAL,
    header: ScanHeader = HEADER,
    index: VolumeIndex = VolumeIndex(),  # noqa: B008 frozen
    score: float | None = 0.41,
    perturbations: tuple[PerturbationRecord, ...] = (),
) -> SliceResult:
    volume = landmark_volume() if data is None else data
    spread = np.full(volume.shape, 4.0, np.float32)
    spread[..., :4] = np.nan
    spread[..., 5:9, 6:12] = 35.0
    stability = StabilityReport(
        score=score,
        verdict="unscored" if score is None else "unstable",
        reasons=("one sample only",) if score is None else ("samples disagree in 12 % of the tissue",),
        spread_percent=spread,
        n_samples=1 if score is None else 6,
        n_noise_draws=0 if score is None else 3,
    )
    image = Image(
        data=volume,
        method="diffusion",
        index=index,
        geometry=geometry,
        header=header,
        derivation="Mean of 6 posterior samples at acceleration 4.",
        is_mean_of_samples=True,
        model=MODEL,
        perturbations=perturbations,
    )
    return SliceResult(image=image, stability=stability)


def series_facts(header: ScanHeader = HEADER, **changes: object) -> series.SeriesFacts:
    arguments: dict[str, object] = {
        "exam": identity.exam(header, "scan-1"),
        "header": header,
        "method": "diffusion",
        "model": MODEL,
        "perturbed": False,
        "series_number": 901,
        "scan_fingerprint": "scan-1",
        "settings_fingerprint": "settings-1",
        "definition": "1",
        "noise_source": "noise scan",
        "software_version": "0.1.0",
        "created": datetime(2026, 11, 22, 10, 0, 0),
    }
    return series.describe_series(**(arguments | changes))  # type: ignore[arg-type]


def datasets(*results: SliceResult, facts: series.SeriesFacts | None = None) -> list[Dataset]:
    """All images of the results as one series, its verdict that of the first."""
    shared = facts or series_facts(results[0].image.header, perturbed=bool(results[0].image.perturbations))
    slope = pixels.choose_slope(results[0].image.data)
    stored = [image for result in results for image in series.store(result, slope)]
    outcome = series.SeriesVerdict(results[0].stability.verdict, results[0].stability.score)
    return [series.mr_image(image, shared, outcome, number) for number, image in enumerate(stored, 1)]


def save(images: list[Dataset], folder: Path, prefix: str = "") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{prefix}{number:03}.dcm" for number in range(len(images))]
    for dataset, path in zip(images, paths, strict=True):
        dataset.save_as(path, enforce_file_format=True)
    return paths


def complaints(paths: list[Path], word: str = "Error") -> list[str]:
    """What dciodvfy has against each file and dcentvfy against all together."""
    said = [_say("dciodvfy", "-new", str(path)) for path in paths]
    said.append(_say("dcentvfy", *map(str, paths)))
    return [line for text in said for line in text.splitlines() if line.startswith(word)]


def _say(tool: str, *arguments: str) -> str:
    program = Path(sysconfig.get_path("scripts")) / tool
    run = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert run.stderr or tool == "dcentvfy", f"{tool} said nothing, not even which SOP class it saw"
    return run.stderr + run.stdout


def rotated(*degrees_about_xyz: float) -> tuple[Vector, Vector, Vector]:
    """Read, phase and slice direction of an axial scan after turning it about x, then y, then z."""
    turned = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees_about_xyz)):
        step = np.eye(3)
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        turned = step @ turned
    return tuple(tuple(float(v) for v in column) for column in turned.T)  # type: ignore[return-value]


ORIENTATIONS = {
    "axial": rotated(0, 0, 0),
    "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0), (-1.0, 0.0, 0.0)),
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)),
    "oblique": rotated(23, 0, 0),
    "double oblique": rotated(-31, 17, 8),
    "prone, feet first": rotated(0, 180, 180),
    "read and phase swapped": ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    "slices against row x column": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
}


def turned(name: str) -> Geometry:
    read, phase, slice_ = ORIENTATIONS[name]
    return replace(AXIAL, centre_mm=(12.3, -45.6, 78.9), read_dir=read, phase_dir=phase, slice_dir=slice_)


def physics(geometry: Geometry, shape: tuple[int, int, int], index: tuple[int, int, int]) -> np.ndarray:
    """Where a voxel (z, y, x) of a centred transform lies: zero at n // 2 of each axis."""
    point = np.asarray(geometry.centre_mm)
    directions = (geometry.slice_dir, geometry.phase_dir, geometry.read_dir)
    for direction, fov_mm, n, i in zip(directions, geometry.fov_mm_xyz[::-1], shape, index, strict=True):
        point = point + (i - n // 2) * fov_mm / n * np.asarray(direction)
    return point
