"""Replay and send as one command, to a real PACS; and what is said when there is nobody to send for."""

from __future__ import annotations

import json
from pathlib import Path

from commands import run_steadymr
from pacs_peers import free_port, running, storescp
from scans import pixels, write_scan

from steadymr.simulate.scan import simulate_scan

CLASSICAL = ("--method", "classical", "--samples", "0")


def test_a_scan_goes_from_file_to_pacs_in_one_command(tmp_path: Path) -> None:
    """What is in the PACS is what was written, and the outbox says that it is stored."""
    simulate_scan(tmp_path / "scan.h5", seed=0, matrix=(64, 64), acceleration=1)
    with running(storescp(tmp_path / "pacs")) as pacs:
        done = run_steadymr(
            "replay", tmp_path / "scan.h5", "--out", tmp_path / "out", *CLASSICAL,
            "--to", f"dimse://PACS@127.0.0.1:{pacs.port}", "--outbox", tmp_path / "outbox",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "1 of 1 instances stored" in done.stdout
        assert pacs.uids() == list(pixels(tmp_path / "out"))
    listed = run_steadymr("outbox", "list", "--json", "--outbox", tmp_path / "outbox")
    assert [row["state"] for row in json.loads(listed.stdout)] == ["stored"]


def test_a_series_that_belongs_to_nobody_is_not_sent(tmp_path: Path) -> None:
    """It stays on disk, and the sentence says what is missing."""
    write_scan(tmp_path / "scan.h5")
    to = f"dimse://PACS@127.0.0.1:{free_port()}"
    done = run_steadymr(
        "replay", tmp_path / "scan.h5", "--out", tmp_path / "out", *CLASSICAL, "--to", to,
        "--outbox", tmp_path / "outbox",
    )  # fmt: skip
    assert done.returncode == 8
    assert "PatientID" in done.stderr
    assert list((tmp_path / "out").rglob("*.dcm"))


def test_an_unknown_destination_is_named_before_anything_is_done(tmp_path: Path) -> None:
    """No reconstruction runs for a destination that does not exist."""
    done = run_steadymr("replay", tmp_path / "scan.h5", "--out", tmp_path / "out", "--to", "pacs")
    assert done.returncode == 2
    assert "'pacs'" in done.stderr
    assert not (tmp_path / "out").exists()
