"""How fast the wire is, as ratios measured in one run: ``python bench/wire/run.py [--rounds 5] [--json FILE]``.

Prints a table and writes ``result.json`` beside this file, or FILE. "Limit" is what loopback does with the same bytes
when nobody looks at them; "gadgetron" is the Connection of the gadgetron package doing the same work. Contestants
alternate, and the median over rounds of each round's ratio counts. Ratios are of wall-clock time; those in ``cpu_`` are
of the measured process's CPU time, which other load on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gadgetron.external
import ismrmrd
import numpy as np
from ismrmrd.hdf5 import waveform_header_dtype
from loopback import discard, seconds_to_receive, seconds_to_send

from steadymr.source.header import parse_header
from steadymr.source.wire.connection import Connection
from steadymr.source.wire.decode import acquisition_message
from steadymr.source.wire.dialects import Dialect, State
from steadymr.source.wire.encode import encode, image_head
from steadymr.source.wire.limits import DEFAULT_LIMITS, DEFAULT_PATIENCE
from steadymr.source.wire.messages import Acquisitions, ImageMessage, Waveform
from steadymr.source.wire.outgoing import meta_xml
from steadymr.source.wire.protocol import Protocol
from steadymr.source.wire.server import Server, ServerSettings
from steadymr.source.wire.stream import ReadoutStream

N_LINES = 256
CLOSE = b"\x04\x00"
HEADER = """<ismrmrdHeader><encoding>
<encodedSpace><matrixSize><x>{n}</x><y>256</y><z>1</z></matrixSize><fieldOfView_mm><x>1</x><y>1</y><z>1</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{n}</x><y>256</y><z>1</z></matrixSize><fieldOfView_mm><x>1</x><y>1</y><z>1</z></fieldOfView_mm></reconSpace>
<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"""


def acquisitions(channels: int, samples: int, count: int, waveform_every: int) -> bytes:
    """A scan with a waveform between every so many acquisitions."""
    messages = np.zeros(count, acquisition_message(channels, samples, 0))
    messages["id"] = 1008
    head = messages["head"]
    head["version"], head["number_of_samples"], head["active_channels"] = 1, samples, channels
    head["idx"]["kspace_encode_step_1"] = np.arange(count) % N_LINES
    waveform_head = np.zeros((), waveform_header_dtype)
    waveform_head["channels"], waveform_head["number_of_samples"] = 2, 16
    waveform = b"".join(map(bytes, encode(Waveform(waveform_head, np.zeros((2, 16), np.uint32)))))
    runs = (messages[i : i + waveform_every].tobytes() + waveform for i in range(0, count, waveform_every))
    return b"".join(runs) + CLOSE


def ours_in_data(sock: socket.socket) -> Connection:
    return Connection(sock, Protocol(DEFAULT_LIMITS, Dialect.NODE, State.DATA), DEFAULT_PATIENCE)


def gadgetron_in_data(sock: socket.socket) -> Any:
    """The package's connection without its constructor, which would wait for configuration and header."""
    connection = gadgetron.external.Connection.__new__(gadgetron.external.Connection)
    connection.socket = gadgetron.external.Connection.SocketWrapper(sock)
    connection.readers = gadgetron.external.Connection._default_readers()
    connection.writers = gadgetron.external.Connection._default_writers()
    connection.filters = []
    return connection


def decoding(channels: int, samples: int, count: int, rounds: int) -> dict[str, float]:
    data = acquisitions(channels, samples, count, waveform_every=50)
    kspace = np.zeros((N_LINES, channels, samples), np.complex64)
    header = parse_header(HEADER.format(n=samples))

    def ours(sock: socket.socket) -> None:
        for event in ours_in_data(sock).events():
            if isinstance(event, Acquisitions):
                kspace[event.head["idx"]["kspace_encode_step_1"]] = event.data

    def readouts(sock: socket.socket) -> None:
        for readout in ReadoutStream(header).readouts(ours_in_data(sock).events(), lambda event: None):
            kspace[readout.k1] = readout.data

    def package(sock: socket.socket) -> None:
        for item in gadgetron_in_data(sock):
            if isinstance(item, ismrmrd.Acquisition):
                kspace[item.idx.kspace_encode_step_1] = item.data

    contestants = {
        "limit": lambda sock: discard(sock, len(data)),
        "ours": ours,
        "readouts": readouts,
        "gadgetron": package,
    }
    times = [
        {name: seconds_to_receive(data, work, lambda: kspace.fill(0)) for name, work in contestants.items()}
        for _ in range(rounds)
    ]
    return {**ratios(times), "us_each": 1e6 * statistics.median(one["ours"][0] for one in times) / count}


def encoding(count: int, rounds: int) -> dict[str, float]:
    pixels = np.arange(320 * 320, dtype=np.uint16).reshape(1, 1, 320, 320)
    image = ismrmrd.Image.from_array(pixels[0], transpose=False)
    image.meta = {f"Key{i}": f"value {i}" for i in range(20)} | {"StabilityScore": "0.9"}

    def message() -> ImageMessage:
        return ImageMessage(image_head(pixels, image_series_index=1), meta_xml(image.meta), pixels)

    def ours(sock: socket.socket) -> None:
        connection = ours_in_data(sock)
        for _ in range(count):
            connection.send(message())

    def package(sock: socket.socket) -> None:
        connection = gadgetron_in_data(sock)
        for _ in range(count):
            connection.send(image)

    one = b"".join(map(bytes, encode(message())))
    all_at_once = one * count
    theirs = len(image.to_bytes()) + 2
    contestants: dict[str, tuple[int, Callable[[socket.socket], Any]]] = {
        "limit": (len(all_at_once), lambda sock: sock.sendall(all_at_once)),
        "ours": (len(all_at_once), ours),
        "gadgetron": (theirs * count, package),
    }
    times = [{name: seconds_to_send(*contestant) for name, contestant in contestants.items()} for _ in range(rounds)]
    return {**ratios(times), "us_each": 1e6 * statistics.median(one["ours"][0] for one in times) / count}


def ratios(times: list[dict[str, tuple[float, float]]]) -> dict[str, float]:
    """How many times as fast as each other contestant ours is; the limit's ratio is at most about one."""
    others = [name for name in times[0] if name != "ours"]
    result = {}
    for kind, prefix in enumerate(("", "cpu_")):
        for name in others:
            result[f"{prefix}ours_of_{name}"] = statistics.median(one[name][kind] / one["ours"][kind] for one in times)
    return result


def memory(n_slices: int) -> dict[str, float]:
    """Resident memory of a server after 100 slices and after all of them, 8 lines of 4 x 64 in each, in MiB.

    The backlog is kept small: that it may fill up to its limit is meant and would hide what is not.
    """
    resident: list[float] = []

    def handle(header: Any, readouts: Any, config: Any, emit: Any) -> None:
        pixels = np.zeros((1, 1, 64, 64), np.uint16)
        for number, readout in enumerate(readouts, start=1):
            if readout.k1 == 7:
                emit(ImageMessage(image_head(pixels), meta_xml({"StabilityScore": str(number)}), pixels))
            if number in (800, 8 * n_slices):
                resident.append(resident_mib())

    server = Server(handle, ServerSettings(port=0, backlog_bytes=1 << 20))
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    slices = acquisitions(4, 64, 8, waveform_every=8)[: -len(CLOSE)]
    xml = HEADER.format(n=64).encode()
    opening = b"\x02\x00\0\0\0\0\x03\x00" + len(xml).to_bytes(4, "little") + xml
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sender = threading.Thread(
            target=lambda: [sock.sendall(part) for part in (opening, *[slices] * n_slices, CLOSE)]
        )
        sender.start()
        while sock.recv(1 << 16):
            pass
        sender.join()
    server.stop()
    serving.join()
    return {"n_slices": n_slices, "after_100_mib": resident[0], "at_the_end_mib": resident[1]}


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


MUST = {
    "decode 16 ch x 512": {"ours_of_limit": 0.8, "ours_of_gadgetron": 1.5},
    "decode 1 ch x 128": {"ours_of_limit": 0.35, "ours_of_gadgetron": 8.0},
    "encode 320 x 320 uint16": {"ours_of_limit": 0.9, "ours_of_gadgetron": 2.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slices", type=int, default=10_000)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_name("result.json"))
    arguments = parser.parse_args()
    results: dict[str, dict[str, float]] = {
        "decode 16 ch x 512": decoding(16, 512, 2500, arguments.rounds),
        "decode 1 ch x 128": decoding(1, 128, 30_000, arguments.rounds),
        "encode 320 x 320 uint16": encoding(500, arguments.rounds),
        "memory": memory(arguments.slices),
    }
    for work, figures in results.items():
        print(work)
        for name, value in figures.items():
            must = MUST.get(work, {}).get(name)
            print(f"    {name:24}{value:10.2f}" + (f"   must reach {must}" if must else ""))
    conditions = {"python": sys.version.split()[0], "load": os.getloadavg(), "when": time.strftime("%Y-%m-%d %H:%M")}
    arguments.json.write_text(json.dumps({**results, "conditions": conditions}, indent=2) + "\n")


if __name__ == "__main__":
    main()
