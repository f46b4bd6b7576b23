"""Feeds mutated streams to the protocol: ``python bench/wire/fuzz.py --streams 100000 --seed 1``.

A stream passes if it ends in events or in ProtocolError, within one second of CPU time, without the inbox growing
past the limit. Everything else is printed with the number that makes it again (``--first``), and the run fails.
"""

from __future__ import annotations

import argparse
import struct
import time

import numpy as np
from ismrmrd.hdf5 import waveform_header_dtype

from steadymr.errors import ProtocolError, SettingsError
from steadymr.source.wire.decode import ACQUISITION_HEAD, SAMPLING, acquisition_message
from steadymr.source.wire.encode import encode, image_head
from steadymr.source.wire.limits import WireLimits
from steadymr.source.wire.messages import (
    Acquisitions,
    Close,
    ConfigFile,
    ConfigText,
    Dicom,
    Event,
    Header,
    ImageMessage,
    Query,
    ReconBit,
    ReconBuffer,
    ReconData,
    Text,
    Waveform,
)
from steadymr.source.wire.protocol import Protocol
from steadymr.source.wire.scan_config import config_from_text

LIMITS = WireLimits(message_bytes=1 << 20, text_bytes=1 << 16)
SLOW_S = 1.0
SPARE = 4 << 20  # one slab and its least free part
TELLING = [struct.pack("<Q", n) for n in (0, 1, 255, 65535, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 64) - 1)]


def acquisitions(count: int, channels: int = 2, samples: int = 4, dimensions: int = 0) -> Acquisitions:
    messages = np.zeros(count, acquisition_message(channels, samples, dimensions))
    messages["id"] = 1008
    head = messages["head"]
    head["number_of_samples"], head["active_channels"], head["trajectory_dimensions"] = samples, channels, dimensions
    return Acquisitions(messages)


def sorted_kspace() -> ReconData:
    heads = np.zeros((2, 1, 1, 1, 1), ACQUISITION_HEAD)
    buffer = ReconBuffer(np.ones((4, 2, 1, 2, 1, 1, 1), np.complex64), heads, np.zeros((), SAMPLING))
    return ReconData((ReconBit(buffer, buffer), ReconBit(buffer)))


def conversations() -> list[bytes]:
    """One of each dialect, with every kind of message that is legal in it."""
    waveform_head = np.zeros((), waveform_header_dtype)
    waveform_head["channels"], waveform_head["number_of_samples"] = 1, 3
    waveform = Waveform(waveform_head, np.zeros((1, 3), np.uint32))
    pixels = np.zeros((1, 1, 3, 4), np.uint16)
    image = ImageMessage(image_head(pixels), b"<m/>", pixels)
    array = struct.pack("<H10Q", 1024, 7, 2, 2, 1, 1, 1, 1, 1, 0, 0) + bytes(300)
    scan: list[Event] = [acquisitions(3), waveform, acquisitions(2, dimensions=2), acquisitions(1, samples=8)]
    config = ConfigText('<configuration><property name="samples" value="8"/></configuration>')
    node: list[Event] = [config, Header("<h/>"), *scan, sorted_kspace(), image, Dicom(b"DICM", "n", b"<m/>"), Close()]
    client: list[Event] = [Query(1, "gadgetron::info"), ConfigFile("default.xml"), Header("<h/>"), *scan, Close()]
    fire: list[Event] = [ConfigFile("openrecon"), Header("<h/>", True), Text("{}", True), *scan, Close()]
    whole = [b"".join(bytes(part) for event in events for part in encode(event)) for events in (node, client, fire)]
    return [*whole, whole[0][:-2] + array]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes set, cut, inserted, doubled, or replaced by a number that sizes overflow on."""
    stream = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        at, length = int(rng.integers(len(stream) + 1)), int(rng.integers(1, 9))
        match int(rng.integers(6)):
            case 0:
                stream[at : at + length] = rng.bytes(length)
            case 1:
                del stream[at : at + length]
            case 2:
                stream[at:at] = rng.bytes(length)
            case 3:
                stream[at : at + length] = TELLING[rng.integers(len(TELLING))][:length]
            case 4:
                stream[at:at] = stream[at : at + 64 * length]
            case _:
                del stream[at:]
    return bytes(stream)


def survives(data: bytes, step: int) -> None:
    """Raises for anything but events and ProtocolError."""
    protocol = Protocol(LIMITS)
    try:
        for start in range(0, len(data), step):
            protocol.receive(data[start : start + step])
            while (event := protocol.next_event()) is not None:
                if isinstance(event, ConfigText):
                    config_from_text(event.text)
    except (ProtocolError, SettingsError):
        pass
    if len(protocol.room()) > LIMITS.message_bytes + SPARE:
        raise AssertionError("the inbox grew past the limit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first stream")
    arguments = parser.parse_args()
    originals, failures, slowest = conversations(), 0, 0.0
    started = time.monotonic()
    for number in range(arguments.first, arguments.first + arguments.streams):
        rng = np.random.default_rng((arguments.seed, number))
        data = mutated(originals[number % len(originals)], rng)
        began = time.process_time()
        try:
            survives(data, int(rng.integers(50, 4000)))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is what we look for
            failures += 1
            print(f"stream {number}: {type(error).__name__}: {error}")
        slowest = max(slowest, time.process_time() - began)
    print(f"{arguments.streams} streams from {arguments.first}, seed {arguments.seed}: {failures} failures,", end=" ")
    print(f"slowest {slowest:.3f} s, {time.monotonic() - started:.0f} s in all")
    raise SystemExit(failures > 0 or slowest > SLOW_S)


if __name__ == "__main__":
    main()
