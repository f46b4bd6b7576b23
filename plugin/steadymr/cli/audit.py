"""The commands around an audit: ``steadymr audit``, what it can name, and ``steadymr replay`` of many files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from steadymr.config import Settings
from steadymr.errors import SettingsError, SteadymrError
from steadymr.progress import progress_bar

if TYPE_CHECKING:
    from steadymr.executors import Executor

RayOption = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="Spread the work over a Ray cluster, such as auto or HOST:6379."),
]
ScansArgument = Annotated[list[Path] | None, typer.Argument(metavar="SCAN.h5...", help="ISMRMRD files of 2-D scans.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for audit.json, audit.csv and audit.html.")]
ProcessesOption = Annotated[int, typer.Option("--processes", help="Processes on this machine, one thread each.")]


def audit(
    scans: ScansArgument = None,
    *,
    out: OutOption,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file with any of the settings in configs/audit.yaml.")
    ] = None,
    undersample: Annotated[
        int | None,
        typer.Option("--undersample", metavar="R", help="Keep every R-th line of a full scan; errors are then true."),
    ] = None,
    simulate: Annotated[int, typer.Option("--simulate", metavar="N", help="Audit N simulated heads as well.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="4 methods, 6 perturbations, 3 strengths, 2 slices.")] = False,
    methods: Annotated[
        list[str] | None, typer.Option("--methods", metavar="NAME", help="See 'steadymr list methods'.")
    ] = None,
    perturb: Annotated[
        list[str] | None,
        typer.Option(
            "--perturb",
            metavar="NAME[=VALUE]",
            help="worst_case, or see 'steadymr list perturbations'; without a value its range is swept.",
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", help="Samples of methods that work by chance.")] = None,
    slices: Annotated[int | None, typer.Option("--slices", help="Slices of each scan; 0 for all.")] = None,
    weights: Annotated[
        list[Path] | None,
        typer.Option("--weights", help="Weights of your own, one file or several: each says itself what it is for."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Same seed, same table.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")] = None,
    processes: ProcessesOption = 2,
    ray: RayOption = None,
) -> None:
    """Perturb scans, reconstruct them by every method, and say how bad it gets: worst cases and real imperfections."""
    own = _weights(weights or [])
    of_audit = _given(
        methods=methods, perturb=perturb, slices=slices, unet_weights=own.get("unet"), varnet_weights=own.get("varnet")
    )
    of_replay = _given(
        seed=seed, device=device, samples=samples,
        undersample=None if undersample is None else {"acceleration": undersample},
        diffusion={"weights": own["prior"]} if "prior" in own else None,
    )  # fmt: skip
    with progress_bar() as advance:
        advance(0.0, None, "starting")
        from steadymr.audit import run
        from steadymr.audit import scans as audited
        from steadymr.audit.baseline import Job
        from steadymr.audit.settings import load_audit_settings

        settings, of_scans = load_audit_settings(config, of_audit, of_replay, quick=quick, simulated=simulate > 0)
        sources = audited.check_files(tuple(scans or ()), n_simulated=simulate)
        advance(0.0, None, "simulating" if simulate else "reading")
        sources += audited.simulate(simulate, "test", out / "scans")
        with executor(processes, ray, on_gpu=of_scans.device == "cuda") as workers:
            content = run.audit(sources, out, Job(settings, of_scans), workers, advance)
    _print_summary(content, out)


def replay_folder(scan: Path, out: Path, settings: Settings, reference: Path | None, ray: str | None) -> list[Path]:
    """Replay the files of a folder and say what became of each; returns the folders of DICOM that were written.

    Raises SteadymrError if any of them failed, once all have been tried.
    """
    if not scan.is_dir():
        raise SettingsError(f"--ray spreads the files of a folder over a cluster, and {scan} is no folder")
    if reference is not None:
        raise SettingsError("--reference belongs to one scan: replay that scan alone, not its folder")
    with progress_bar() as advance:
        advance(0.0, None, "starting")
        from steadymr import batch

        with executor(1, ray, on_gpu=settings.device == "cuda") as workers:
            replayed = batch.replay_folder(scan, out, settings, workers, advance)
    failed = [one for one in replayed if one.summary is None]
    for one in replayed:
        typer.echo(f"{one.name}: {one.problem or 'replayed, ' + _verdicts(one.summary or {})}")
    if failed:
        raise SteadymrError(
            f"{len(failed)} of {len(replayed)} files failed, {failed[0].name} first: {failed[0].problem}"
        )
    return [out / Path(one.name).stem / "dicom" for one in replayed]


@contextmanager
def executor(processes: int, ray: str | None, *, on_gpu: bool = False) -> Iterator[Executor]:
    """Where the work is to be done, as the command line's options say."""
    from steadymr.executors import local_processes, ray_cluster

    with local_processes(processes) if ray is None else ray_cluster(ray, on_gpu=on_gpu) as workers:
        yield workers


def list_methods(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Reconstruction methods: those of a replay, which --method can name, and those of an audit."""
    from steadymr.audit.methods import list_methods as of_audit
    from steadymr.volume.reconstruct import METHOD_DESCRIPTIONS

    described = {str(name): description for name, description in METHOD_DESCRIPTIONS.items()}
    audited = {str(entry["name"]): str(entry["description"]) for entry in of_audit()}
    commands = {"replay": described, "audit": audited}
    users = {name: [command for command in commands if name in commands[command]] for name in described | audited}
    if as_json:
        rows = [
            {"name": name, "description": (audited | described)[name], "used_by": used_by}
            for name, used_by in users.items()
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    for name, used_by in users.items():
        typer.echo(f"{name:20} {' and '.join(used_by):17} {(audited | described)[name]}")


def list_site_models(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Site models: named sets of imperfections, each with ranges to draw from."""
    from steadymr.perturb import site

    models = {name: site.load(path) for name, path in site.shipped().items()}
    if as_json:
        typer.echo(json.dumps([model.model_dump(mode="json") for model in models.values()], indent=2))
        return
    for name, model in models.items():
        typer.echo(f"{name:14} {model.description}")


def _verdicts(summary: dict[str, Any]) -> str:
    return ", ".join(f"{series['method']} {series['verdict']}" for series in summary.get("series", []))


def _weights(paths: list[Path]) -> dict[str, str]:
    """Files of weights by what they are for, as they say themselves."""
    if not paths:
        return {}
    from steadymr.recon.weights import kind_of  # loads torch, which takes seconds

    found: dict[str, str] = {}
    for path in paths:
        kind = kind_of(path)
        if kind in found:
            raise SettingsError(f"--weights names two files for the {kind}: {found[kind]} and {path}")
        found[kind] = str(path)
    return found


def _given(**options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _print_summary(content: dict[str, Any], out: Path) -> None:
    """One line for each perturbation and strength; the page has the rest."""
    from steadymr.audit.attacks import ATTACK_COLUMNS, described

    methods = list(dict.fromkeys(entry["method"] for entry in content["summary"]))
    table = Table("perturbation", "strength", *(f"{method}\nPSNR, dB" for method in methods))
    points: dict[tuple[str, str], dict[str, str]] = {}
    for entry in content["summary"]:
        attack = described(*(entry[key] for key in ATTACK_COLUMNS))
        name = entry["perturbation"] + (f" on {attack}" if attack else "")
        strength = f"{entry['strength']:g} {entry['unit']}" if entry["parameter"] else ""
        mark = " (outside its range)" if entry["outside_range"] else ""
        mean = entry["psnr_db"]["mean"]
        points.setdefault((name, strength + mark), {})[entry["method"]] = "-" if mean is None else f"{mean:.1f}"
    for (name, strength), by_method in points.items():
        table.add_row(name, strength, *(by_method.get(method, "") for method in methods))
    Console().print(table)
    for warning in content["warnings"]:
        typer.echo(f"note: {warning}")
    typer.echo(f"page: {out / 'audit.html'}")
