"""What a reader of the results has to know about how they came about, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from steadymr.config import Settings
from steadymr.perturb import Perturbation
from steadymr.types import KSpace, NoiseSource

NOISE_SENTENCES: dict[NoiseSource, str] = {
    "noise scan": "",
    "oversampled margin": "no noise scan: the noise level was estimated from the margin of the oversampled readout",
    "k-space edge": "no noise scan: the noise level was estimated from the edge of k-space and may be too high",
}


class Caveats:
    """Collects, over a run, what was assumed, estimated, injected or left out."""

    def __init__(self, settings: Settings, perturbations: Sequence[Perturbation]) -> None:
        self.noise_source: NoiseSource | None = None
        self._sentinels_expected = settings.sentinels.expected or settings.undersample.sentinels > 0
        self._sentences: dict[str, None] = {}  # an ordered set
        for sentence in (*_of_settings(settings), *_of_perturbations(perturbations)):
            self._note(sentence)

    def note(self, sentence: str) -> None:
        """Note what went wrong on the way."""
        self._note(sentence)

    def look_at(self, kspace: KSpace) -> None:
        """Note what was assumed or estimated for this volume."""
        self.noise_source = kspace.noise_source
        self._note(NOISE_SENTENCES[kspace.noise_source])
        if self._sentinels_expected and kspace.sentinel is None:
            self._note("sentinel lines were expected, but some volumes have none: their images are tested without")
        if kspace.geometry.assumed:
            self._note(f"geometry: {kspace.geometry.assumed}")

    def sentences(self) -> list[str]:
        """All of them once, in the order they came up."""
        return list(self._sentences)

    def _note(self, sentence: str) -> None:
        if sentence:
            self._sentences[sentence] = None


def _of_settings(settings: Settings) -> list[str]:
    if not settings.samples:
        return ["no samples were drawn: nothing is known about the stability of these images"]
    return []


def _of_perturbations(perturbations: Sequence[Perturbation]) -> list[str]:
    if not perturbations:
        return []
    names = ", ".join(perturbation.name for perturbation in perturbations)
    beyond = [
        f"{perturbation.name}.{field} lies outside its plausible range"
        for perturbation in perturbations
        for field in perturbation.outside_range()
    ]
    return [f"imperfections were injected on purpose: {names}", *beyond]
