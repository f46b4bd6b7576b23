"""The same sentence as `pipeline`, for a scan that is still coming in: images leave as soon as their volume is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from steadymr import perturb
from steadymr.assemble import assemble
from steadymr.config import Settings, load_settings, overrides_from_text
from steadymr.dicom.facts import verdict_words
from steadymr.errors import SettingsError
from steadymr.models import Models, load_models
from steadymr.reconstruct import Run, reconstruct
from steadymr.source.messages import ImageMessage
from steadymr.source.outgoing import image_message
from steadymr.stopwatch import Stopwatch
from steadymr.types import KSpace, Readout, ScanHeader, SliceResult


def reconstruct_stream(
    header: ScanHeader, readouts: Iterator[Readout], wanted: Mapping[str, str], models: Models | None = None
) -> Iterator[ImageMessage]:
    """Turn readouts into scored images, one message for each method and plane.

    ``wanted`` are settings as text, named as in the YAML with dots, such as ``diffusion.levels``. ``models`` are
    those of a resident server; None loads them. Raises SteadymrError; nothing is swallowed.
    """
    settings = load_settings(None, overrides_from_text(wanted))
    if settings.undersample.acceleration > 1:
        raise SettingsError("undersample works on files only: a live scan has no full scan to compare with")
    perturbations = perturb.parse_all(settings.perturb)
    run = Run(settings, models or load_models(settings), perturbations, Stopwatch(), lambda what: None)
    sent: Counter[str] = Counter()
    for kspace in assemble(readouts, header, averages=settings.assemble.averages):
        for result in reconstruct(kspace, None, run):
            sent[result.image.method] += 1
            yield _message(result, settings, sent[result.image.method])


def _message(result: SliceResult, settings: Settings, number: int) -> ImageMessage:
    image, stability = result.image, result.stability
    warning = "PERTURBED ON PURPOSE, NOT FOR DIAGNOSIS. " if image.perturbations else ""
    words = verdict_words(stability.verdict, stability.score)
    return image_message(
        image,
        stability,
        description=f"{'PERTURBED ' if image.perturbations else ''}steadymr {image.method}",
        comment=f"{warning}{words}: {'; '.join(stability.reasons)}",
        image_number=number,
        series_number=settings.dicom.series_number + settings.methods.index(image.method),
    )
