"""The sender as a process of its own: watched, killed, started twice, left alone."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import psutil
import pytest
from pacs_peers import running, storescp, write_series

from steadymr.delivery import SenderWatch, enqueue, outbox_list, send, sender_running
from steadymr.delivery.lock import is_sender_running, sender_lock
from steadymr.delivery.sender import run_sender
from steadymr.errors import DeliveryError

NOBODY = "dimse://NOBODY@127.0.0.1:1"


def until(condition, limit_s=60.0):
    until_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until_s, "it did not come to pass"
        time.sleep(0.01)


def test_sending_returns_once_everything_is_stored_and_leaves_no_process(tmp_path):
    write_series(tmp_path / "in", 5)
    seen = []
    with running(storescp(tmp_path)) as peer:
        result = send([tmp_path / "in"], peer.url, tmp_path / "outbox", progress=lambda *done: seen.append(done))
    assert result.ok
    assert result.sentence() == f"5 of 5 instances stored at {peer.url}"
    assert len(peer.uids()) == 5
    assert seen[-1] == (5, 5)
    assert not is_sender_running(tmp_path / "outbox")


def test_sending_to_nobody_ends_in_time_says_why_and_keeps_everything_queued(tmp_path):
    write_series(tmp_path / "in", 2)
    enqueue([tmp_path / "in"], NOBODY, tmp_path / "outbox")
    run_sender(tmp_path / "outbox", stop=lambda: all(row.reason for row in outbox_list(tmp_path / "outbox")))
    rows = outbox_list(tmp_path / "outbox")
    assert {(row.state, row.reason) for row in rows} == {
        ("queued", f"{NOBODY}: cannot connect; is the PACS running there?")
    }
    result = send([tmp_path / "in"], NOBODY, tmp_path / "outbox", timeout_s=0.0)
    assert not result.ok
    assert result.sentence().startswith(f"0 of 2 instances stored at {NOBODY}; 2 queued: ")


def test_a_sender_killed_in_the_middle_is_started_again_and_everything_arrives_once(tmp_path):
    n = 150
    write_series(tmp_path / "in", n)
    with running(storescp(tmp_path)) as peer, sender_running(tmp_path / "outbox"):
        enqueue([tmp_path / "in"], peer.url, tmp_path / "outbox")
        until(lambda: len(peer.uids()) > random.Random(5).randrange(n // 2))
        kill_sender(tmp_path / "outbox")
        until(lambda: {row.state for row in outbox_list(tmp_path / "outbox")} == {"stored"})
    assert len(peer.uids()) == n
    assert not is_sender_running(tmp_path / "outbox")


def kill_sender(outbox):
    for process in psutil.process_iter(["cmdline"]):
        if str(outbox) in (process.info["cmdline"] or []) and "steadymr.delivery.sender" in process.info["cmdline"]:
            process.send_signal(signal.SIGKILL)


def test_a_second_sender_leaves_the_work_to_the_first(tmp_path):
    with sender_lock(tmp_path) as locked:
        assert locked
        assert run_sender(tmp_path) is False


def test_a_sender_ends_when_its_parent_is_killed(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from steadymr.delivery import SenderWatch\n"
        "watch = SenderWatch(Path(sys.argv[1])); watch.check(); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    until(lambda: is_sender_running(tmp_path))
    parent.kill()
    parent.wait()
    until(lambda: not is_sender_running(tmp_path))


def test_a_sender_that_cannot_live_is_reported_and_not_started_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("steadymr.delivery.watch._DEATHS_IN_A_ROW", 1)
    (tmp_path / "outbox.sqlite").write_bytes(b"this is no database" * 100)
    watch = SenderWatch(tmp_path)
    with pytest.raises(DeliveryError, match=r"died 1 times in a row: .*not a database"):
        until(lambda: watch.check() is not None, limit_s=60.0)


def test_callers_load_no_network_library():
    program = "import sys, steadymr.delivery; sys.exit('pynetdicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
