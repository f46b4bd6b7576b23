"""The commands that deliver: ``steadymr send`` and ``steadymr outbox``."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from steadymr import delivery
from steadymr.config import load_settings
from steadymr.delivery.outbox import State
from steadymr.errors import DeliveryError, SettingsError
from steadymr.progress import progress_bar

outbox_app = typer.Typer(no_args_is_help=True, help="See and manage what waits to be delivered.")

OutboxOption = Annotated[Path, typer.Option("--outbox", help="Folder of the outbox; made if missing.")]
DestinationOption = Annotated[str | None, typer.Option("--to", help="Only what goes to this destination.")]
DEFAULT_OUTBOX = Path("outbox")
WATCH_SECONDS = 1.0


def send(
    paths: Annotated[list[Path], typer.Argument(metavar="DIR|FILE...", help="DICOM files, or folders of them.")],
    to: Annotated[
        str, typer.Option("--to", help="A destination of the config, dimse://CALLED_AE@HOST:PORT, or https://...")
    ],
    outbox: OutboxOption = DEFAULT_OUTBOX,
    wait: Annotated[str, typer.Option("--wait", help="Until stored, or until the PACS has committed.")] = "stored",
    timeout_s: Annotated[
        float | None, typer.Option("--timeout-s", help="Give up waiting; what is left stays in the outbox.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file with destinations.")] = None,
) -> None:
    """Send DICOM files to a PACS; ends with 0 only when every one of them is stored there (or committed)."""
    deliver(paths, destination(to, config), outbox, _wait(wait), timeout_s)


def destination(to: str, config: Path | None) -> delivery.Destination:
    """The destination of that name in the config, or of that URL. Raises SettingsError if there is none."""
    return delivery.parse_destination(*_named(to, config))


def deliver(
    paths: list[Path],
    where: delivery.Destination,
    outbox: Path,
    wait: Literal["stored", "committed"] = "stored",
    timeout_s: float | None = None,
) -> None:
    """Send with a progress bar and say what became of it. Raises DeliveryError unless all has arrived."""
    with progress_bar() as advance:
        result = delivery.send(
            paths, where, outbox, wait, lambda done, total: advance(done, total, "sending"), timeout_s
        )
    if not result.ok:
        raise DeliveryError(f"{result.sentence()}; see 'steadymr outbox list --outbox {outbox}'")
    typer.echo(result.sentence())


@outbox_app.command("list")
def list_outbox(
    outbox: OutboxOption = DEFAULT_OUTBOX,
    to: DestinationOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """What is waiting, where to, why, and since when."""
    rows = delivery.outbox_list(outbox, to)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2, default=str))
    else:
        Console().print(_table(rows))


@outbox_app.command("retry")
def retry_outbox(outbox: OutboxOption = DEFAULT_OUTBOX, to: DestinationOption = None) -> None:
    """Queue again what is in quarantine, and try at once what waits; a running sender takes it up."""
    typer.echo(f"{delivery.retry(outbox, to)} instances queued again")


@outbox_app.command("purge")
def purge_outbox(
    outbox: OutboxOption = DEFAULT_OUTBOX,
    to: DestinationOption = None,
    failed: Annotated[bool, typer.Option("--failed", help="Also what is in quarantine: it is then lost here.")] = False,
) -> None:
    """Remove what has arrived; what still waits is never removed."""
    states: list[State] = ["committed", "stored", "failed"] if failed else ["committed", "stored"]
    typer.echo(f"{delivery.purge(outbox, states, to)} instances removed from the outbox")


@outbox_app.command("watch")
def watch_outbox(outbox: OutboxOption = DEFAULT_OUTBOX, to: DestinationOption = None) -> None:
    """The list, drawn again every second until Ctrl-C."""
    with Live(_table(delivery.outbox_list(outbox, to))) as live:
        while True:
            time.sleep(WATCH_SECONDS)
            live.update(_table(delivery.outbox_list(outbox, to)))


def _named(to: str, config: Path | None) -> tuple[str | dict[str, Any], str | None]:
    """A URL as it is, or the destination of that name in the config."""
    if "://" in to:
        return to, None
    destinations = load_settings(config).destinations
    if to not in destinations:
        known = ", ".join(destinations) or "none"
        raise SettingsError(f"there is no destination {to!r} in the config (it has: {known}), and it is not a URL")
    return destinations[to], to


def _wait(text: str) -> Literal["stored", "committed"]:
    if text == "stored":
        return "stored"
    if text == "committed":
        return "committed"
    raise SettingsError(f"--wait is stored or committed, got {text!r}")


def _table(rows: list[delivery.Row]) -> Table:
    table = Table("id", "to", "state", "since", "next try", "reason")
    for row in rows:
        since, next_try = _clock(row.queued_s), _clock(row.next_try_s)
        table.add_row(str(row.id), row.destination, row.state, since, next_try, row.reason)
    return table


def _clock(seconds: float | None) -> str:
    return "" if not seconds else datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
