"""The outbox on disk."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pacs_peers import write_series

from steadymr.delivery import outbox_counts, outbox_list, parse_destination, purge, retry
from steadymr.delivery.outbox import Outcome, Peer, after
from steadymr.delivery.store import Store
from steadymr.errors import DeliveryError, OutputError

PACS = parse_destination("dimse://PACS@127.0.0.1:104", "pacs")
NOW = 1.7e9


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "outbox") as opened:
        yield opened


def copies(store):
    return sorted(file.name for file in store.files_dir.iterdir())


def test_a_queued_instance_is_copied_byte_for_byte_and_outlives_the_original(store, tmp_path):
    (file,) = write_series(tmp_path / "in", 1)
    content = file.read_bytes()
    store.add([file], PACS, NOW)
    shutil.rmtree(tmp_path / "in")
    (row,) = store.open_rows()
    assert store.path(row).read_bytes() == content
    assert (row.state, row.destination, row.next_try_s) == ("queued", "pacs", NOW)


def test_an_outbox_holds_patients_images_and_is_closed_to_others(store):
    assert store.outbox_dir.stat().st_mode & 0o077 == 0
    assert (store.outbox_dir / "outbox.sqlite").stat().st_mode & 0o077 == 0


def test_the_database_survives_a_power_cut_by_its_settings(store):
    with sqlite3.connect(store.outbox_dir / "outbox.sqlite") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._database.execute("PRAGMA synchronous").fetchone() == (2,)


@pytest.mark.parametrize("keyword", ["PatientID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_an_image_that_belongs_to_nobody_is_not_queued_and_nothing_else_is(store, tmp_path, keyword):
    good, bad = write_series(tmp_path / "in", 2)
    dataset = pydicom.dcmread(bad)
    setattr(dataset, keyword, "")
    dataset.save_as(bad)
    with pytest.raises(DeliveryError, match=f"{keyword} empty or missing"):
        store.add([good, bad], PACS, NOW)
    assert store.rows() == []
    assert copies(store) == []


@pytest.mark.parametrize("content", [b"", b"no DICOM at all", b"\0" * 128 + b"DICM"])
def test_what_is_no_dicom_file_is_refused_by_name(store, tmp_path, content):
    (tmp_path / "odd.dcm").write_bytes(content)
    with pytest.raises(DeliveryError, match=r"odd\.dcm"):
        store.add([tmp_path / "odd.dcm"], PACS, NOW)


def test_one_uid_never_names_two_images(store, tmp_path):
    (file,) = write_series(tmp_path / "in", 1)
    store.add([file], PACS, NOW)
    dataset = pydicom.dcmread(file)
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(file)
    with pytest.raises(DeliveryError, match="other pixels"):
        store.add([file], PACS, NOW)
    assert len(copies(store)) == 1


def test_queueing_again_keeps_one_row_and_one_copy_and_sends_the_newest(store, tmp_path):
    (file,) = write_series(tmp_path / "in", 1)
    (first,) = store.add([file], PACS, NOW)
    dataset = pydicom.dcmread(file)
    dataset.ImageComments = "newer"
    dataset.save_as(file)
    assert store.add([file], PACS, NOW + 1) == [first]
    (row,) = store.open_rows()
    assert pydicom.dcmread(store.path(row)).ImageComments == "newer"
    assert len(copies(store)) == 1


def test_an_outcome_of_an_instance_that_was_queued_again_meanwhile_is_not_written(store, tmp_path):
    files = write_series(tmp_path / "in", 1)
    store.add(files, PACS, NOW)
    (in_flight,) = store.open_rows()
    store.add(files, PACS, NOW + 1)
    store.save([after(in_flight, Outcome("delivered"), Peer("pacs"), NOW, 0.5)])
    assert [row.state for row in store.rows()] == ["queued"]


def test_the_copy_goes_when_it_is_safe_at_the_pacs_and_not_before(store, tmp_path):
    store.add(write_series(tmp_path / "in", 2), PACS, NOW)
    delivered, refused = store.open_rows()
    store.save([after(delivered, Outcome("delivered"), Peer("pacs"), NOW, 0.5)])
    store.save([replace(refused, state="failed", next_try_s=None)])
    store.tidy()
    assert copies(store) == [refused.instance.file]


def test_copies_left_by_a_crash_are_swept_and_those_being_queued_are_not(store, tmp_path):
    for name, age_s in [("old.dcm", 7200), ("young.dcm", 0)]:
        (store.files_dir / name).write_bytes(b"")
        os.utime(store.files_dir / name, (time.time() - age_s,) * 2)
    store.add(write_series(tmp_path / "in", 1), PACS, NOW)
    assert store.sweep() == 1
    assert {"young.dcm", store.rows()[0].instance.file} == set(copies(store))


def test_a_database_that_is_full_says_so_and_loses_nothing(store, tmp_path):
    store.add(write_series(tmp_path / "a", 1), PACS, NOW)
    pages = store._database.execute("PRAGMA page_count").fetchone()[0]
    store._database.execute(f"PRAGMA max_page_count = {pages}")
    files = [write_series(tmp_path / str(number), 1) for number in range(60)]
    with pytest.raises(OutputError, match="full"):
        _ = [store.add(file, PACS, NOW) for file in files]
    assert {row.instance.file for row in store.rows()} == set(copies(store))


def test_a_full_disk_queues_nothing_and_leaves_nothing(tmp_path):
    write_series(tmp_path / "in", 3, size=256)
    program = (
        "import resource, signal, sys; from pathlib import Path; from steadymr.delivery import enqueue\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "enqueue([sys.argv[1]], 'dimse://PACS@127.0.0.1:104', Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "in"), str(tmp_path / "outbox")]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "OutputError: cannot write into the outbox" in said
    assert outbox_list(tmp_path / "outbox") == []
    assert list((tmp_path / "outbox" / "files").iterdir()) == []


def test_an_outbox_of_another_version_is_not_touched(tmp_path):
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "outbox.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(DeliveryError, match="schema 99"):
        Store(tmp_path)


def test_purge_forgets_what_is_settled_and_retry_queues_what_is_in_quarantine(store, tmp_path):
    store.add(write_series(tmp_path / "in", 3), PACS, NOW)
    waiting, safe, failed = store.open_rows()
    store.save([replace(safe, state="stored", next_try_s=None), replace(failed, state="failed", next_try_s=None)])
    assert purge(store.outbox_dir) == 1
    assert outbox_counts(store.outbox_dir) == {("pacs", "queued"): 1, ("pacs", "failed"): 1}
    assert retry(store.outbox_dir, ids=[failed.id]) == 1
    assert [row.id for row in outbox_list(store.outbox_dir, states=["queued"])] == [waiting.id, failed.id]
    assert purge(store.outbox_dir, states=("queued", "failed")) == 0


def test_a_thing_that_is_not_there_is_not_sent(tmp_path):
    from steadymr.delivery.intake import dicom_files

    with pytest.raises(DeliveryError, match="nothing to send at"):
        dicom_files([Path("/no/such/file.dcm")])
    with pytest.raises(DeliveryError, match=r"no \.dcm file"):
        dicom_files([tmp_path])
