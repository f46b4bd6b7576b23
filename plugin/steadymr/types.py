"""The nouns: frozen, with named axes and units. They hold arrays and facts and do no work.

Axes, always in this order: k-space is ``(coil k2 k1 k0)``, images are ``(z y x)``; ``k0`` is the readout and becomes
``x``, ``k1`` the first phase encoding (``y``), ``k2`` the second (``z``, of size 1 in a 2-D scan). Matrix sizes and
fields of view are named ``_xyz``, as MRD writes them. Transforms are centred and orthonormal: zero frequency sits at
index ``n // 2`` and so does the centre of the field of view; image = FFT^-1(k-space).

Directions and positions are in millimetres in the patient's LPS frame, which MRD and DICOM share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Complex64, Complex128, Float32

Vector: TypeAlias = tuple[float, float, float]
Verdict: TypeAlias = Literal["stable", "review", "unstable", "uncalibrated", "unscored"]
"""``uncalibrated``: sampled, but under conditions for which nobody has compared scores with true errors."""
NoiseSource: TypeAlias = Literal["noise scan", "oversampled margin", "k-space edge"]


@dataclass(frozen=True, slots=True)
class Space:
    """A grid: number of points and field of view along x (readout), y and z."""

    matrix_xyz: tuple[int, int, int]
    fov_mm_xyz: Vector


@dataclass(frozen=True, slots=True)
class Limits:
    """The range of an encoding counter; ``centre`` is the counter's value at zero frequency."""

    minimum: int
    maximum: int
    centre: int


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose scan this is, as the MRD header says it; empty where the header is silent."""

    patient_name: str = ""
    patient_id: str = ""
    patient_birth_date: str = ""  #: DICOM DA, YYYYMMDD
    patient_sex: str = ""  #: M, F, O or empty
    patient_weight_kg: float | None = None
    study_instance_uid: str = ""
    study_date: str = ""  #: DICOM DA
    study_time: str = ""  #: DICOM TM
    study_description: str = ""
    study_id: str = ""
    accession_number: str = ""
    referring_physician: str = ""
    frame_of_reference_uid: str = ""
    body_part: str = ""


@dataclass(frozen=True, slots=True)
class Sequence:
    """How the contrast was made."""

    protocol_name: str = ""
    sequence_type: str = ""
    patient_position: str = ""  #: DICOM CS such as HFS
    tr_ms: tuple[float, ...] = ()
    te_ms: tuple[float, ...] = ()
    ti_ms: tuple[float, ...] = ()
    flip_angle_deg: tuple[float, ...] = ()
    echo_spacing_ms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class System:
    """The scanner."""

    vendor: str = ""
    model: str = ""
    institution: str = ""
    station: str = ""
    device_id: str = ""
    field_strength_t: float | None = None
    frequency_hz: float | None = None
    noise_bandwidth_ratio: float = 1.0  #: relativeReceiverNoiseBandwidth


@dataclass(frozen=True, slots=True)
class ScanHeader:
    """What the MRD XML header says, as far as later stages need it."""

    xml: str
    measurement_id: str
    trajectory: str
    encoded: Space  #: as acquired, readout oversampling included
    recon: Space  #: as the images should be
    k1_limits: Limits | None
    k2_limits: Limits | None
    counters: dict[str, int]  #: counter name (slice, average, contrast, phase, repetition, set) -> number of values
    acceleration: tuple[int, int]  #: along k1 and k2, as the protocol states it
    calibration_mode: str = ""  #: embedded, interleaved, separate, external, other; empty where the header is silent
    identity: Identity = Identity()
    sequence: Sequence = Sequence()
    system: System = System()


@dataclass(frozen=True, slots=True, order=True)
class VolumeIndex:
    """Which volume of the scan: the MRD counters that tell volumes apart.

    ``partition`` is 0 until a 3-D volume has been reconstructed; then each of its planes is an image of its own.
    """

    repetition: int = 0
    set: int = 0
    phase: int = 0
    contrast: int = 0
    average: int = 0
    slice: int = 0
    partition: int = 0


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a volume lies: its centre and the directions of x, y and z. ``assumed`` says which facts were made up."""

    centre_mm: Vector
    read_dir: Vector
    phase_dir: Vector
    slice_dir: Vector
    fov_mm_xyz: Vector
    assumed: str = ""  #: empty if the scanner stated everything


@dataclass(frozen=True, slots=True, eq=False)
class Readout:
    """One line of k-space as the receiver digitised it, flags already decoded.

    ``role`` is what the assembler does with it; ``last_of_volume`` promises that no line of its volume will follow.
    """

    data: Complex64[np.ndarray, "coil sample"]
    role: Literal["image", "calibration", "image and calibration", "noise", "set aside"]
    index: VolumeIndex
    k1: int
    k2: int
    centre_sample: int
    discard_pre: int
    discard_post: int
    reversed: bool
    last_of_volume: bool
    sample_time_us: float
    position_mm: Vector
    read_dir: Vector
    phase_dir: Vector
    slice_dir: Vector
    time_stamp: int  #: the scanner's ticks, 2.5 ms on Siemens
    scan_counter: int
    encoding_space: int = 0
    flags: int = 0


@dataclass(frozen=True, slots=True)
class PerturbationRecord:
    """One imperfection that was injected on purpose; travels with every image made from the data."""

    name: str
    parameters: dict[str, float]
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class KSpace:
    """One volume on its Cartesian grid, in the receiver's own channels (not whitened), readout oversampling removed.

    Lines that were not acquired are zero in ``data`` and False in ``sampled``; of an asymmetric echo only the columns
    ``k0_range`` were acquired. Sentinel lines were acquired too, and stand in ``data``, but no reconstruction may use
    them: the score compares them with what the samples predict there. ``noise_covariance`` is E[n n^H] of one complex
    sample, so that white noise of standard deviation s per real channel has covariance 2 s^2 I.
    """

    data: Complex64[np.ndarray, "coil k2 k1 k0"]
    sampled: Bool[np.ndarray, "k2 k1"]  #: lines the image may be reconstructed from
    k0_range: tuple[int, int]
    calibration: Complex64[np.ndarray, "coil k2 k1 k0"]  #: lines for coil maps, zero elsewhere
    calibrated: Bool[np.ndarray, "k2 k1"]
    noise_covariance: Complex128[np.ndarray, "coil coil2"]
    noise_source: NoiseSource
    index: VolumeIndex
    geometry: Geometry
    encoded: Space  #: grid of ``data``, readout oversampling removed
    header: ScanHeader
    time_stamp: int = 0
    perturbations: tuple[PerturbationRecord, ...] = ()
    sentinel: Bool[np.ndarray, "k2 k1"] | None = None  #: withheld lines, never in ``sampled`` or ``calibrated``

    @property
    def acquired(self) -> Bool[np.ndarray, "k2 k1"]:
        """All lines that hold data: those to reconstruct from, and the sentinels."""
        return self.sampled if self.sentinel is None else self.sampled | self.sentinel


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which weights made an image."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """One reconstructed volume on the recon grid, in the receiver's units (whitened: noise s.d. per channel is 1)."""

    data: Float32[np.ndarray, "z y x"]  #: magnitude
    method: str
    index: VolumeIndex
    geometry: Geometry
    header: ScanHeader
    derivation: str  #: one sentence for DICOM's Derivation Description
    is_mean_of_samples: bool = False
    model: ModelIdentity | None = None
    time_stamp: int = 0
    perturbations: tuple[PerturbationRecord, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class SampleSet:
    """Repeated reconstructions of one volume: posterior samples, some under a fresh draw of the measured noise."""

    data: Float32[np.ndarray, "sample z y x"]  #: magnitude, same grid and units as the Image
    noise_redrawn: Bool[np.ndarray, "sample"]


@dataclass(frozen=True, slots=True, eq=False)
class StabilityReport:
    """How far one reconstruction agrees with repeated sampling; the definition is stability/score.py's."""

    score: float | None  #: in [0, 1]; None if and only if the verdict is "uncalibrated" or "unscored"
    verdict: Verdict
    reasons: tuple[str, ...]
    spread_percent: Float32[np.ndarray, "z y x"]
    """RMS difference of the samples from the image, in per cent of the local tissue signal; NaN outside tissue."""
    n_samples: int
    n_noise_draws: int
    agreement: float | None = None  #: mean SSIM between the image and the samples, as measured, in [0, 1]
    evidence: dict[str, float] = field(default_factory=dict)
    """What else was looked at, by name, as pure numbers; larger is worse. Names and meanings: stability/evidence.py."""
    sensitivity_percent: Float32[np.ndarray, "z y x"] | None = None
    """How far draws of the site's imperfections move the image, in per cent of the local tissue signal."""
    interval_percent: Float32[np.ndarray, "z y x"] | None = None
    """Half the width of the interval that holds the true magnitude, in per cent of the local tissue signal."""
    vulnerability_percent: Float32[np.ndarray, "z y x"] | None = None
    """How far crafted changes of the data move the image at most, in per cent of the local tissue signal."""


@dataclass(frozen=True, slots=True)
class TruthReport:
    """True error against a reference reconstruction of the fully sampled scan, inside the tissue mask."""

    psnr_db: float
    ssim: float
    nmse: float


@dataclass(frozen=True, slots=True, eq=False)
class SliceResult:
    """Everything computed for one volume by one method, on its way to DICOM and report."""

    image: Image
    stability: StabilityReport
    truth: TruthReport | None = None
    samples: SampleSet | None = None  #: the trials that scored it
    reference: Float32[np.ndarray, "z y x"] | None = None
