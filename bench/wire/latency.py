"""How long after the last readout of a slice its image begins to arrive: ``python bench/wire/latency.py``.

A server in this process, warm, method ``classical`` without samples, 8 channels x 256 x 256. The time at the socket is
compared with that of the reconstruction alone, measured inside the same server on the same slices; medians count.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from run import HEADER

from steadymr.assemble import assemble
from steadymr.config import load_settings
from steadymr.models import load_models
from steadymr.source.wire.decode import acquisition_message
from steadymr.source.wire.outgoing import image_message
from steadymr.source.wire.server import Server, ServerSettings
from steadymr.stopwatch import Stopwatch
from steadymr.volume.reconstruct import Run, reconstruct

N, CHANNELS = 256, 8
LAST_IN_SLICE = 1 << 7


def slice_messages(number: int) -> np.ndarray[Any, Any]:
    """A blob behind smooth coils with noise, every second line outside the middle 32."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[-1 : 1 : N * 1j, -1 : 1 : N * 1j]
    coils = np.exp(1j * rng.uniform(0, 6, (CHANNELS, 1, 1)) - (x - rng.uniform(-1, 1, (CHANNELS, 1, 1))) ** 2)
    image = coils * ((x**2 + y**2 < 0.7) * (1 + 0.3 * np.sin(9 * x) * np.cos(7 * y)))
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=(1, 2)), norm="ortho"), axes=(1, 2))
    kspace = kspace + 0.05 * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    lines = [k1 for k1 in range(N) if k1 % 2 == 0 or abs(k1 - N // 2) < 16]
    messages = np.zeros(len(lines), acquisition_message(CHANNELS, N, 0))
    messages["id"], head = 1008, messages["head"]
    head["version"], head["number_of_samples"], head["active_channels"] = 1, N, CHANNELS
    head["center_sample"], head["sample_time_us"] = N // 2, 5.0
    head["read_dir"], head["phase_dir"], head["slice_dir"] = (1, 0, 0), (0, 1, 0), (0, 0, 1)
    head["idx"]["kspace_encode_step_1"], head["idx"]["slice"] = lines, number
    centre = np.abs(np.array(lines) - N // 2) < 16
    head["flags"] = np.where(centre, 1 << 20, 0)  # calibration and imaging
    head["flags"][-1] |= LAST_IN_SLICE
    messages["data"] = kspace[:, lines].transpose(1, 0, 2)
    return messages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=12, help="the first one warms up and does not count")
    n_slices = parser.parse_args().slices
    settings = load_settings(None, {"methods": ["classical"], "samples": 0, "device": "cpu"})
    run = Run(settings, load_models(settings), (), Stopwatch(), lambda what: None)
    alone: list[float] = []

    def handle(header: Any, readouts: Any, config: Any, emit: Any) -> None:
        for kspace in assemble(readouts, header, averages=settings.assemble.averages):
            started = time.perf_counter()
            results = list(reconstruct(kspace, None, run))
            alone.append(time.perf_counter() - started)
            for result in results:
                emit(image_message(result.image, result.stability, description="bench", comment=""))

    server = Server(handle, ServerSettings(port=0))
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    xml = HEADER.format(n=N).encode()
    at_the_socket = []
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"\x02\x00\0\0\0\0\x03\x00" + len(xml).to_bytes(4, "little") + xml)
        for number in range(n_slices):
            sock.sendall(slice_messages(number).tobytes())
            started = time.perf_counter()
            assert sock.recv(2) == b"\xfe\x03"
            at_the_socket.append(time.perf_counter() - started)
            sock.settimeout(0.3)  # long enough for the rest of the image
            try:
                while sock.recv(1 << 20):
                    pass
            except TimeoutError:
                sock.settimeout(None)
        sock.sendall(b"\x04\x00")
    server.stop()
    serving.join()
    result = {
        "at_the_socket_s": statistics.median(at_the_socket[1:]),
        "reconstruction_alone_s": statistics.median(alone[1:]),
    }
    result["ratio"] = statistics.median(a / b for a, b in zip(at_the_socket[1:], alone[1:], strict=True))
    print(result, "must reach a ratio of 1.3 at most")
    Path(__file__).with_name("latency.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
