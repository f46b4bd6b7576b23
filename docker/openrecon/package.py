"""Packs a built image for OpenRecon, in either of the two layouts that scanners read.

    python docker/openrecon/package.py label                      # for the image, base64, as VA60 and VA61 want it
    python docker/openrecon/package.py pack IMAGE.tar --out DIR   # both zip files, from a saved image (`docker save`)

The specification comes from `steadymr.live.openrecon`, hence from the settings. Scanners of VA60 and VA61 read it
from the image's label, later ones from a file in the package.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import tarfile
import textwrap
import uuid
import zipfile
from pathlib import Path

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from steadymr.live.openrecon import NAME, VENDOR, specification

MANUAL = Path(__file__).with_name("manual.txt")
LINES_A_PAGE = 56


def label_value() -> str:
    return base64.b64encode(json.dumps(specification()).encode()).decode("ascii")


def write_manual(path: Path) -> Path:
    paragraphs = MANUAL.read_text(encoding="utf-8").splitlines()
    lines = [line for paragraph in paragraphs for line in textwrap.wrap(paragraph, 92) or [""]]
    lines += ["", "Parameters in the dialogue:"]
    lines += [
        f"  {p['label']['en']} ({p['id']}), default {p['default'] or 'none'}" for p in specification()["parameters"]
    ]
    with PdfPages(path, metadata={"CreationDate": None}) as pdf:
        for start in range(0, len(lines), LINES_A_PAGE):
            figure = Figure(figsize=(8.27, 11.69))
            text = "\n".join(lines[start : start + LINES_A_PAGE])
            figure.text(0.08, 0.94, text, family="monospace", size=9, va="top", linespacing=1.4)
            pdf.savefig(figure)
    return path


def image_digest(image_tar: Path) -> str:
    """An image's identity is the SHA-256 of its configuration, which the archive's manifest names."""
    with tarfile.open(image_tar) as archive:
        manifest = json.loads(_member(archive, "manifest.json"))
        return "sha256:" + hashlib.sha256(_member(archive, manifest[0]["Config"])).hexdigest()


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise SystemExit(f"expected an image saved by `docker save`, but {archive.name} holds no file {name}")
    return file.read()


def properties(image_tar: Path) -> dict[str, str]:
    """What only the newer layout wants."""
    return {
        "package_format": "Alpaca",
        "application_guid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://{VENDOR}/{NAME}")),
        "image_name": f"local/{NAME}:latest",
        "execution_location": "local",
        "persistence": "permanent",
        "image_digest": image_digest(image_tar),
    }


def pack(image_tar: Path, out: Path) -> tuple[Path, Path]:
    out.mkdir(parents=True, exist_ok=True)
    base = f"OpenRecon_{VENDOR}_{NAME}_V{specification()['general']['version']}"
    manual = write_manual(out / f"{base}.pdf")
    baseline, alpaca = out / f"{base}.zip", out / f"{base}.OpenReconPackage.zip"
    with zipfile.ZipFile(baseline, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(image_tar, f"{base}.tar")
        archive.write(manual, manual.name)
    with zipfile.ZipFile(alpaca, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ApplSpec.json", json.dumps(specification(), indent=2))
        archive.write(image_tar, "Container.tar")
        archive.write(manual, "Manual.pdf")
        archive.writestr("Properties.json", json.dumps(properties(image_tar), indent=2))
    return baseline, alpaca


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("label", help="print the label's value")
    packing = commands.add_parser("pack", help="make both packages")
    packing.add_argument("image_tar", type=Path)
    packing.add_argument("--out", type=Path, default=Path("dist"))
    options = parser.parse_args()
    if options.command == "label":
        print(label_value())
    else:
        print(*pack(options.image_tar, options.out), sep="\n")


if __name__ == "__main__":
    main()
