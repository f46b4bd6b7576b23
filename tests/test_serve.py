"""The resident server with the real reconstruction behind it."""

from __future__ import annotations

import json
import shutil
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
from pacs_peers import write_series

from steadymr import delivery
from steadymr.config import load_settings
from steadymr.live.serve import OutboxMetrics, handler, server_settings, tolerance
from steadymr.models import Models
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


def lines_with(*sentinels: int, keep: bool = True, flag: int | None = None) -> bytes:
    """A scan whose sentinel lines carry ``flag``, or are not there at all."""
    every = mrd.readouts(mrd.kspace(noise=0.01, oversampling=1))
    lines = [line for line in every if keep or line.k1 not in sentinels]
    flags = [(flag,) if flag and line.k1 in sentinels else () for line in lines]
    flags[-1] = (*flags[-1], peers.ismrmrd.ACQ_LAST_IN_SLICE)
    noise = mrd.acquisition(mrd.noise_readout(mrd.covariance()))
    return peers.serialized(noise, *(mrd.acquisition(line, more) for line, more in zip(lines, flags, strict=True)))


@pytest.mark.parametrize(
    ("parameters", "flag"),
    [({"sentinels.lines": "3, 28"}, None), ({"sentinels.user_flag": "2"}, peers.ismrmrd.ACQ_USER2)],
)
def test_sentinels_on_the_wire_are_withheld_from_the_image(parameters: dict[str, str], flag: int | None) -> None:
    """By list or by user flag: the image is that of a scan which never acquired them."""
    with serving() as server:
        (withheld,), errors = replies(server.port, opening("openrecon", **parameters), lines_with(3, 28, flag=flag))
        (without,), _ = replies(server.port, opening(), lines_with(3, 28, keep=False))
        (with_all,), _ = replies(server.port, opening(), lines_with())
    assert errors == []
    assert abs(withheld.data.astype(int) - without.data).max() <= 1
    assert abs(withheld.data.astype(int) - with_all.data).max() > 5


def test_a_file_of_the_debian_phantom_tool_is_streamed_and_reconstructed(tmp_path: Path) -> None:
    """Its header lacks the patient's position, its directions are zero: the image says what was assumed."""
    tool = shutil.which("ismrmrd_generate_cartesian_shepp_logan")
    assert tool, "this test needs the Debian package ismrmrd-tools: apt-get install ismrmrd-tools"
    path = tmp_path / "phantom.h5"
    subprocess.run([tool, "-m", "32", "-c", "4", "-o", str(path)], check=True, capture_output=True)
    with peers.ismrmrd.Dataset(str(path), create_if_needed=False) as data_set:
        header = data_set.read_xml_header().decode()
        lines = [data_set.read_acquisition(number) for number in range(data_set.number_of_acquisitions())]
    with serving() as server:
        (image,), errors = replies(server.port, peers.client_opening(header=header), peers.serialized(*lines))
    meta = Meta.deserialize(image.attribute_string)
    assert errors == []
    assert meta["GeometryAssumed"]
    assert any("geometry" in caveat for caveat in meta["StabilityCaveats"])


def test_the_gpus_memory_and_the_queue_are_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with CUDA what torch holds there, otherwise nothing."""
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda: 12345)
    metrics = {device: Metrics() for device in ("cpu", "cuda")}
    for device, one in metrics.items():
        handler(CLASSICAL, Models(device), one)
    held = {device: one.registry.get_sample_value("steadymr_gpu_bytes") for device, one in metrics.items()}
    assert held == {"cpu": 0, "cuda": 12345}
    assert metrics["cpu"].registry.get_sample_value("steadymr_gpu_waiting") == 0


def test_the_outbox_is_a_metric(tmp_path: Path) -> None:
    """Asked anew at each scrape, by destination and state."""
    files = write_series(tmp_path / "dicom", 2)
    delivery.enqueue(files, "dimse://PACS@127.0.0.1:1", tmp_path / "outbox")
    (gauge,) = OutboxMetrics(tmp_path / "outbox").collect()
    ((_, labels, value, *_),) = gauge.samples
    assert (labels["state"], value) == ("queued", 2)


def test_limits_and_addresses_come_from_the_settings() -> None:
    """Where to listen, whom to serve, how much to take and how long to wait."""
    wanted = {"port": 0, "scans_at_once": 2, "message_mib": 3, "channels": 4, "first_message_s": 5}
    settings = load_settings(None, {"serve": wanted})
    limits, patience = tolerance(settings)
    assert (server_settings(settings).port, server_settings(settings).scans_at_once) == (0, 2)
    assert (limits.message_bytes, limits.channels, patience.first_s) == (3 << 20, 4, 5)


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
