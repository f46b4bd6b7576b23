"""What ``<execute>`` costs at the start of each scan: ``python bench/wire/start.py [--rounds 3] [--quick]``.

Launches the gadget as Gadgetron does, in a process of its own, with and without a resident server to hand the scan to,
and measures wall-clock seconds until it has dialled back and until its first image arrives, and the process's CPU
seconds. The scan is small (4 channels x 64 x 64, classical, no samples), so what is measured is the start.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import latency

from steadymr.config import load_settings
from steadymr.live.serve import handler
from steadymr.models import load_models
from steadymr.source.wire.monitor import Metrics
from steadymr.source.wire.server import Server, ServerSettings

GADGET = ("steadymr_gadgets.reconstruct", "reconstruct")
IMAGE = b"\xfe\x03"  # 1022
#: The gadgetron package parses the header before it loads a gadget, and more strictly than steadymr does.
HEADER = (
    latency.HEADER.replace(
        "<ismrmrdHeader>",
        '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><experimentalConditions><H1resonanceFrequency_Hz>63500000'
        "</H1resonanceFrequency_Hz></experimentalConditions>",
    )
    .replace("<y>256</y>", "<y>{n}</y>")
    .replace("<trajectory>", "<encodingLimits/><trajectory>")
)
WARM_UP = 1  # rounds that do not count: files come from disk there


def config(resident: int | None) -> bytes:
    asked = {"methods": "classical", "samples": "0", "device": "cpu"} if resident is None else {}
    where = {} if resident is None else {"live.resident": f"127.0.0.1:{resident}"}
    properties = "".join(f'<property name="{name}" value="{value}"/>' for name, value in {**asked, **where}.items())
    return f"<configuration>{properties}</configuration>".encode()


def sized(identifier: int, text: bytes) -> bytes:
    return identifier.to_bytes(2, "little") + len(text).to_bytes(4, "little") + text


def one_scan(resident: int | None, scan: bytes) -> dict[str, float]:
    """Times of one launch."""
    opening = sized(2, config(resident)) + sized(3, HEADER.format(n=latency.N).encode())
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", "gadgetron", str(listener.getsockname()[1]), *GADGET]
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log):
            sock, _ = listener.accept()
            dialled = time.perf_counter() - started
            with sock:
                sock.sendall(opening + scan + b"\x04\x00")
                if _first_bytes(sock) != IMAGE:
                    log.seek(0)
                    raise SystemExit(f"the gadget sent no image; it said: {log.read()[-2000:]}")
                first_image = time.perf_counter() - started
                while sock.recv(1 << 20):
                    pass
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"dialled_back_s": dialled, "first_image_s": first_image, "cpu_s": cpu}


def _first_bytes(sock: socket.socket) -> bytes:
    try:
        return sock.recv(2)
    except ConnectionResetError:
        return b""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round")
    arguments = parser.parse_args()
    latency.N, latency.CHANNELS = 64, 4
    scan = latency.slice_messages(0).tobytes()
    settings = load_settings(None, {"methods": ["classical"], "samples": 0, "device": "cpu"})
    server = Server(handler(settings, load_models(settings), Metrics()), ServerSettings(port=0))
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    cases = {"by itself": None, "handed to a resident server": server.port}
    n_rounds = 1 if arguments.quick else arguments.rounds
    runs = [{name: one_scan(port, scan) for name, port in cases.items()} for _ in range(n_rounds + WARM_UP)][WARM_UP:]
    server.stop()
    serving.join()
    results = {
        name: {what: statistics.median(run[name][what] for run in runs) for what in runs[0][name]} for name in cases
    }
    for name, figures in results.items():
        print(name, {what: round(value, 2) for what, value in figures.items()})
    conditions = {"python": sys.version.split()[0], "load": os.getloadavg(), "rounds": n_rounds}
    Path(__file__).with_suffix(".json").write_text(json.dumps({**results, "conditions": conditions}, indent=2) + "\n")


if __name__ == "__main__":
    main()
