"""Under which conditions an image was made: what a calibration is asked about before its figures are used."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = "head"
#: Body parts of DICOM PS3.16, annex L, that mean the same to a reconstruction.
SYNONYMS = {"brain": HEAD, "skull": HEAD, "headneck": HEAD}

ACCELERATION_TOLERANCE = 0.5  #: a calibrated acceleration speaks for those that round to it
RANGE_TOLERANCE = 1.3  #: noise and pixel size may lie beyond what was calibrated by this factor


@dataclass(frozen=True, slots=True)
class Conditions:
    """How one image was made and sampled."""

    method: str
    anatomy: str  #: as `anatomy_name` writes it; empty where nobody stated it
    acceleration: float  #: lines beyond the calibration lines over those of them that were acquired
    n_coils: int
    noise_sd: float  #: per real channel of an acquired sample, the image's 99th percentile being 1
    pixel_mm: float  #: the larger side
    prior: str  #: SHA-256 of the weights that drew the samples
    model: str  #: SHA-256 of the weights that made the image; empty for classical images
    sampler: str  #: its settings, in words
    reconstruction: str  #: those of the method, in words


@dataclass(frozen=True, slots=True)
class Reach:
    """The conditions that one calibration of one method covers."""

    anatomy: str
    accelerations: tuple[float, ...]
    n_coils: tuple[int, int]
    noise_sd: tuple[float, float]
    pixel_mm: tuple[float, float]
    prior: str
    model: str
    sampler: str
    reconstruction: str

    def missing(self, scan: Conditions) -> str:
        """What the scan has that was not calibrated, as a sentence; empty if all is within reach."""
        for sentence in (self._what_was_scanned(scan), self._how_it_was_scanned(scan), self._what_computed(scan)):
            if sentence:
                return sentence
        return ""

    def _what_was_scanned(self, scan: Conditions) -> str:
        if not scan.anatomy:
            return "nobody stated the body part: set stability.anatomy, or let the scanner write it into the header"
        if scan.anatomy != self.anatomy:
            return f"the body part is {scan.anatomy}, and the calibration is for {self.anatomy}"
        return ""

    def _how_it_was_scanned(self, scan: Conditions) -> str:
        if self.acceleration_near(scan.acceleration) is None:
            known = ", ".join(f"{value:g}" for value in self.accelerations)
            return f"the acceleration is {scan.acceleration:.1f}, and calibrated are {known}"
        low, high = self.n_coils
        if not low <= scan.n_coils <= high:
            return f"the scan has {scan.n_coils} coils, and calibrated are {low} to {high}"
        noise = "the noise is {:.2g} of the signal, and calibrated are {:.2g} to {:.2g}"
        if not _within(scan.noise_sd, self.noise_sd):
            return noise.format(scan.noise_sd, *self.noise_sd)
        if not _within(scan.pixel_mm, self.pixel_mm):
            low_mm, high_mm = self.pixel_mm
            return f"pixels are {scan.pixel_mm:.1f} mm, and calibrated are {low_mm:.1f} to {high_mm:.1f}"
        return ""

    def _what_computed(self, scan: Conditions) -> str:
        if scan.prior != self.prior:
            return f"the prior's weights are {scan.prior[:12] or 'unknown'}, and calibrated are {self.prior[:12]}"
        if scan.model != self.model:
            known = self.model[:12] or "none"
            return f"the method's weights are {scan.model[:12] or 'none'}, and calibrated are {known}"
        if scan.sampler != self.sampler:
            return f"the samples were drawn with {scan.sampler}, and calibrated is {self.sampler}"
        if scan.reconstruction != self.reconstruction:
            return f"the image was made with {scan.reconstruction}, and calibrated is {self.reconstruction}"
        return ""

    def acceleration_near(self, acceleration: float) -> float | None:
        """The calibrated acceleration that speaks for this one, or None."""
        nearest = min(self.accelerations, key=lambda value: abs(value - acceleration))
        return nearest if abs(nearest - acceleration) <= ACCELERATION_TOLERANCE else None


def reach_of(scans: list[Conditions], accelerations: tuple[float, ...]) -> Reach:
    """The reach of a calibration made from these scans of one method and anatomy."""
    first = scans[0]
    return Reach(
        anatomy=first.anatomy,
        accelerations=accelerations,
        n_coils=(min(scan.n_coils for scan in scans), max(scan.n_coils for scan in scans)),
        noise_sd=(min(scan.noise_sd for scan in scans), max(scan.noise_sd for scan in scans)),
        pixel_mm=(min(scan.pixel_mm for scan in scans), max(scan.pixel_mm for scan in scans)),
        prior=first.prior,
        model=first.model,
        sampler=first.sampler,
        reconstruction=first.reconstruction,
    )


def anatomy_name(stated: str) -> str:
    """A body part as calibrations name it: lower case, and one word for those that are alike."""
    name = "".join(letter for letter in stated.lower() if letter.isalnum())
    return SYNONYMS.get(name, name)


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] / RANGE_TOLERANCE <= value <= limits[1] * RANGE_TOLERANCE
