"""Encrypted DICOMweb against a real TLS server, and storage commitment that comes back the way it went."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from pacs_peers import KeyPair, mutual_tls_files, polite_scp, tls_web_server
from test_delivery_peers import deliver, settle, states, uids_of

from steadymr.delivery import outbox_list, parse_destination
from steadymr.errors import SettingsError


@pytest.fixture(autouse=True)
def _quiet_network_library(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "pynetdicom")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[KeyPair, KeyPair, Path]:
    return mutual_tls_files(tmp_path_factory.mktemp("keys"), ("steadymr.test", "localhost"))


def options(keys: tuple[KeyPair, KeyPair, Path], folder: Path, **changes: Any) -> dict[str, Any]:
    """All that a server may ask for, less what is None in ``changes``."""
    ours, _, authority = keys
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text("secret\n")
    everything = {
        "tls_ca_file": str(authority),
        "token_file": str(folder / "token"),
        "tls_certificate_file": str(ours.certificate),
        "tls_key_file": str(ours.key),
    }
    return {name: value for name, value in {**everything, **changes}.items() if value is not None}


def test_https_with_token_and_client_certificate_delivers(tmp_path: Path, keys: Any) -> None:
    with tls_web_server(keys[1], keys[2], "secret", mutual=True) as server:
        files = deliver(tmp_path, server.url, **options(keys, tmp_path))
    assert sorted(server.stored) == uids_of(files)
    assert (set(server.tokens), set(server.clients)) == ({"Bearer secret"}, {"steadymr.test"})
    assert states(tmp_path / "outbox") == {"stored"}


@pytest.mark.parametrize(
    ("changes", "host", "state", "words"),
    [
        ({"tls_ca_file": None}, "localhost", "queued", "certificate verify failed"),
        ({}, "127.0.0.1", "queued", "certificate verify failed"),
        ({"tls_certificate_file": None, "tls_key_file": None}, "localhost", "queued", ""),
        ({"token_file": None}, "localhost", "failed", "does not accept our token"),
    ],
    ids=["a server nobody vouches for", "a server of another name", "no certificate of ours", "no token of ours"],
)
def test_https_that_cannot_be_trusted_either_way_delivers_nothing(
    tmp_path: Path, keys: Any, changes: dict[str, None], host: str, state: str, words: str
) -> None:
    with tls_web_server(keys[1], keys[2], "secret", mutual=True) as server:
        url = server.url.replace("localhost", host)
        deliver(tmp_path, url, n=1, limit_s=2.0 if state == "queued" else 30.0, **options(keys, tmp_path, **changes))
    (row,) = outbox_list(tmp_path / "outbox")
    assert (server.stored, row.state) == ([], state)
    assert words in row.reason


def test_a_report_on_the_association_of_the_request_is_heard_without_a_port(tmp_path: Path) -> None:
    with polite_scp() as url:
        deliver(tmp_path, url, confirm="commitment", report_wait_s=60.0)
        settle(tmp_path)
    rows = outbox_list(tmp_path / "outbox")
    assert [(row.state, row.reason) for row in rows] == [("committed", "storage commitment")] * 3


def test_commitment_without_any_way_to_hear_is_refused_at_once() -> None:
    with pytest.raises(SettingsError, match="listen_port, where the PACS reports to us, or report_wait_s"):
        parse_destination({"url": "dimse://A@h:1", "confirm": "commitment"})
