"""Finished DICOM from a live scan: to the client, to a PACS, or both, and never a clean end if the PACS lacks it."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mrd
import numpy as np
import pacs_peers
import peers
import pydicom
import pytest
from ismrmrd.meta import Meta

from steadymr import delivery
from steadymr.config import Settings, load_settings
from steadymr.errors import SettingsError
from steadymr.live.serve import handler
from steadymr.models import Models
from steadymr.source.wire.monitor import Metrics
from steadymr.source.wire.server import Server, ServerSettings

STUDY = "2.25.77"
IDENTITY = (
    "<subjectInformation><patientName>Doe^Jane</patientName><patientID>42</patientID></subjectInformation>"
    f"<studyInformation><studyInstanceUID>{STUDY}</studyInstanceUID></studyInformation>"
)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the sender's process may take long to start."""
    monkeypatch.setattr(peers, "TIMEOUT_S", 120.0)


def header(identity: str = IDENTITY) -> str:
    xml = mrd.header_xml(oversampling=1.0)
    end = xml.index(">", xml.index("<ismrmrdHeader")) + 1
    return xml[:end] + identity + xml[end:]


def scan() -> bytes:
    lines = [mrd.noise_readout(mrd.covariance()), *mrd.readouts(mrd.kspace(noise=0.01, oversampling=1))]
    flags = [()] * (len(lines) - 1) + [(peers.ismrmrd.ACQ_LAST_IN_SLICE,)]
    return peers.serialized(*(mrd.acquisition(line, more) for line, more in zip(lines, flags, strict=True)))


def settings(outbox: Path, url: str = "", **live: Any) -> Settings:
    wanted: dict[str, Any] = {"live": {"outbox": outbox, "delivery_wait_s": 100, **live}}
    if url:
        wanted["destinations"] = {"pacs": {"url": url}}
        wanted["live"]["deliver_to"] = "pacs"
    return load_settings(None, {"methods": ["classical"], "samples": 0, **wanted})


@contextmanager
def serving(wanted: Settings) -> Iterator[int]:
    server = Server(handler(wanted, Models("cpu"), Metrics()), ServerSettings(port=0))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.port
    finally:
        server.stop()
        thread.join(peers.TIMEOUT_S)


def replies(wanted: Settings, xml: str | None = None, dialect: str = "client") -> list[tuple[int, Any]]:
    with serving(wanted) as port:
        return peers.converse(port, peers.OPENINGS[dialect](header=xml or header()), scan())


@pytest.mark.parametrize(("images", "kinds"), [("dicom", [1018, 4]), ("both", [1022, 1018, 4]), ("mrd", [1022, 4])])
def test_images_go_back_as_mrd_as_dicom_or_as_both(tmp_path: Path, images: str, kinds: list[int]) -> None:
    got = replies(settings(tmp_path, images=images))
    assert [kind for kind, _ in got] == kinds
    assert not list(tmp_path.iterdir())


def test_a_dicom_file_that_goes_back_is_the_scans_and_says_its_verdict(tmp_path: Path) -> None:
    (_, (blob, name, meta)), _ = replies(settings(tmp_path, images="dicom"))
    dataset = pydicom.dcmread(io.BytesIO(blob))
    assert (dataset.PatientID, dataset.StudyInstanceUID) == ("42", STUDY)
    assert Meta.deserialize(meta.decode())["StabilityVerdict"] == "unscored"
    assert name == b"7001-classical_00001"


def test_the_same_scan_has_the_same_uids_and_another_scan_has_others(tmp_path: Path) -> None:
    wanted = settings(tmp_path, images="dicom")
    blobs = [replies(wanted)[0][1][0], replies(wanted)[0][1][0]]
    other = header(IDENTITY.replace("Jane", "Joan"))
    blobs.append(replies(wanted, other)[0][1][0])
    first, again, another = (pydicom.dcmread(io.BytesIO(blob)).SOPInstanceUID for blob in blobs)
    assert first == again != another


def test_float_pixels_are_sent_if_asked_for(tmp_path: Path) -> None:
    ((_, image), _) = replies(settings(tmp_path, pixels="float32"))
    assert image.data.dtype == np.float32


@pytest.mark.parametrize("dialect", ["node", "fire"])
def test_who_cannot_take_dicom_is_told_before_anything_is_reconstructed(tmp_path: Path, dialect: str) -> None:
    got = replies(settings(tmp_path, images="both"), dialect=dialect)
    assert [kind for kind, _ in got if kind != 5] == [8, 4]
    assert "have the series delivered by live.deliver_to" in got[-2][1]


def test_a_scan_ends_well_once_the_pacs_has_its_series(tmp_path: Path) -> None:
    with pacs_peers.scripted_scp(lambda number, uid: 0) as pacs:
        got = replies(settings(tmp_path / "outbox", pacs.url), dialect="node")
    assert [kind for kind, _ in got] == [1022, 4]
    assert [status for _, status in pacs.received] == [0]


def test_a_pacs_that_refuses_is_an_error_after_the_images(tmp_path: Path) -> None:
    with pacs_peers.scripted_scp(lambda number, uid: 0xA900) as pacs:
        got = replies(settings(tmp_path / "outbox", pacs.url), dialect="node")
    assert [kind for kind, _ in got] == [1022, 8, 4]
    assert "0 of 1 instances stored at pacs; 1 failed" in got[1][1]


def test_a_pacs_that_is_away_is_an_error_and_the_series_stay_in_the_outbox(tmp_path: Path) -> None:
    away = f"dimse://PACS@127.0.0.1:{pacs_peers.free_port()}"
    got = replies(settings(tmp_path / "outbox", away, delivery_wait_s=1.5), dialect="node")
    assert [kind for kind, _ in got] == [1022, 8, 4]
    assert "steadymr outbox list" in got[1][1]
    assert [row.state for row in delivery.outbox_list(tmp_path / "outbox")] == ["queued"]


def test_images_of_nobody_are_not_queued_and_the_client_is_told(tmp_path: Path) -> None:
    away = f"dimse://PACS@127.0.0.1:{pacs_peers.free_port()}"
    got = replies(settings(tmp_path / "outbox", away), header(""), dialect="node")
    assert [kind for kind, _ in got] == [1022, 8, 4]
    assert delivery.outbox_list(tmp_path / "outbox") == []


def test_a_destination_that_does_not_exist_is_named() -> None:
    with pytest.raises(SettingsError, match=r"live\.deliver_to names 'pacs', but the destinations are: none"):
        load_settings(None, {"live": {"deliver_to": "pacs"}})
