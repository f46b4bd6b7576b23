"""The wheel with each of its extras, each in an environment of its own: installed, checked and started.

    python bench/wheels/run.py [--only EXTRA] [--torch 2.13.0] [--cpu-index URL] [--work DIR] [--uv UV]

Needs nothing but Python and pip, whose settings it takes as they are (``--uv`` installs by uv, faster). Builds the
wheel of this checkout, makes an environment per extra, installs as docs/bare-metal.md says (torch for the CPU; for
``gpu`` the build with CUDA), and runs there, outside the checkout: ``pip check``, ``import steadymr``, ``steadymr
--help``, ``list`` and ``check``, and a line that only this extra makes possible. Prints a table, writes ``result.json``
beside this file, and ends with 1 if anything failed. Without ``--work`` each environment is removed once measured.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
Command = tuple["str | Path", ...]
FOR_TESTS = "test"  # make test installs it, from the checkout
ONLY_WITH = {
    "gpu": "import torch; assert torch.version.cuda, 'torch was built without CUDA'",
    "train": "import steadymr.train.varnet, fastmri.models",
    "audit": "import sigpy.mri.app",
    "ray": "import ray",
}


@dataclass(frozen=True)
class Trial:
    """What one environment turned out to be: sizes in MB of 10^6 bytes, and each step that failed, with its words."""

    extra: str
    torch: str
    n_packages: int
    size_mb: int
    set_up_s: float
    gpu: str
    failures: dict[str, str]


def run(*command: str | Path, cwd: Path, venv: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    if venv:
        environment["VIRTUAL_ENV"] = str(venv)  # how uv knows where to install; pip looks at its own place
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def must(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, done.args))}\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def build_wheel(work: Path) -> Path:
    must(run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", work, CHECKOUT, cwd=work))
    (wheel,) = work.glob("steadymr-*.whl")
    return wheel


def extras_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return set(re.findall(r"^Provides-Extra: (\S+)$", archive.read(metadata).decode(), re.MULTILINE))


def install(pip: Command, wheel: Path, options: argparse.Namespace, extra: str, venv: Path) -> None:
    """As docs/bare-metal.md does it. ``===`` takes no local version, ``+cpu`` no other: whichever index answers."""
    wanted = f"torch==={options.torch}" if extra == "gpu" else f"torch=={options.torch}+cpu"
    alone = (*pip, "install", "--quiet", "--no-deps", wanted)
    if extra != "gpu" and run(*alone, cwd=venv, venv=venv).returncode != 0:
        must(run(*alone, "--extra-index-url", options.cpu_index, cwd=venv, venv=venv))
    must(run(*pip, "install", "--quiet", f"{wheel}[{extra}]", wanted, cwd=venv, venv=venv))


def size_mb(folder: Path) -> int:
    return round(sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6)


def try_extra(extra: str, wheel: Path, options: argparse.Namespace, venv: Path) -> Trial:
    bin_ = venv / "bin"
    pip: Command = (options.uv, "pip") if options.uv else (bin_ / "pip",)
    start_s = time.perf_counter()
    must(run(sys.executable, "-m", "venv", "--clear", venv, cwd=venv.parent))
    install(pip, wheel, options, extra, venv)
    set_up_s = time.perf_counter() - start_s
    steps: dict[str, Command] = {
        "pip check": (*pip, "check"),
        "import": (bin_ / "python", "-W", "error", "-c", "import steadymr, steadymr_gadgets"),
        "--help": (bin_ / "steadymr", "--help"),
        "list": (bin_ / "steadymr", "list", "site-models"),
        "check": (bin_ / "steadymr", "check"),
        f"[{extra}]": (bin_ / "python", "-c", ONLY_WITH[extra]),
    }
    done = {name: run(*command, cwd=venv, venv=venv) for name, command in steps.items()}
    packages = json.loads(must(run(*pip, "list", "--format", "json", cwd=venv, venv=venv)))
    return Trial(
        extra=extra,
        torch=next(package["version"] for package in packages if package["name"] == "torch"),
        n_packages=len(packages),
        size_mb=size_mb(venv),
        set_up_s=round(set_up_s, 1),
        gpu=" ".join(line.strip() for line in done["check"].stdout.splitlines() if "cuda" in line),
        failures={name: (each.stdout + each.stderr)[-2000:] for name, each in done.items() if each.returncode != 0},
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=ONLY_WITH)
    parser.add_argument("--torch", default="2.13.0")
    parser.add_argument("--cpu-index", default="https://download.pytorch.org/whl/cpu")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--uv")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        wheel = build_wheel(work)
        if extras_of(wheel) != {*ONLY_WITH, FOR_TESTS}:
            raise SystemExit(f"the wheel has the extras {sorted(extras_of(wheel))}: say in ONLY_WITH what each is for")
        trials = []
        print(f"{'extra':8}{'torch':>14}{'packages':>10}{'MB':>7}{'set-up s':>10}  what failed")
        for extra in [options.only] if options.only else ONLY_WITH:
            trial = try_extra(extra, wheel, options, work / extra)
            failed = ", ".join(trial.failures) or "nothing"
            print(
                f"{extra:8}{trial.torch:>14}{trial.n_packages:10}{trial.size_mb:7}{trial.set_up_s:10.0f}  {failed}",
                *(f"{name}: {words}" for name, words in trial.failures.items()),
                *([f"        {trial.gpu}"] if extra == "gpu" else []),
                sep="\n",
                flush=True,
            )
            trials.append(trial)
            if not options.work:
                shutil.rmtree(work / extra)
    result = {"python": sys.version.split()[0], "trials": [asdict(trial) for trial in trials]}
    Path(__file__).with_name("result.json").write_text(json.dumps(result, indent=2) + "\n")
    return 1 if any(trial.failures for trial in trials) else 0


if __name__ == "__main__":
    sys.exit(main())
