"""The command that gives scores a meaning: ``steadymr calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from steadymr.config import load_settings
from steadymr.errors import SettingsError
from steadymr.progress import progress_bar

ACCELERATIONS = (2, 4, 6, 8)


def calibrate(
    out: Annotated[Path, typer.Option("--out", help="The calibration to write; name it in stability.calibration.")],
    scans: Annotated[
        list[Path] | None,
        typer.Option("--scans", metavar="FILE...", help="Fully sampled ISMRMRD files of one anatomy."),
    ] = None,
    simulate: Annotated[bool, typer.Option("--simulate", help="Calibrate with simulated heads instead.")] = False,
    config: Annotated[Path | None, typer.Option("--config", help="The settings that will be used with it.")] = None,
    acceleration: Annotated[
        list[int] | None, typer.Option("--acceleration", metavar="R", help="Calibrate for this one; may be repeated.")
    ] = None,
    subjects: Annotated[int, typer.Option("--subjects", help="How many heads to simulate.")] = 96,
    notebook: Annotated[
        Path | None,
        typer.Option(help="Keep here what was seen of each scan; a run that was broken off goes on from it."),
    ] = None,
    processes: Annotated[int, typer.Option("--processes", help="How many to work at once.")] = 2,
) -> None:
    """Compare scores with true errors on fully sampled scans, and write down what a score means.

    Scans like these, reconstructed with these settings, then get a score; all others are uncalibrated.
    """
    if bool(scans) == simulate:
        raise SettingsError("calibrate needs either --scans with fully sampled files, or --simulate")
    settings = load_settings(config)
    if not settings.samples:
        raise SettingsError("a calibration needs samples, and these settings draw none")
    accelerations = tuple(acceleration or ACCELERATIONS)
    with progress_bar() as advance:
        from steadymr.calibrate import calibrate_scans, calibrate_simulated  # torch takes seconds to load

        how: dict[str, Any] = {"accelerations": accelerations, "n_processes": processes}
        how |= {"notebook": notebook, "progress": advance}
        if scans:
            made = calibrate_scans(scans, settings, out, **how)
        else:
            made = calibrate_simulated(settings, out, n_subjects=subjects, **how)
    for method in made.methods:
        for cell in method.readings[0].cells:
            typer.echo(f"{method.method:12} R = {cell.acceleration:g}: {cell.n_scans} images")
    typer.echo(f"written: {out} (SHA-256 {made.sha256[:12]}); name it in stability.calibration")
