"""Settings: one YAML file and the command line's options become one frozen object; nothing else reads the environment.

Every key has a default, an unknown key is an error. ``configs/replay.yaml`` shows them all.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from steadymr.errors import SettingsError

Method: TypeAlias = Literal["diffusion", "supervised", "classical"]
DerivedObject: TypeAlias = Literal[
    "overlay", "segmentation", "parametric_map", "structured_report", "key_objects", "presentation_state"
]
METHODS: tuple[Method, ...] = ("diffusion", "supervised", "classical")
LISTS = ("methods", "sentinels.lines", "perturb", "dicom.objects", "serve.allow")  #: settings that hold several values


#: What ``preset`` stands for; whatever is set beside it, in the same file or on the same command line, wins.
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {
        "samples": 16,
        "diffusion": {"levels": 10, "sigma_max": 0.25, "temperature": 1.05},
        "stability": {"max_samples": 16},
    },
    "quality": {"samples": 16, "diffusion": {"levels": 30}, "stability": {"max_samples": 32}},
}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AssembleSettings(_Section):
    """How readouts become volumes."""

    averages: Literal["separate", "combine"] = "separate"  #: one image per average, or their mean


class UndersampleSettings(_Section):
    """Retrospective acceleration of a fully sampled scan."""

    acceleration: Annotated[int, Field(ge=1, le=32)] = 1  #: keep every n-th line; 1 keeps all
    calibration_lines: Annotated[int, Field(ge=8)] = 24  #: central lines kept besides
    sentinels: Annotated[int, Field(ge=0, le=64)] = 0  #: lines of the full scan that serve as sentinels


class SentinelSettings(_Section):
    """Lines measured, kept from the reconstruction, and compared with what it predicts there."""

    lines: tuple[Annotated[int, Field(ge=0)], ...] = ()  #: encoding steps k1 that the protocol acquires as sentinels
    user_flag: Annotated[int, Field(ge=1, le=8)] | None = None  #: ACQ_USER1 to 8 on the readout marks a sentinel
    held_out: Annotated[int, Field(ge=0, le=64)] = 0  #: acquired lines to withhold, drawn at random for each scan
    use_after_test: bool = False  #: reconstruct the delivered image once more, with them; the score stays

    @property
    def expected(self) -> bool:
        """Whether a live scan or a file as it is should have some."""
        return bool(self.lines or self.user_flag or self.held_out)


class ClassicalSettings(_Section):
    """CG-SENSE."""

    regularisation: Annotated[float, Field(gt=0)] = 6.0  #: in units of the noise variance over the mean signal power
    iterations: Annotated[int, Field(ge=1, le=500)] = 30


class SupervisedSettings(_Section):
    """A network that was trained on pairs of scans and images."""

    network: Literal["unet", "varnet"] = "varnet"  #: U-Net on top of CG-SENSE, or an unrolled variational network
    weights: Path | None = None  #: of this network; None: the ones that come with steadymr


class DiffusionSettings(_Section):
    """Posterior sampling with a diffusion prior."""

    levels: Annotated[int, Field(ge=2, le=1000)] = 20  #: noise levels, one network evaluation each
    sigma_max: Annotated[float, Field(gt=0)] = 0.5  #: first noise level; the image's 99th percentile is 1
    temperature: Annotated[float, Field(ge=1, le=4)] = 1.05  #: of the prior, measured on simulated heads; 1 trusts it
    network: Literal["small", "base"] = "small"  #: size of the prior; weights of one's own say theirs themselves
    weights: Path | None = None  #: None: the ones that come with steadymr


class VulnerabilitySettings(_Section):
    """How far crafted changes of the data would move the image; costs more than the reconstruction itself."""

    budget_percent: Annotated[float, Field(ge=0, le=10)] = 0.0  #: L2 norm of the change over the data's; 0: not asked
    draws: Annotated[int, Field(ge=1, le=16)] = 2  #: random starts, each crafted and reconstructed


class StabilitySettings(_Section):
    """When an image is stable, and what is known about the score's meaning."""

    stable: Annotated[float, Field(ge=0, le=1)] = 0.90  #: scores from here on are "stable"
    review: Annotated[float, Field(ge=0, le=1)] = 0.75  #: scores from here on are for "review", below "unstable"
    noise_draw_share: Annotated[float, Field(ge=0, le=1)] = 0.25  #: share of samples under redrawn noise
    max_samples: Annotated[int, Field(ge=4, le=256)] = 16  #: drawn at most, where chance moves the score by 0.01
    calibration: Path | None = None  #: made by ``steadymr calibrate``; None: the one that comes with steadymr
    anatomy: str = ""  #: such as head, where the scan's header does not say the body part
    tolerance_percent: Annotated[float, Field(gt=0)] = 20.0  #: of the local signal; wider intervals make a region
    site_model: str | None = None  #: name or path of imperfections to draw: ``steadymr list site-models``; None: none
    site_draws: Annotated[int, Field(ge=2, le=64)] = 4  #: of the site model
    site_samples: Annotated[int, Field(ge=2, le=64)] = 2  #: posterior samples for each draw
    tempered: bool = True  #: two more samples, with the noise said to be stronger, as further evidence
    cyclic: bool = False  #: the same price: the image measured again on other lines
    vulnerability: VulnerabilitySettings = VulnerabilitySettings()

    @model_validator(mode="after")
    def _ordered(self) -> StabilitySettings:
        if self.review > self.stable:
            raise ValueError(f"review ({self.review}) must not be above stable ({self.stable})")
        return self


class FallbackSettings(_Section):
    """What leaves when a learned image is in doubt, fails, or takes too long."""

    on_doubt: Literal["classical first", "as ordered"] = "classical first"  #: if unstable or uncalibrated
    on_failure: Literal["classical", "stop"] = "classical"  #: of a learned step: memory, weights, values not finite
    on_no_calibration: Literal["refuse", "map-free"] = "refuse"  #: lines; map-free: folded images, marked and unscored
    deadline_s: Annotated[float, Field(gt=0)] | None = None  #: for sampling one volume; past it images are unscored


class DicomSettings(_Section):
    """The series that are written."""

    series_number: Annotated[int, Field(ge=1, le=9000)] = 7001  #: of the first series; the others follow
    objects: tuple[DerivedObject, ...] = ()  #: what is made beside each MR series
    region_percent: Annotated[float, Field(gt=0)] = 20.0  #: a region is unstable where samples differ by more
    deidentify: bool = False  #: nothing that leads to the patient, for research exports


class LiveSettings(_Section):
    """Scans that come in while they are measured, from Gadgetron, MRD and FIRE clients."""

    images: Literal["mrd", "dicom", "both"] = "mrd"  #: each as soon as it is done, finished series at the end, or both
    pixels: Literal["uint16", "float32"] = "uint16"  #: of the images that leave as MRD
    deliver_to: str = ""  #: which of the ``destinations`` gets the finished series; empty: none
    outbox: Path = Path("outbox")  #: folder where series wait until the destination has them
    delivery_wait_s: Annotated[float, Field(ge=0, le=3600)] = 60.0  #: before the client is told that they still wait
    resident: str = ""  #: HOST:PORT of a running ``steadymr serve`` that a gadget hands its scans to; empty: none

    @field_validator("resident")
    @classmethod
    def _host_and_port(cls, resident: str) -> str:
        host, _, port = resident.rpartition(":")
        if resident and not (host and port.isdigit() and 0 < int(port) < 1 << 16):
            raise ValueError("expected HOST:PORT such as localhost:9002")
        return resident


class ServeSettings(_Section):
    """The resident server: where it listens, whom it serves, and how much a peer may ask of it."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 9002  #: of Gadgetron, MRD and FIRE clients; 0 takes any
    health_port: Annotated[int, Field(ge=0, le=65535)] | None = None  #: of /healthz, /readyz, /metrics; None: none
    allow: tuple[str, ...] = ("127.0.0.0/8", "::1/128")  #: addresses or networks of clients
    scans_at_once: Annotated[int, Field(ge=1, le=64)] = 4  #: more wait until one ends
    slices_at_once: Annotated[int, Field(ge=1, le=64)] = 2  #: of different scans, reconstructed and sampled together
    idle_s: Annotated[float, Field(gt=0)] = 300.0  #: without a byte from a peer in the middle of a scan
    first_message_s: Annotated[float, Field(gt=0)] = 30.0  #: without a byte from a peer that has just connected
    message_mib: Annotated[int, Field(ge=1, le=1 << 16)] = 1024  #: any one message
    samples: Annotated[int, Field(ge=1, le=1 << 16)] = 32768  #: in one readout
    channels: Annotated[int, Field(ge=1, le=1 << 16)] = 1024
    matrix: Annotated[int, Field(ge=1, le=1 << 16)] = 4096  #: along any axis of an image


class IdentitySettings(_Section):
    """Where patient and study come from."""

    source: Literal["header", "study", "find", "qidors", "worklist"] = "header"
    study: Path | None = None  #: source study: a DICOM file or folder of the same exam
    destination: str | None = None  #: find, qidors, worklist: which of the destinations is asked
    key: Literal["accession_number", "patient_id"] = "accession_number"  #: asked for by this
    value: str = ""  #: of the key; empty takes the one that the scan's header states

    @model_validator(mode="after")
    def _complete(self) -> IdentitySettings:
        if self.source == "study" and self.study is None:
            raise ValueError("source study needs study, a DICOM file or folder of the same exam")
        if self.source in ("find", "qidors", "worklist") and self.destination is None:
            raise ValueError(f"source {self.source} needs destination, the name of one of the destinations")
        return self


class Settings(_Section):
    """Everything that can be set, with the defaults that ``steadymr replay`` uses."""

    preset: Literal["", "fast", "quality"] = ""  #: see `PRESETS`; empty for the values below
    methods: tuple[Method, ...] = METHODS
    samples: int = 8  #: posterior samples per image; 0 draws none and leaves every image unscored
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    perturb: tuple[str, ...] = ()  #: NAME=VALUE or NAME.PARAMETER=VALUE, see ``steadymr list perturbations``
    assemble: AssembleSettings = AssembleSettings()
    undersample: UndersampleSettings = UndersampleSettings()
    sentinels: SentinelSettings = SentinelSettings()
    classical: ClassicalSettings = ClassicalSettings()
    supervised: SupervisedSettings = SupervisedSettings()
    diffusion: DiffusionSettings = DiffusionSettings()
    stability: StabilitySettings = StabilitySettings()
    fallback: FallbackSettings = FallbackSettings()
    dicom: DicomSettings = DicomSettings()
    identity: IdentitySettings = IdentitySettings()
    live: LiveSettings = LiveSettings()
    serve: ServeSettings = ServeSettings()
    destinations: dict[str, dict[str, Any]] = {}  #: name -> url and options, for ``steadymr send --to NAME``

    @field_validator("samples")
    @classmethod
    def _enough_samples(cls, samples: int) -> int:
        if samples != 0 and not 4 <= samples <= 256:
            raise ValueError("a score needs at least 4 and at most 256 samples, or 0 for none at all")
        return samples

    @field_validator("methods")
    @classmethod
    def _some_methods(cls, methods: tuple[Method, ...]) -> tuple[Method, ...]:
        if not methods or len(set(methods)) != len(methods):
            raise ValueError(f"name each method once, and at least one of {', '.join(METHODS)}")
        return methods

    @model_validator(mode="after")
    def _diffusion_needs_samples(self) -> Settings:
        if self.samples == 0 and "diffusion" in self.methods:
            raise ValueError("the diffusion image is the mean of samples: with samples 0, leave diffusion out")
        return self

    @model_validator(mode="after")
    def _asks_a_destination(self) -> Settings:
        if self.identity.destination and self.identity.destination not in self.destinations:
            known = ", ".join(self.destinations) or "none"
            raise ValueError(f"identity.destination names {self.identity.destination!r}, but there are: {known}")
        return self

    @model_validator(mode="after")
    def _delivers_to_a_destination(self) -> Settings:
        if self.live.deliver_to and self.live.deliver_to not in self.destinations:
            known = ", ".join(self.destinations) or "none"
            raise ValueError(f"live.deliver_to names {self.live.deliver_to!r}, but the destinations are: {known}")
        return self

    @property
    def n_noise_draws(self) -> int:
        """How many of the samples are drawn under redrawn noise; at least one sample is not."""
        return min(round(self.samples * self.stability.noise_draw_share), max(self.samples - 1, 0))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all settings that can change a pixel; the device is not one, for the pixels themselves tell."""
        without = {"device", "destinations", "identity", "live", "preset", "serve"}
        text = json.dumps(self.model_dump(mode="json", exclude=without), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """All settings as plain JSON values."""
        return self.model_dump(mode="json")


def load_settings(
    path: Path | None = None, overrides: dict[str, Any] | None = None, *, under: dict[str, Any] | None = None
) -> Settings:
    """Settings from a YAML file, with ``overrides`` (nested as in the file) laid over it, and ``under`` below it.

    Raises
    ------
    SettingsError
        If the file cannot be read, has an unknown key, or a value out of range; the sentence names each of them.
    """
    layers = (under or {}, {} if path is None else _read_yaml(path), overrides or {})
    values = functools.reduce(_merged, map(_with_preset, layers))
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        where = "command line" if path is None else f"{path} or command line"
        raise SettingsError(f"{where}: {_sentences(error)}") from error


def overrides_from_text(wanted: Mapping[str, str]) -> dict[str, Any]:
    """Settings as a Gadgetron chain or a scanner's dialogue gives them: dotted names and text, lists with commas.

    ``{"diffusion.levels": "12", "methods": "classical,diffusion"}`` becomes what a YAML file would hold.
    """
    overrides: dict[str, Any] = {}
    for name, text in wanted.items():
        *sections, key = name.split(".")
        place = overrides
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise SettingsError(f"the setting {name!r} is inside {section!r}, which was given a value of its own")
        place[key] = [part.strip() for part in text.split(",") if part.strip()] if name in LISTS else text
    return overrides


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the config file {path}: {error}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"the config file {path} is not YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"the config file {path} should hold keys and values, but holds a {type(values).__name__}")
    return values


def _with_preset(values: dict[str, Any]) -> dict[str, Any]:
    """The same values on top of those that their preset stands for; one that does not exist is refused later."""
    return _merged(PRESETS.get(str(values.get("preset")), {}), values)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _sentences(error: ValidationError) -> str:
    return "; ".join(_sentence(detail) for detail in error.errors())


def _sentence(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "settings"
    if detail["type"] == "extra_forbidden":
        return f"there is no setting {key!r}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{key}: {message} (got {detail['input']!r})" if detail["loc"] else message
