"""The resident server: networks loaded once, scans of several clients in turn."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from steadymr import delivery
from steadymr.config import Settings
from steadymr.errors import SettingsError, SteadymrError
from steadymr.live.batching import SharedDenoiser
from steadymr.live.openrecon import known, settings_from
from steadymr.live.scan import live_messages, stream_settings
from steadymr.models import Models
from steadymr.source.wire.limits import Patience, WireLimits
from steadymr.source.wire.live_scan import Emit, HandleScan
from steadymr.source.wire.monitor import Metrics
from steadymr.source.wire.scan_config import ScanConfig
from steadymr.source.wire.server import Server, ServerSettings, stop_on_signals
from steadymr.source.wire.turns import Turns
from steadymr.stopwatch import Stopwatch
from steadymr.types import Readout, ScanHeader, SliceResult
from steadymr.volume.fallback import classical_alone, load_or_fall_back

log = logging.getLogger(__name__)

KNOWN_NAMES = (
    "",
    "steadymr",
    "steadymr.xml",
    "default",
    "default.xml",
    "openrecon",
)  #: of configurations; never a path
#: A client must not choose files or devices of this machine, nor whose images these are.
NOT_FROM_OUTSIDE = (
    "calibration", "destinations", "device", "identity", "outbox", "resident", "serve", "site_model", "weights",
)  # fmt: skip


def serve(settings: Settings) -> None:
    """Load the networks, then serve until a signal says stop; scans under way are finished.

    Raises SettingsError if a port is taken, WeightsError if the networks cannot be loaded and the settings say to stop
    then.
    """
    settings, models, failure = load_or_fall_back(settings)
    metrics = Metrics()
    server = Server(
        handler(settings, models, metrics, failure), server_settings(settings), *tolerance(settings), metrics=metrics
    )
    stop_on_signals(server)
    with _sender(settings, metrics):
        server.serve_forever()


def server_settings(settings: Settings) -> ServerSettings:
    """Where to listen and whom to serve."""
    wanted = settings.serve
    return ServerSettings(
        host=wanted.host,
        port=wanted.port,
        allowed_peers=wanted.allow,
        scans_at_once=wanted.scans_at_once,
        health_port=wanted.health_port,
    )


def tolerance(settings: Settings) -> tuple[WireLimits, Patience]:
    """How much a peer may ask of us, and how long we wait for it."""
    wanted = settings.serve
    limits = WireLimits(
        message_bytes=wanted.message_mib << 20,
        samples=wanted.samples,
        channels=wanted.channels,
        matrix=wanted.matrix,
    )
    return limits, Patience(first_s=wanted.first_message_s, idle_s=wanted.idle_s)


def _sender(settings: Settings, metrics: Metrics) -> AbstractContextManager[None]:
    """Keeps a sender at work while we serve, also for what earlier scans have left in the outbox."""
    if not settings.destinations:
        return nullcontext()
    metrics.registry.register(OutboxMetrics(settings.live.outbox))
    return delivery.sender_running(settings.live.outbox)


class OutboxMetrics(Collector):
    """How many instances are in the outbox, by destination and state, asked anew each time."""

    def __init__(self, outbox: Path) -> None:
        self._outbox = outbox

    def collect(self) -> Iterator[Metric]:
        """One gauge."""
        gauge = GaugeMetricFamily("steadymr_outbox", "Instances in the outbox", labels=["destination", "state"])
        try:
            for (destination, state), count in delivery.outbox_counts(self._outbox).items():
                gauge.add_metric([destination, state], count)
        except SteadymrError as error:
            log.warning("the outbox cannot be counted: %s", error)
        yield gauge


def handler(settings: Settings, models: Models, metrics: Metrics, failure: str = "") -> HandleScan:
    """What the server does with a scan: reconstruct it with the resident networks, under the client's settings.

    ``failure`` says why there are no networks; then every scan gets its classical series, and is told.
    """
    turns = Turns(settings.serve.slices_at_once if models.device == "cuda" else 1)  # on a CPU one fills it
    models = _shared(models, turns)
    metrics.gpu_waiting.set_function(lambda: turns.n_waiting)
    if models.device == "cuda":
        metrics.gpu_bytes.set_function(torch.cuda.memory_reserved)

    def count(result: SliceResult) -> None:
        metrics.verdicts.labels(result.stability.verdict).inc()
        if result.stability.score is not None:
            metrics.scores.observe(result.stability.score)

    def handle(header: ScanHeader, readouts: Iterator[Readout], config: ScanConfig, emit: Emit) -> None:
        _check_name(config.name)
        from_header = known(config.header_parameters) if config.name == "openrecon" else {}
        asked = {**settings_from(from_header), **settings_from(config.settings)}
        _check_names(asked)
        wanted, watch = stream_settings(asked, settings, takes_dicom=config.takes_dicom), Stopwatch()
        wanted = classical_alone(wanted) if failure else wanted
        _check_loaded(wanted, models)
        messages = live_messages(
            header, readouts, wanted, models, watch=watch, turns=turns, look=count, failure=failure
        )
        for message in messages:
            emit(message)
        for stage, seconds in watch.seconds().items():
            metrics.stage_seconds.labels(stage).observe(seconds)

    return handle


def _shared(models: Models, turns: Turns) -> Models:
    """The networks for scans that run together: those with slices of one shape share the prior's evaluations."""
    if models.prior is None or turns.at_once == 1:
        return models
    return replace(models, prior=SharedDenoiser(models.prior, lambda: turns.n_running))


def _check_name(name: str) -> None:
    if name not in KNOWN_NAMES:
        known = ", ".join(known for known in KNOWN_NAMES if known)
        raise SettingsError(f"there is no configuration {name[:80]!r} here; known names are {known}")


def _check_names(wanted: dict[str, str]) -> None:
    for name in wanted:
        if name.split(".")[-1] in NOT_FROM_OUTSIDE or name.split(".")[0] in NOT_FROM_OUTSIDE:
            raise SettingsError(f"the setting {name!r} belongs to this machine and can't be set by a client")


def _check_loaded(wanted: Settings, models: Models) -> None:
    """A client may leave methods out, but not ask for networks that were not loaded at the start."""
    if (wanted.samples and models.prior is None) or ("supervised" in wanted.methods and models.supervised is None):
        raise SettingsError("this server was started without the networks that the settings need; see its config")
