"""Peers to test against: they speak with other people's code (the ismrmrd and gadgetron packages), not with ours."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
from ismrmrd.serialization import ProtocolSerializer

TESTS = Path(__file__).parent
TIMEOUT_S = 60.0  # for what takes milliseconds: a busy machine must not fail a test
CLOSE = struct.pack("<H", 4)

HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
 <subjectInformation><patientName>{patient}</patientName></subjectInformation>
 <measurementInformation><measurementID>m1</measurementID><patientPosition>HFS</patientPosition></measurementInformation>
 <experimentalConditions><H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz></experimentalConditions>
 <encoding>
  <encodedSpace><matrixSize><x>{samples}</x><y>{lines}</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>256</x><y>256</y><z>5</z></fieldOfView_mm></encodedSpace>
  <reconSpace><matrixSize><x>{samples}</x><y>{lines}</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>256</x><y>256</y><z>5</z></fieldOfView_mm></reconSpace>
  <encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum><center>{centre}</center>
   </kspace_encoding_step_1></encodingLimits>
  <trajectory>cartesian</trajectory>
 </encoding>
</ismrmrdHeader>"""


def header_xml(lines: int = 16, samples: int = 32, patient: str = "Planted^Name") -> str:
    return HEADER.format(lines=lines, samples=samples, last=lines - 1, centre=lines // 2, patient=patient)


def acquisition(line: int, lines: int = 16, channels: int = 2, samples: int = 32, **fields: Any) -> ismrmrd.Acquisition:
    """One readout whose samples say which line they belong to."""
    data = np.full((channels, samples), line, np.complex64)
    acq = ismrmrd.Acquisition.from_array(data, center_sample=samples // 2, scan_counter=line, **fields)
    acq.idx.kspace_encode_step_1 = line % lines
    acq.position[:] = (1.0, 2.0, 3.0)
    acq.read_dir[:], acq.phase_dir[:], acq.slice_dir[:] = (1, 0, 0), (0, 1, 0), (0, 0, 1)
    if line % lines == lines - 1:
        acq.set_flag(ismrmrd.ACQ_LAST_IN_SLICE)
    return acq


def serialized(*items: Any, close: bool = True) -> bytes:
    """Messages as the ismrmrd package writes them."""
    stream = io.BytesIO()
    serializer = ProtocolSerializer(stream)
    for item in items:
        serializer.serialize(item)
    return stream.getvalue() + (CLOSE if close else b"")


def sized(identifier: int, text: bytes, length: str = "<I") -> bytes:
    return struct.pack("<H", identifier) + struct.pack(length, len(text)) + text


def node_opening(config: str = "", header: str | None = None) -> bytes:
    return sized(2, config.encode()) + sized(3, (header or header_xml()).encode())


def client_opening(name: str = "default", header: str | None = None) -> bytes:
    return struct.pack("<H", 1) + name.encode().ljust(1024, b"\0") + sized(3, (header or header_xml()).encode())


def fire_opening(name: str = "openrecon", header: str | None = None) -> bytes:
    return client_opening(name)[:1026] + sized(3, (header or header_xml()).encode() + b"\0")


OPENINGS: dict[str, Callable[..., bytes]] = {"node": node_opening, "client": client_opening, "fire": fire_opening}


def lines_of(n_lines: int = 16, **shape: Any) -> bytes:
    return serialized(*(acquisition(line, **shape) for line in range(n_lines)), close=False)


class Reader:
    """Reads replies message by message, with the sizes of the table of messages and ismrmrd's classes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def exactly(self, n_bytes: int) -> bytes:
        got = bytearray()
        while len(got) < n_bytes:
            part = self.sock.recv(n_bytes - len(got))
            if not part:
                raise EOFError(f"{len(got)} of {n_bytes} bytes")
            got += part
        return bytes(got)

    def number(self, code: str) -> int:
        return int(struct.unpack(code, self.exactly(struct.calcsize(code)))[0])

    def message(self) -> tuple[int, Any]:
        identifier = self.number("<H")
        if identifier == 5:
            return identifier, self.exactly(self.number("<I")).decode()
        if identifier == 8:
            return identifier, self.exactly(self.number("<Q")).decode()
        if identifier == 7:
            return identifier, (self.number("<Q"), self.exactly(self.number("<Q")).decode())
        if identifier == 1018:
            return identifier, tuple(self.exactly(self.number(code)) for code in ("<I", "<Q", "<Q"))
        classes = {1008: ismrmrd.Acquisition, 1022: ismrmrd.Image, 1026: ismrmrd.Waveform}
        return identifier, classes[identifier].deserialize_from(self.exactly) if identifier in classes else None

    def all(self) -> list[tuple[int, Any]]:
        """Every reply up to CLOSE."""
        replies = []
        while not replies or replies[-1][0] != 4:
            replies.append(self.message())
        return replies


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), TIMEOUT_S)


def converse(port: int, *parts: bytes) -> list[tuple[int, Any]]:
    """Send all parts and read the replies, in two threads as the stock client does."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as sock:
        sender = threading.Thread(target=_send_all, args=(sock, parts))
        sender.start()
        try:
            return Reader(sock).all()
        finally:
            sender.join()


def _send_all(sock: socket.socket, parts: tuple[bytes, ...]) -> None:
    for part in parts:
        sock.sendall(part)


@contextmanager
def launched_node(module: str, target: str) -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    """What Gadgetron does for ``<execute>``: listen, start a Python process for the node, wait for it to dial back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT_S)
        port = str(listener.getsockname()[1])
        environment = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "gadgetron", port, module, target],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(TIMEOUT_S)
                yield sock, process
        finally:
            process.kill()
            process.communicate()
