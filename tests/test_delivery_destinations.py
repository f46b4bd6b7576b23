"""Destinations from URLs and mappings."""

from __future__ import annotations

import pytest

from steadymr.delivery import parse_destination
from steadymr.delivery.destinations import dump_destination, load_destination
from steadymr.errors import SettingsError


def test_a_dimse_url_names_called_ae_host_and_port_and_takes_options():
    parsed = parse_destination("dimse://MAIN%20PACS@10.0.0.7:104?calling_ae=MR3&confirm=commitment&listen_port=11113")
    assert (parsed.called_ae, parsed.host, parsed.port, parsed.calling_ae) == ("MAIN PACS", "10.0.0.7", 104, "MR3")
    assert (parsed.confirm, parsed.listen_port, parsed.name) == (
        "commitment",
        11113,
        "dimse://MAIN%20PACS@10.0.0.7:104",
    )


def test_a_mapping_has_the_url_and_the_same_options_and_a_policy():
    parsed = parse_destination({"url": "https://pacs/dicom-web/", "confirm": "query", "policy": {"batch": 7}}, "main")
    assert (parsed.name, parsed.url, parsed.confirm, parsed.policy.batch) == (
        "main",
        "https://pacs/dicom-web",
        "query",
        7,
    )


@pytest.mark.parametrize("url", ["dimse://A@[::1]:104?tls=true&tls_ca_file=/ca.pem", "https://pacs/x?token_file=/t"])
def test_a_destination_survives_being_written_down(url):
    parsed = parse_destination(url)
    assert load_destination(dump_destination(parsed)) == parsed


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("ftp://pacs", "expected dimse://, https:// or http://"),
        ("dimse://pacs:104", "expected dimse://CALLED_AE@HOST:PORT"),
        ("dimse://PACS@host", "expected dimse://CALLED_AE@HOST:PORT"),
        ("dimse://PACS@host:99999", "Port out of range"),
        ("dimse://A_TITLE_THAT_IS_TOO_LONG@host:104", "1 to 16 printable"),
        ("dimse://PACS@host:104?comfirm=query", "unknown option comfirm"),
        ("dimse://PACS@host:104?confirm=commitment", "needs listen_port"),
        ("dimse://PACS@host:104?tls_ca_file=/ca.pem", "tls is off"),
        ("dimse://PACS@host:104?answer_timeout_s=0", "answer_timeout_s: "),
        ("https://pacs/x?confirm=commitment", "use confirm: query"),
        ("https://pacs/x?tls_key_file=/k", "needs tls_certificate_file"),
        ("http://pacs/x?token_file=/t", "use https"),
        ({"called_ae": "PACS"}, "needs a url"),
        ({"url": "dimse://PACS@host:104", "policy": {"patience": 3}}, "unknown option policy.patience"),
        ({"url": "dimse://PACS@host:104", "policy": {"batch": 0}}, "policy.batch"),
    ],
)
def test_what_cannot_be_a_destination_is_refused_with_a_sentence(source, words):
    with pytest.raises(SettingsError, match="destination") as caught:
        parse_destination(source)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
