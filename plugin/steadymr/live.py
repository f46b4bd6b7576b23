"""The same sentence as `pipeline`, for a scan that is still coming in: images leave as soon as their volume is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

from steadymr import perturb
from steadymr.assemble import assemble
from steadymr.config import Settings, load_settings, overrides_from_text
from steadymr.dicom.facts import verdict_words
from steadymr.errors import SettingsError
from steadymr.models import Models, load_models
from steadymr.reconstruct import Run, reconstruct
from steadymr.source.wire.messages import ImageMessage
from steadymr.source.wire.outgoing import image_message
from steadymr.source.wire.turns import Turns
from steadymr.stopwatch import Stopwatch
from steadymr.types import Readout, ScanHeader, SliceResult


def stream_settings(wanted: Mapping[str, str], base: Settings | None = None) -> Settings:
    """Settings of one live scan: names with dots and text, such as ``diffusion.levels`` and ``12``, laid over ``base``.

    Raises SettingsError for what does not exist and for what makes no sense without a file.
    """
    over = {} if base is None else base.model_dump()
    settings = load_settings(None, overrides_from_text(wanted), under=over)
    if settings.undersample.acceleration > 1:
        raise SettingsError("undersample works on files only: a live scan has no full scan to compare with")
    return settings


def reconstruct_stream(
    header: ScanHeader, readouts: Iterator[Readout], wanted: Mapping[str, str]
) -> Iterator[ImageMessage]:
    """Turn readouts into scored images, one message for each method and plane; loads the networks it needs.

    Raises SteadymrError; nothing is swallowed.
    """
    settings = stream_settings(wanted)
    for result in scored_images(header, readouts, settings, load_models(settings)):
        yield result[1]


def scored_images(
    header: ScanHeader,
    readouts: Iterator[Readout],
    settings: Settings,
    models: Models,
    *,
    watch: Stopwatch | None = None,
    turns: Turns | None = None,
) -> Iterator[tuple[SliceResult, ImageMessage]]:
    """Results with the messages that carry them; scans that share ``turns`` alternate, volume by volume."""
    run = Run(settings, models, perturb.parse_all(settings.perturb), watch or Stopwatch(), lambda what: None)
    sent: Counter[str] = Counter()
    for kspace in assemble(readouts, header, averages=settings.assemble.averages):
        with _turn(turns):
            results = list(reconstruct(kspace, None, run))
        for result in results:
            sent[result.image.method] += 1
            yield result, _message(result, settings, sent[result.image.method])


def _turn(turns: Turns | None) -> AbstractContextManager[None]:
    return nullcontext() if turns is None else turns.turn()


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
        series_number=settings.dicom.series_number + [*map(str, settings.methods)].index(image.method),
    )
