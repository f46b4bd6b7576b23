"""Delivery to real PACS, in good times and bad: everything arrives once, and nothing is claimed that is not so."""

from __future__ import annotations

import dataclasses
import gc
import logging
import socket
import struct
import threading
import time

import pydicom
import pytest
from pacs_peers import (
    commitment_scp,
    free_port,
    mutual_tls_files,
    orthanc,
    running,
    scripted_scp,
    storescp,
    web_server,
    write_series,
)
from pydicom.uid import EncapsulatedPDFStorage, JPEGLSLossless, MRImageStorage
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.presentation import build_context

from steadymr.delivery import enqueue, outbox_list, parse_destination, retry
from steadymr.delivery.association import associated
from steadymr.delivery.sender import run_sender
from steadymr.errors import PeerError, SettingsError

POLICY = {"first_wait_s": 0.05, "longest_wait_s": 0.2, "settle_s": 0.01, "answer_wait_s": 5.0}
QUICK = {"policy": POLICY, "connect_timeout_s": 2.0, "answer_timeout_s": 1.0}


@pytest.fixture(autouse=True)
def _quiet_network_library(caplog):
    """As in the sender's process."""
    caplog.set_level(logging.CRITICAL, "pynetdicom")


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    with running(orthanc(tmp_path_factory.mktemp("orthanc"))) as program:
        yield program


def uids_of(files):
    return sorted(str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in files)


def states(outbox):
    return {row.state for row in outbox_list(outbox)}


def deliver(folder, url, n=3, limit_s=20.0, size=32, **options):
    """Queue a new series, let the sender work until all is settled, and say what was sent."""
    files = write_series(folder / "in", n, size=size)
    enqueue(files, {"url": url, **QUICK, **options}, folder / "outbox")
    settle(folder, limit_s)
    return files


def settle(folder, limit_s=20.0):
    until_s = time.monotonic() + limit_s
    assert run_sender(folder / "outbox", until_idle=True, stop=lambda: time.monotonic() > until_s, seed=1)


def test_storescp_gets_every_image_as_it_is(tmp_path):
    with running(storescp(tmp_path)) as peer:
        files = deliver(tmp_path, peer.url)
    received = {str(pydicom.dcmread(f).SOPInstanceUID): pydicom.dcmread(f) for f in peer.folder.iterdir()}
    assert sorted(received) == uids_of(files)
    for sent in map(pydicom.dcmread, files):
        assert received[sent.SOPInstanceUID] == sent
    assert states(tmp_path / "outbox") == {"stored"}


@pytest.mark.parametrize("option", ["+xi", "+xe"], ids=["implicit only", "explicit only"])
def test_a_pacs_that_takes_another_uncompressed_syntax_gets_the_same_data(tmp_path, option):
    with running(storescp(tmp_path, option)) as peer:
        (file,) = deliver(tmp_path, peer.url, n=1)
    (received,) = map(pydicom.dcmread, peer.folder.iterdir())
    assert received == pydicom.dcmread(file)
    assert received.file_meta.TransferSyntaxUID.is_implicit_VR == (option == "+xi")


def test_compression_keeps_uid_and_pixels(tmp_path):
    with running(storescp(tmp_path, "+xa")) as peer:
        (file,) = deliver(tmp_path, peer.url, n=1, size=64, compression="jpegls")
    (received,) = map(pydicom.dcmread, peer.folder.iterdir())
    sent = pydicom.dcmread(file)
    assert received.file_meta.TransferSyntaxUID == JPEGLSLossless
    assert received.SOPInstanceUID == sent.SOPInstanceUID
    assert (received.pixel_array == sent.pixel_array).all()


@pytest.mark.parametrize("way", ["dimse", "dimse asked by C-FIND", "web", "web asked by QIDO-RS", "commitment"])
def test_orthanc_gets_every_image_once_by_every_way(tmp_path, pacs, way):
    url = pacs.web_url if way.startswith("web") else pacs.url
    options = {"confirm": "query"} if "asked" in way else {}
    if way == "commitment":
        options = {"confirm": "commitment", "listen_host": "127.0.0.1", "listen_port": pacs.report_port}
    files = deliver(tmp_path, url, **options)
    assert sorted(uid for uid in pacs.uids() if uid in uids_of(files)) == uids_of(files)
    assert states(tmp_path / "outbox") == {"committed" if options else "stored"}


def test_what_a_pacs_lost_after_saying_stored_is_sent_again(tmp_path, pacs):
    files = write_series(tmp_path / "in", 2)
    listen = {"listen_host": "127.0.0.1", "listen_port": pacs.report_port}
    enqueue(files, {"url": pacs.url, **QUICK, "confirm": "commitment", **listen}, tmp_path / "outbox")
    run_sender(tmp_path / "outbox", stop=lambda: states(tmp_path / "outbox") == {"stored"}, seed=1)
    pacs.forget(uids_of(files)[0])
    settle(tmp_path)
    assert states(tmp_path / "outbox") == {"committed"}
    assert sum(row.denials for row in outbox_list(tmp_path / "outbox")) == 1
    assert set(uids_of(files)) <= set(pacs.uids())


def test_a_report_that_comes_after_a_restart_is_understood(tmp_path):
    """The PACS is asked by one sender and answers to the next."""
    port = free_port()
    report = threading.Event()
    with commitment_scp(port, report) as url:
        files = write_series(tmp_path / "in", 2)
        options = {"confirm": "commitment", "listen_host": "127.0.0.1", "listen_port": port}
        options["policy"] = {**POLICY, "answer_wait_s": 60.0}
        enqueue(files, {"url": url, **QUICK, **options}, tmp_path / "outbox")
        run_sender(tmp_path / "outbox", stop=lambda: any(r.questions for r in outbox_list(tmp_path / "outbox")))
        assert states(tmp_path / "outbox") == {"stored"}
        report.set()
        settle(tmp_path)
    assert states(tmp_path / "outbox") == {"committed"}
    assert {row.questions for row in outbox_list(tmp_path / "outbox")} == {1}


def test_mutual_tls_carries_images_and_a_stranger_s_certificate_does_not(tmp_path):
    ours, theirs, ca = mutual_tls_files(tmp_path)
    options = ("+tls", str(theirs.key), str(theirs.certificate), "+cf", str(ca), "-rc")
    tls = {"tls": True, "tls_ca_file": str(ca), "tls_server_name": "pacs.test"}
    mine = {"tls_certificate_file": str(ours.certificate), "tls_key_file": str(ours.key)}
    with running(storescp(tmp_path, *options)) as peer:
        deliver(tmp_path / "good", peer.url, n=2, **tls, **mine)
        deliver(tmp_path / "bare", peer.url, n=1, limit_s=2.0, **tls)
        deliver(tmp_path / "wrong name", peer.url, n=1, limit_s=2.0, **{**tls, "tls_server_name": "other.test"}, **mine)
    assert states(tmp_path / "good" / "outbox") == {"stored"}
    assert states(tmp_path / "bare" / "outbox") == {"queued"}
    assert states(tmp_path / "wrong name" / "outbox") == {"queued"}
    assert len(peer.uids()) == 2


def test_a_pacs_that_is_down_at_first_gets_everything_later(tmp_path):
    peer = storescp(tmp_path)
    threading.Timer(0.6, peer.start).start()
    files = deliver(tmp_path, peer.url)
    peer.kill()
    assert sorted(peer.uids()) == uids_of(files)


def test_connections_that_a_pacs_resets_or_refuses_are_closed():
    """One left open would warn when it is collected, and warnings are errors."""
    with socket.create_server(("127.0.0.1", 0)) as pacs:
        port = pacs.getsockname()[1]

        def reset():
            connection, _ = pacs.accept()
            connection.recv(1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

        thread = threading.Thread(target=reset)
        thread.start()
        with pytest.raises(PeerError, match="made no association"), associated_at(port):
            pass
        thread.join()
    with pytest.raises(PeerError, match="cannot connect"), associated_at(port):
        pass
    gc.collect()


def associated_at(port):
    return associated(parse_destination(f"dimse://PACS@127.0.0.1:{port}"), [build_context(MRImageStorage)])


def test_a_pacs_killed_in_the_middle_gets_the_rest_after_its_restart(tmp_path):
    peer = storescp(tmp_path)

    def kill_and_restart():
        while len(peer.uids()) < 5:
            time.sleep(0.005)
        peer.kill()
        peer.start()

    with running(peer):
        accident = threading.Thread(target=kill_and_restart)
        accident.start()
        files = deliver(tmp_path, peer.url, n=40)
        accident.join()
    assert sorted(set(peer.uids())) == uids_of(files)
    assert states(tmp_path / "outbox") == {"stored"}


def test_a_pacs_frozen_from_the_start_costs_one_time_out_and_no_image(tmp_path):
    with running(storescp(tmp_path)) as peer:
        peer.freeze()
        threading.Timer(2.5, peer.thaw).start()
        files = deliver(tmp_path, peer.url)
        assert sorted(peer.uids()) == uids_of(files)
    assert states(tmp_path / "outbox") == {"stored"}


@pytest.mark.parametrize("size", [32, 2048], ids=["small", "larger than the socket's buffers"])
def test_a_pacs_frozen_in_the_middle_costs_one_time_out_and_no_image(tmp_path, size):
    def freeze_and_thaw(peer):
        while not peer.uids():
            time.sleep(0.001)
        peer.freeze()
        time.sleep(1.5)
        peer.thaw()

    with running(storescp(tmp_path)) as peer:
        accident = threading.Thread(target=freeze_and_thaw, args=(peer,))
        accident.start()
        files = deliver(tmp_path, peer.url, n=200 if size == 32 else 4, size=size)
        accident.join()
        assert sorted(peer.uids()) == uids_of(files)
    assert states(tmp_path / "outbox") == {"stored"}
    assert sum(row.silences for row in outbox_list(tmp_path / "outbox")) == 1


def test_a_pacs_out_of_resources_is_left_alone_and_tried_again(tmp_path):
    with scripted_scp(lambda number, uid: 0xA700 if number < 3 else 0x0000) as peer:
        files = deliver(tmp_path, peer.url)
    assert sorted(uid for uid, status in peer.received if status == 0) == uids_of(files)
    assert len(peer.received) == 3 + 3


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007])
def test_stored_with_a_warning_is_stored_once_and_says_so(tmp_path, status):
    with scripted_scp(lambda number, uid: status) as peer:
        deliver(tmp_path, peer.url)
    assert len(peer.received) == 3
    assert all(row.state == "stored" and f"0x{status:04X}" in row.reason for row in outbox_list(tmp_path / "outbox"))


def test_an_image_that_is_refused_goes_into_quarantine_and_the_others_arrive(tmp_path):
    files = write_series(tmp_path / "in", 4)
    bad = uids_of(files)[1]
    with scripted_scp(lambda number, uid: 0xC000 if uid == bad else 0x0000) as peer:
        enqueue(files, {"url": peer.url, **QUICK}, tmp_path / "outbox")
        settle(tmp_path)
    (failed,) = outbox_list(tmp_path / "outbox", states=["failed"])
    assert failed.instance.sop_instance_uid == bad
    assert "cannot understand" in failed.reason
    assert sum(uid == bad for uid, _ in peer.received) == parse_destination(peer.url).policy.refusal_limit
    assert len({uid for uid, status in peer.received if status == 0}) == 3


def test_a_pacs_that_does_not_know_us_ends_in_quarantine_with_its_words(tmp_path):
    with scripted_scp(lambda number, uid: 0x0000, require_calling_aet=["SOMEBODY"]) as peer:
        deliver(tmp_path, peer.url)
    assert peer.received == []
    rows = outbox_list(tmp_path / "outbox")
    assert {row.state for row in rows} == {"failed"}
    assert all("calling ae title not recogni" in row.reason.lower() for row in rows)


def test_a_sop_class_that_is_refused_does_not_hold_up_the_others(tmp_path):
    images = write_series(tmp_path / "mr", 2)
    other = write_series(tmp_path / "other", 1, SOPClassUID=EncapsulatedPDFStorage)
    with scripted_scp(lambda number, uid: 0x0000, sop_classes=[MRImageStorage]) as peer:
        enqueue([*other, *images], {"url": peer.url, **QUICK}, tmp_path / "outbox")
        settle(tmp_path)
    assert sorted({uid for uid, _ in peer.received}) == uids_of(images)
    (failed,) = outbox_list(tmp_path / "outbox", states=["failed"])
    assert "does not accept Encapsulated PDF Storage" in failed.reason


def test_a_lost_copy_is_quarantined_and_never_sent_in_part(tmp_path):
    with scripted_scp(lambda number, uid: 0x0000) as peer:
        enqueue(write_series(tmp_path / "in", 2), {"url": peer.url, **QUICK}, tmp_path / "outbox")
        damaged = outbox_list(tmp_path / "outbox")[0]
        copy = tmp_path / "outbox" / "files" / damaged.instance.file
        copy.write_bytes(copy.read_bytes()[:-100])
        settle(tmp_path)
    assert len(peer.received) == 1
    (failed,) = outbox_list(tmp_path / "outbox", states=["failed"])
    assert (failed.id, failed.reason) == (damaged.id, "the outbox's copy is gone or changed")


def test_what_is_in_quarantine_is_delivered_once_the_pacs_is_mended_and_somebody_asks(tmp_path):
    mended = threading.Event()
    with scripted_scp(lambda number, uid: 0x0000 if mended.is_set() else 0xA900) as peer:
        deliver(tmp_path, peer.url, n=1)
        assert states(tmp_path / "outbox") == {"failed"}
        mended.set()
        assert retry(tmp_path / "outbox") == 1
        settle(tmp_path)
    assert states(tmp_path / "outbox") == {"stored"}


def test_a_clock_stepped_back_by_a_year_delays_nothing(tmp_path):
    """The PACS is down, the sender plans its next try, and the clock is set back."""
    peer = storescp(tmp_path)
    step_s = [0.0]

    def accident():
        time.sleep(0.5)
        step_s[0] = -3e7
        peer.start()

    thread = threading.Thread(target=accident)
    thread.start()
    files = write_series(tmp_path / "in", 2)
    enqueue(files, {"url": peer.url, **QUICK}, tmp_path / "outbox")
    until_s = time.monotonic() + 60
    run_sender(
        tmp_path / "outbox",
        until_idle=True,
        stop=lambda: time.monotonic() > until_s,
        clock=lambda: time.time() + step_s[0],
    )
    thread.join()
    peer.kill()
    assert sorted(peer.uids()) == uids_of(files)


def test_an_outbox_that_cannot_be_written_stops_nothing_and_claims_nothing(tmp_path, monkeypatch):
    from steadymr.delivery import sender as module

    monkeypatch.setattr(module, "_TROUBLE_WAIT_S", 0.2)
    full = threading.Event()
    full.set()
    save = module.Store.save

    def save_unless_full(self, rows):
        if full.is_set():
            (n_pages,) = self._database.execute("PRAGMA page_count").fetchone()
            self._database.execute(f"PRAGMA max_page_count = {n_pages}")
        rows = [dataclasses.replace(row, reason="x" * 50_000 if full.is_set() else row.reason) for row in rows]
        save(self, rows)

    monkeypatch.setattr(module.Store, "save", save_unless_full)
    with scripted_scp(lambda number, uid: 0x0000) as peer:
        files = write_series(tmp_path / "in", 1)
        enqueue(files, {"url": peer.url, **QUICK}, tmp_path / "outbox")
        until_s = time.monotonic() + 1.0
        run_sender(tmp_path / "outbox", stop=lambda: bool(peer.received) and time.monotonic() > until_s)
        assert states(tmp_path / "outbox") == {"queued"}
        assert peer.received
        full.clear()
        settle(tmp_path)
    assert states(tmp_path / "outbox") == {"stored"}


def test_while_an_association_is_used_its_own_thread_cannot_take_our_answers(tmp_path, monkeypatch):
    taken = []
    get = DIMSEServiceProvider.get_msg
    monkeypatch.setattr(
        DIMSEServiceProvider, "get_msg", lambda self, block=False: taken.append(block) or get(self, block)
    )
    with running(storescp(tmp_path)) as peer:
        with associated(parse_destination(peer.url), [build_context(MRImageStorage)]) as association:
            taken.clear()
            time.sleep(0.1)
            assert taken == []
        association.join(5.0)
    assert not association.is_alive()


@pytest.mark.parametrize(("status", "state", "words"), [(401, "failed", "token"), (503, "queued", "HTTP 503")])
def test_a_web_server_that_will_not_have_us_is_believed(tmp_path, status, state, words):
    (tmp_path / "token").write_text("secret\n")
    with web_server(status) as (url, seen):
        deliver(tmp_path, url, n=1, limit_s=2.0, token_file=str(tmp_path / "token"))
    assert set(seen) == {"Bearer secret"}
    (row,) = outbox_list(tmp_path / "outbox")
    assert row.state == state
    assert words in row.reason


def test_waiting_for_committed_needs_a_way_to_know(tmp_path):
    from steadymr.delivery import send

    with pytest.raises(SettingsError, match="confirm by commitment or query"):
        send(write_series(tmp_path / "in", 1), "dimse://A@127.0.0.1:1", tmp_path / "outbox", wait="committed")
    assert not (tmp_path / "outbox").exists()
