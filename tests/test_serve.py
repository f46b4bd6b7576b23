"""The resident server with the real reconstruction behind it."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mrd
import peers
import pytest
from commands import steadymr
from ismrmrd.meta import Meta

from steadymr.config import load_settings
from steadymr.models import Models
from steadymr.serve import handler
from steadymr.source.wire.monitor import Metrics
from steadymr.source.wire.server import Server, ServerSettings

CLASSICAL = load_settings(None, {"methods": ["classical"], "samples": 0})


@contextmanager
def serving() -> Iterator[Server]:
    metrics = Metrics()
    server = Server(handler(CLASSICAL, Models("cpu"), metrics), ServerSettings(port=0), metrics=metrics)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()


def opening(name: str = "default", **parameters: str) -> bytes:
    text = peers.sized(5, json.dumps({"parameters": parameters}).encode() + b"\0") if parameters else b""
    header = mrd.header_xml(oversampling=1.0)
    return (peers.fire_opening if parameters else peers.client_opening)(name, header) + text


def scan(n_coils: int = 4) -> bytes:
    lines = [mrd.noise_readout(mrd.covariance(n_coils)), *mrd.readouts(mrd.kspace(noise=0.01, oversampling=1))]
    flags = [()] * (len(lines) - 1) + [(peers.ismrmrd.ACQ_LAST_IN_SLICE,)]
    return peers.serialized(*(mrd.acquisition(line, more) for line, more in zip(lines, flags, strict=True)))


def replies(port: int, *parts: bytes) -> tuple[list[Any], list[str]]:
    """Images and errors."""
    got = peers.converse(port, *parts)
    return [item for kind, item in got if kind == 1022], [item for kind, item in got if kind == 8]


def test_a_scan_comes_back_as_an_image_with_its_verdict() -> None:
    """Without samples the verdict says that nothing is known."""
    with serving() as server:
        (image,), errors = replies(server.port, opening(), scan())
        meta = Meta.deserialize(image.attribute_string)
        assert (meta["StabilityVerdict"], errors) == ("unscored", [])
        assert image.data.max() == 4095
        assert b'steadymr_verdicts_total{verdict="unscored"} 1.0' in server.metrics.render()


def test_a_client_may_ask_for_imperfections_and_the_image_says_so() -> None:
    """In the comment, in the series' name and in the history."""
    with serving() as server:
        (image,), _ = replies(server.port, opening("openrecon", perturb="gain_drift=1"), scan())
        meta = Meta.deserialize(image.attribute_string)
        assert meta["ImageComments"].startswith("PERTURBED ON PURPOSE")
        assert meta["SeriesDescription"].startswith("PERTURBED")


@pytest.mark.parametrize(
    ("begin", "sentence"),
    [
        (opening("../../etc/passwd"), "there is no configuration"),
        (opening("openrecon", device="cuda"), "can't be set by a client"),
        (opening("openrecon", **{"diffusion.weights": "/etc/passwd"}), "can't be set by a client"),
        (opening("openrecon", smaples="8"), "no setting 'smaples'"),
        (opening("openrecon", samples="8"), "without the networks"),
        (opening("openrecon", **{"undersample.acceleration": "4"}), "files only"),
    ],
)
def test_what_a_client_may_not_ask_for_is_refused_in_words(begin: bytes, sentence: str) -> None:
    """The client is told, and gets no image."""
    with serving() as server:
        images, errors = replies(server.port, begin, scan())
        assert images == []
        assert sentence in errors[0]


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    """SIGTERM after a scan: exit code 0, and a log that machines can read."""
    with peers.socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = tmp_path / "serve.yaml"
    config.write_text("methods: [classical]\nsamples: 0\n")
    command = steadymr("serve", "--port", port, "--config", config)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        _wait_for(port, process)
        images, errors = replies(port, opening(), scan())
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=30)
    assert (len(images), errors, process.returncode) == (1, [], 0), stderr
    assert all(json.loads(line)["level"] in ("INFO", "WARNING") for line in stderr.splitlines())


def _wait_for(port: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            peers.connected(port).close()
        except ConnectionRefusedError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the server does not listen")
