"""Sends one simulated scan through the chain and finds its flagged series in Orthanc; prints them, or what went wrong.

    python docker/smoke.py --mrd HOST:PORT --chain NAME.xml --orthanc http://HOST:8042 [--users FILE] [--timeout S]

It speaks as Gadgetron's stock client does: a configuration's name, the header, readouts, CLOSE; images or ERROR return.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import socket
import struct
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import ismrmrd

from steadymr.simulate.scan import simulate_scan

CONFIG_FILE, HEADER, CLOSE, ACQUISITION = 1, 3, 4, 1008
VERDICTS = ("STABLE", "REVIEW", "UNSTABLE", "UNCALIBRATED", "UNSCORED")


def send_scan(host: str, port: int, chain: str, scan: Path, patient_id: str, timeout_s: float) -> bytes:
    """The bytes that come back, until CLOSE or the connection's end."""
    with socket.create_connection((host, port), timeout_s) as peer:
        out = peer.makefile("wb")
        with ismrmrd.Dataset(str(scan), create_if_needed=False) as data:
            header = re.sub(b"(<patientID>)[^<]*", rb"\g<1>" + patient_id.encode(), data.read_xml_header())
            out.write(struct.pack("<H1024s", CONFIG_FILE, chain.encode()))
            out.write(struct.pack("<HI", HEADER, len(header)) + header)
            for number in range(data.number_of_acquisitions()):
                out.write(struct.pack("<H", ACQUISITION))
                data.read_acquisition(number).serialize_into(out.write)
        out.write(struct.pack("<H", CLOSE))
        out.flush()
        received = bytearray()
        while block := peer.recv(1 << 20):
            received += block
            if received[-2:] == struct.pack("<H", CLOSE):
                break
        return bytes(received)


def series_of(orthanc: str, users: Path | None, patient_id: str) -> list[str]:
    """The descriptions of the patient's series."""
    query = {"Level": "Series", "Expand": True, "Query": {"PatientID": patient_id}}
    request = urllib.request.Request(f"{orthanc}/tools/find", json.dumps(query).encode())
    if users is not None:
        name, password = next(iter(json.loads(users.read_text())["RegisteredUsers"].items()))
        token = base64.b64encode(f"{name}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return sorted(one["MainDicomTags"].get("SeriesDescription", "") for one in found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mrd", default="localhost:9002")
    parser.add_argument("--chain", default="steadymr.xml")
    parser.add_argument("--orthanc", default="http://localhost:8042")
    parser.add_argument("--users", type=Path, default=Path("/run/secrets/orthanc_users.json"))
    parser.add_argument("--timeout", type=float, default=300.0)
    options = parser.parse_args()
    host, _, port = options.mrd.rpartition(":")
    patient_id = f"SMOKE{time.time_ns()}"
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.h5"
        simulate_scan(scan, seed=1, n_coils=4, matrix=(64, 64), pixel_mm=3.6, n_calibration=16)
        received = send_scan(host, int(port), options.chain, scan, patient_id, options.timeout)
    print(f"the chain sent {len(received)} bytes back")
    users = options.users if options.users.exists() else None
    until_s = time.monotonic() + options.timeout
    while time.monotonic() < until_s:
        found = series_of(options.orthanc, users, patient_id)
        flagged = [text for text in found if any(verdict in text.upper() for verdict in VERDICTS)]
        if flagged:
            print(f"Orthanc holds {len(found)} series of {patient_id}:", *found, sep="\n  ")
            return 0
        time.sleep(2)
    text = received[-400:].decode("utf-8", "replace")
    print(f"no flagged series of {patient_id} in Orthanc after {options.timeout:.0f} s; the chain's last words: {text}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
