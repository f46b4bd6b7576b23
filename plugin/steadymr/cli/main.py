"""The command line: each command is one call into the pipeline, and each failure one sentence and an exit code."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from steadymr import __version__
from steadymr.cli import audit as cli_audit
from steadymr.cli import calibrate as cli_calibrate
from steadymr.cli import delivery as cli_delivery
from steadymr.config import METHODS, Settings, load_settings
from steadymr.errors import SettingsError, SteadymrError
from steadymr.progress import progress_bar

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Reconstruct raw ISMRMRD k-space with classical, supervised and diffusion methods, score how stable each "
    "image is under repeated sampling, and write DICOM series that carry the verdict.\n\n"
    "Start with [bold]steadymr demo --out demo[/bold], then open demo/report.html.",
)
train_app = typer.Typer(no_args_is_help=True, help="Train a network from a config and a seed.")
list_app = typer.Typer(no_args_is_help=True, help="List what can be named on the command line.")
app.add_typer(train_app, name="train")
app.add_typer(list_app, name="list")
app.add_typer(cli_delivery.outbox_app, name="outbox")
app.command()(cli_delivery.send)
app.command()(cli_calibrate.calibrate)
app.command()(cli_audit.audit)
list_app.command("methods")(cli_audit.list_methods)
list_app.command("site-models")(cli_audit.list_site_models)

OutOption = Annotated[Path, typer.Option("--out", help="Folder for dicom/, report.html and summary.json.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="YAML file with any of the settings in configs/replay.yaml.")
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option("--method", help=f"Series to make, one or several of {', '.join(METHODS)}; default all."),
]
SamplesOption = Annotated[
    int | None,
    typer.Option("--samples", help="Posterior samples that score each image, at least 4; 0 leaves images unscored."),
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")]
FastOption = Annotated[
    bool, typer.Option("--fast", help="10 network evaluations and 16 samples an image; other options win.")
]
QualityOption = Annotated[
    bool, typer.Option("--quality", help="30 network evaluations and 16 to 32 samples an image; other options win.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Same seed, same pixels and same UIDs.")]


@app.callback()
def _common(verbose: Annotated[bool, typer.Option("--verbose", help="Log what each stage does.")] = False) -> None:
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)


@app.command()
def replay(
    scan: Annotated[
        Path, typer.Argument(metavar="SCAN.h5|DIR", help="ISMRMRD file, group 'dataset', or a folder of such files.")
    ],
    out: OutOption,
    config: ConfigOption = None,
    method: MethodOption = None,
    samples: SamplesOption = None,
    fast: FastOption = False,
    quality: QualityOption = False,
    undersample: Annotated[
        int | None,
        typer.Option("--undersample", metavar="R", help="Keep every R-th line of a full scan; report the true error."),
    ] = None,
    sentinels: Annotated[
        int | None,
        typer.Option("--sentinels", metavar="N", help="With --undersample: measured lines withheld to test the image."),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="Full scan of the same object: report the true error against it.")
    ] = None,
    perturb: Annotated[
        list[str] | None,
        typer.Option(
            "--perturb", metavar="NAME=VALUE", help="Inject an imperfection; see 'steadymr list perturbations'."
        ),
    ] = None,
    weights: Annotated[
        list[Path] | None,
        typer.Option("--weights", help="Weights of your own, one file or several: each says itself what it is for."),
    ] = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    study: Annotated[
        Path | None,
        typer.Option(
            "--study", metavar="FILE|DIR", help="DICOM series of the same exam: patient and study are taken from it."
        ),
    ] = None,
    deidentify: Annotated[
        bool, typer.Option("--deidentify", help="Write nothing that leads to the patient, for research exports.")
    ] = False,
    to: Annotated[
        str | None, typer.Option("--to", help="Then send the series: a destination of the config, or a URL.")
    ] = None,
    outbox: cli_delivery.OutboxOption = cli_delivery.DEFAULT_OUTBOX,
    ray: cli_audit.RayOption = None,
) -> None:
    """Reconstruct a file, score every image, and write one DICOM series per method, a report and a summary.

    Of a folder, every file is replayed into a folder of its own inside --out.
    """
    where = None if to is None else cli_delivery.destination(to, config)
    overrides = _given(
        methods=method, samples=samples, perturb=perturb, device=device, seed=seed, preset=_preset(fast, quality),
        undersample=_given(acceleration=undersample, sentinels=sentinels) or None,
        identity=None if study is None else {"source": "study", "study": study},
        dicom={"deidentify": True} if deidentify else None,
    ) | _settings_for(weights or [])  # fmt: skip
    settings = load_settings(config, overrides)
    if scan.is_dir() or ray is not None:
        sent = cli_audit.replay_folder(scan, out, settings, reference, ray)
    else:
        _replay(scan, out, settings, reference)
        sent = [out / "dicom"]
    if where is not None:
        cli_delivery.deliver(sent, where, outbox)


@app.command()
def demo(
    out: OutOption,
    samples: SamplesOption = None,
    fast: FastOption = False,
    quality: QualityOption = False,
    device: DeviceOption = None,
    seed: SeedOption = None,
) -> None:
    """Simulate an accelerated 8-coil brain scan, write it as ISMRMRD, and replay it beside its full scan."""
    from steadymr.demo import simulate_demo_scans

    settings = load_settings(None, _given(samples=samples, device=device, seed=seed, preset=_preset(fast, quality)))
    with Console(stderr=True).status("simulating a scan"):
        scans = simulate_demo_scans(out / "scan", seed=settings.seed)
    _replay(scans.accelerated, out, settings, scans.full)


@app.command()
def check(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Say what this installation can do; add it to a bug report. Fails if shipped weights are damaged."""
    from steadymr.check import inspect_installation, is_sound

    facts = inspect_installation()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _print_facts(facts)
    if not is_sound(facts):
        raise SteadymrError("this installation is not sound: see the lines above")


@app.command()
def serve(
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; default 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Port for Gadgetron, MRD and FIRE clients; default 9002.")
    ] = None,
    health_port: Annotated[
        int | None, typer.Option("--health-port", help="Port for /healthz, /readyz and /metrics.")
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option("--allow", help="Address or network of a client; default this machine only.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Stay resident with the networks loaded, and reconstruct what Gadgetron, MRD and FIRE clients send."""
    from steadymr.live.serve import serve as run
    from steadymr.source.wire.json_log import JsonFormatter

    logging.getLogger().setLevel(logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonFormatter())
    run(load_settings(config, {"serve": _given(host=host, port=port, health_port=health_port, allow=allow)}))


@list_app.command("perturbations")
def list_perturbations(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Imperfections that --perturb can inject, with parameters, units and plausible ranges."""
    from steadymr import perturb

    if as_json:
        typer.echo(json.dumps(perturb.list_perturbations(), indent=2))
        return
    for name, kind in perturb.PERTURBATIONS.items():
        typer.echo(f"{name}: {perturb.summary(kind)}")
        for key, facts in perturb.parameters_of(kind).items():
            named = f"{name}, or {name}.{key}" if key == kind.principal else f"{name}.{key}"
            assumed = ", a working assumption" if facts.assumption else ""
            typer.echo(f"    {named:44} {facts.low:g} to {facts.high:g} {facts.unit}{assumed}: {facts.meaning}")


def _train(kind: Literal["prior", "unet", "varnet"], config: Path, out: Path, device: str) -> None:
    from steadymr.models import choose_device
    from steadymr.train import run

    device = choose_device(device)
    with progress_bar() as advance:
        run(kind, config, out, lambda step, n_steps, loss: advance(step, n_steps, f"loss {loss:.4f}"), device=device)


TrainConfig = Annotated[Path, typer.Option("--config", help="A recipe such as those in configs/train/.")]
TrainOut = Annotated[
    Path, typer.Option("--out", help="Folder for checkpoints, weights, figures and pictures; resumes there.")
]
TrainDevice = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="auto, cpu or cuda.")]


@train_app.command("prior")
def train_prior(config: TrainConfig, out: TrainOut, device: TrainDevice = "auto") -> None:
    """Train the diffusion prior on simulated anatomy, or on scans of your own."""
    _train("prior", config, out, device)


@train_app.command("unet")
def train_unet(config: TrainConfig, out: TrainOut, device: TrainDevice = "auto") -> None:
    """Train the supervised U-Net on accelerated scans, simulated or made from your own."""
    _train("unet", config, out, device)


@train_app.command("varnet")
def train_varnet(config: TrainConfig, out: TrainOut, device: TrainDevice = "auto") -> None:
    """Train the unrolled supervised network on accelerated scans, simulated or made from your own."""
    _train("varnet", config, out, device)


def main() -> None:
    """Run a command; any failure is one line on stderr and a non-zero exit code."""
    # Threads that spin while they wait make everything many times slower on a machine that others use as well.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(args=_one_value_each(sys.argv[1:]), standalone_mode=True)
    except SteadymrError as error:
        typer.echo(f"steadymr: error: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)


def _one_value_each(arguments: list[str]) -> list[str]:
    """``--method a b``, ``--perturb x=1 y=2`` and ``--scans a b`` as ``--method a --method b`` and so on, for click."""
    spread: list[str] = []
    option = ""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if argument.startswith("-"):
            option = argument if argument in ("--method", "--methods", "--perturb", "--scans") else ""
        elif before != option and _is_value_of(option, argument, in_audit="audit" in arguments[:2]):
            spread.append(option)
        spread.append(argument)
    return spread


def _is_value_of(option: str, argument: str, *, in_audit: bool) -> bool:
    if option == "--scans":
        return True
    if option == "--methods" or (option == "--perturb" and in_audit and argument.isidentifier()):
        return argument.isidentifier()
    return argument in METHODS if option == "--method" else bool(option) and "=" in argument


def _replay(scan: Path, out: Path, settings: Settings, reference: Path | None) -> None:
    with progress_bar() as advance:
        from steadymr.pipeline import replay as run  # torch takes seconds to load: the bar is there already

        summary = run(scan, out, settings, reference=reference, progress=advance)
    _print_summary(summary, out)


def _settings_for(weights: list[Path]) -> dict[str, Any]:
    if not weights:
        return {}
    from steadymr.models import settings_for  # loads torch, which takes seconds

    return settings_for(weights)


def _preset(fast: bool, quality: bool) -> str | None:
    if fast and quality:
        raise SettingsError("--fast and --quality exclude each other: give one of them")
    return "fast" if fast else "quality" if quality else None


def _given(**options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _print_summary(summary: dict[str, Any], out: Path) -> None:
    table = Table("series", "images", "score", "verdict", "PSNR (true)", "SSIM (true)")
    for series in summary["series"]:
        truth = summary["truth"].get(series["method"], {})
        table.add_row(
            series["description"], str(series["n_images"]), _number(series["score"], 2), series["verdict"],
            _number(truth.get("psnr_db"), 1, " dB"), _number(truth.get("ssim"), 3),
        )  # fmt: skip
    Console().print(table)
    for warning in summary["warnings"]:
        typer.echo(f"note: {warning}")
    typer.echo(f"report: {out / 'report.html'}")


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "unknown" if value is None else f"{value:.{digits}f}{unit}"


def _print_facts(facts: dict[str, Any]) -> None:
    typer.echo(f"steadymr {__version__}")
    for section, entries in facts.items():
        typer.echo(f"{section}:")
        for key, value in entries.items():
            typer.echo(f"  {key}: {value}")
