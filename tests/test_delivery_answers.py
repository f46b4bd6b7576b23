"""What PACS answer, and what we make of it."""

from __future__ import annotations

import json

import pytest
from pydicom.dataset import Dataset

from steadymr.delivery.commitment import parse_report
from steadymr.delivery.statuses import judge
from steadymr.delivery.web import judge_answer


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0x0000, "delivered"),
        (0xB000, "delivered"),
        (0xB006, "delivered"),
        (0xB007, "delivered"),
        (0xA700, "busy"),
        (0xA701, "busy"),
        (0x0213, "busy"),
        (0xA900, "refused"),
        (0xC000, "refused"),
        (0xCFFF, "refused"),
        (0x0110, "refused"),
        (0x0111, "refused"),
        (0x0122, "refused"),
        (0x0124, "refused"),
        (0xB001, "refused"),
        (0xFF00, "refused"),
    ],
)
def test_only_what_the_standard_calls_stored_counts_as_delivered(status, verdict):
    outcome = judge(status)
    assert outcome.verdict == verdict
    assert (outcome.reason == "") == (status == 0)


def answer(stored=(), failed=()):
    body = {"00081199": {"vr": "SQ", "Value": list(stored)}, "00081198": {"vr": "SQ", "Value": list(failed)}}
    return json.dumps(body).encode()


def item(uid, **numbers):
    tags = {"reason": "00081197", "warning": "00081196"}
    return {
        "00081155": {"vr": "UI", "Value": [uid]},
        **{tags[name]: {"vr": "US", "Value": [number]} for name, number in numbers.items()},
    }


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (200, answer(stored=[item("1.2")]), "delivered"),
        (202, answer(stored=[item("1.2", warning=0xB000)], failed=[item("1.9", reason=0xC000)]), "delivered"),
        (200, answer(stored=[item("1.9")]), "no answer"),
        (200, b"", "no answer"),
        (200, b"<html>Welcome to the hotel's Wi-Fi</html>", "no answer"),
        (200, b"[]", "no answer"),
        (200, b"[1]", "no answer"),
        (200, answer(stored=[item("1.2")], failed=[item("1.2", reason=0xA900)]), "refused"),
        (202, answer(failed=[item("1.2", reason=0xA700)]), "busy"),
        (409, answer(failed=[item("1.2", reason=0x0122)]), "refused"),
        (409, answer(failed=[item("1.2")]), "refused"),
        (409, answer(failed=[item("1.2", reason=0)]), "refused"),
        (415, b"", "refused"),
        (500, answer(stored=[item("1.2")]), "no answer"),
    ],
)
def test_over_http_an_instance_is_delivered_only_if_the_answer_names_it_as_stored(status, body, verdict):
    assert judge_answer(status, body, ["1.2"])["1.2"].verdict == verdict


def test_a_commitment_report_names_what_is_safe_and_what_is_not():
    report = Dataset()
    report.TransactionUID = "2.25.1"
    safe, lost = Dataset(), Dataset()
    safe.ReferencedSOPInstanceUID, lost.ReferencedSOPInstanceUID, lost.FailureReason = "1.2", "1.3", 0x0112
    report.ReferencedSOPSequence, report.FailedSOPSequence = [safe], [lost]
    parsed = parse_report(report)
    assert {uid: outcome.verdict for uid, outcome in parsed.outcomes.items()} == {"1.2": "confirmed", "1.3": "denied"}
    assert "no such object instance (0x0112)" in parsed.outcomes["1.3"].reason
