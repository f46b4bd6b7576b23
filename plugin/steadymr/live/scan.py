"""The same sentence as `pipeline`, for a scan that is still coming in: images leave as soon as their volume is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from steadymr import perturb
from steadymr.config import Settings, load_settings, overrides_from_text
from steadymr.dicom.facts import verdict_words
from steadymr.errors import SettingsError
from steadymr.live.series import LiveSeries
from steadymr.models import Models
from steadymr.series.caveats import Caveats
from steadymr.source.wire.messages import Event, ImageMessage, Text
from steadymr.source.wire.outgoing import image_message
from steadymr.source.wire.turns import Turns
from steadymr.stopwatch import Stopwatch
from steadymr.types import Readout, ScanHeader, SliceResult
from steadymr.volume.arriving import assembled, check_sentinels
from steadymr.volume.fallback import load_or_fall_back
from steadymr.volume.reconstruct import begin, reconstruct


def stream_settings(wanted: Mapping[str, str], base: Settings | None = None, *, takes_dicom: bool = False) -> Settings:
    """Settings of one live scan: names with dots and text, such as ``diffusion.levels`` and ``12``, laid over ``base``.

    Raises SettingsError for what does not exist, for what makes no sense without a file, and for DICOM files that the
    client would choke on.
    """
    over = {} if base is None else base.model_dump()
    settings = load_settings(None, overrides_from_text(wanted), under=over)
    check_sentinels(settings)
    if settings.undersample.acceleration > 1:
        raise SettingsError("undersample works on files only: a live scan has no full scan to compare with")
    if settings.live.images != "mrd" and not takes_dicom:
        raise SettingsError(
            f"live.images is {settings.live.images}, but neither Gadgetron nor a FIRE client takes DICOM from here; "
            "leave it at mrd, and have the series delivered by live.deliver_to"
        )
    return settings


def reconstruct_stream(
    header: ScanHeader, readouts: Iterator[Readout], wanted: Mapping[str, str], notes: Sequence[str] = ()
) -> Iterator[Event]:
    """Turn readouts into scored images, one message for each method and plane; loads the networks it needs.

    ``notes`` join what the images say was assumed or left out. Raises SteadymrError; nothing is swallowed.
    """
    settings, models, failure = load_or_fall_back(stream_settings(wanted))
    yield from live_messages(header, readouts, settings, models, notes=notes, failure=failure)


def live_messages(
    header: ScanHeader,
    readouts: Iterator[Readout],
    settings: Settings,
    models: Models,
    *,
    watch: Stopwatch | None = None,
    turns: Turns | None = None,
    notes: Sequence[str] = (),
    look: Callable[[SliceResult], None] = lambda result: None,
    failure: str = "",
) -> Iterator[Event]:
    """What goes back to the client: images as they are done, warnings as they come up, finished DICOM at the end.

    Scans that share ``turns`` alternate, volume by volume. ``look`` sees each result before its message leaves. Raises
    DeliveryError after everything has left, if the series should have reached a PACS and have not.
    """
    caveats = Caveats(settings, perturb.parse_all(settings.perturb))
    run = begin(settings, models, watch or Stopwatch(), note=caveats.note, failure=failure)
    series = LiveSeries(header, settings)
    sent: Counter[str] = Counter()
    told: set[str] = set()
    for kspace in assembled(series.watch(readouts), header, settings):
        caveats.look_at(kspace)
        with _turn(turns):
            results = list(reconstruct(kspace, None, run))
        sentences = [*notes, *caveats.sentences()]
        yield from (Text(f"WRN {sentence}") for sentence in sentences if sentence not in told)
        told.update(sentences)
        for result in results:
            sent[result.image.method] += 1
            look(result)
            series.add(result, kspace.noise_source)
            if settings.live.images != "dicom":
                yield _message(result, settings, sent[result.image.method], sentences)
    yield Text(f"DBG steadymr made {sent.total()} images: {', '.join(sorted(sent)) or 'none'}")
    yield from series.finished()


def _turn(turns: Turns | None) -> AbstractContextManager[None]:
    return nullcontext() if turns is None else turns.turn()


def _message(result: SliceResult, settings: Settings, number: int, caveats: Sequence[str]) -> ImageMessage:
    image, stability = result.image, result.stability
    warning = "PERTURBED ON PURPOSE, NOT FOR DIAGNOSIS. " if image.perturbations else ""
    words = verdict_words(stability.verdict, stability.score)
    return image_message(
        image,
        stability,
        description=f"{'PERTURBED ' if image.perturbations else ''}steadymr {image.method}",
        comment=f"{warning}{words}: {'; '.join(stability.reasons)}",
        caveats=caveats,
        pixel=settings.live.pixels,
        image_number=number,
        series_number=settings.dicom.series_number + _place_among(image.method, settings),
    )


def _place_among(method: str, settings: Settings) -> int:
    """The method's place in the settings; one that stands in for others comes after them."""
    methods = [*map(str, settings.methods)]
    return methods.index(method) if method in methods else len(methods)
