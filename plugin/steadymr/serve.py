"""The resident server: networks loaded once, scans of several clients in turn."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from steadymr.config import Settings
from steadymr.errors import SettingsError
from steadymr.live import scored_images, stream_settings
from steadymr.models import Models, load_models
from steadymr.source.wire.live_scan import Emit, HandleScan
from steadymr.source.wire.monitor import Metrics
from steadymr.source.wire.scan_config import ScanConfig
from steadymr.source.wire.server import Server, ServerSettings, stop_on_signals
from steadymr.source.wire.turns import Turns
from steadymr.stopwatch import Stopwatch
from steadymr.types import Readout, ScanHeader

log = logging.getLogger(__name__)

KNOWN_NAMES = (
    "",
    "steadymr",
    "steadymr.xml",
    "default",
    "default.xml",
    "openrecon",
)  #: of configurations; never a path
NOT_FROM_OUTSIDE = ("device", "destinations", "weights")  #: a client must not choose files or devices of this machine


def serve(settings: Settings, where: ServerSettings) -> None:
    """Load the networks, then serve until a signal says stop; scans under way are finished.

    Raises SettingsError if a port is taken, WeightsError if the networks cannot be loaded.
    """
    models, metrics = load_models(settings), Metrics()
    server = Server(handler(settings, models, metrics), where, metrics=metrics)
    stop_on_signals(server)
    server.serve_forever()


def handler(settings: Settings, models: Models, metrics: Metrics) -> HandleScan:
    """What the server does with a scan: reconstruct it with the resident networks, under the client's settings."""
    turns = Turns()

    def handle(header: ScanHeader, readouts: Iterator[Readout], config: ScanConfig, emit: Emit) -> None:
        _check_name(config.name)
        _check_names(config.settings)
        wanted, watch = stream_settings(config.settings, settings), Stopwatch()
        _check_loaded(wanted, models)
        for result, message in scored_images(header, readouts, wanted, models, watch=watch, turns=turns):
            emit(message)
            metrics.verdicts.labels(result.stability.verdict).inc()
            if result.stability.score is not None:
                metrics.scores.observe(result.stability.score)
        for stage, seconds in watch.seconds().items():
            metrics.stage_seconds.labels(stage).observe(seconds)

    return handle


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
    if (wanted.samples and models.prior is None) or ("supervised" in wanted.methods and models.unet is None):
        raise SettingsError("this server was started without the networks that the settings need; see its config")
