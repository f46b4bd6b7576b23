"""Everything that goes wrong between us and a PACS, once each, counted at the PACS.

    python bench/delivery/faults.py [--only WORD] [--kills 50] [--limit-s 120] [--json FILE] [--quick]

For each fault: instances sent, held by the PACS in the end, in quarantine, and the two numbers that must be 0: false
successes (we say stored, the PACS has it not) and lost (neither at the PACS nor in quarantine nor waiting). Broken
associations cost time, nothing else. Filling disks needs the right to mount a tmpfs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import pydicom
from pacs_peers import free_port, orthanc, running, scripted_scp, storescp, write_series
from pydicom.uid import EncapsulatedPDFStorage

from steadymr.delivery import enqueue, outbox_list
from steadymr.delivery import sender as sender_module
from steadymr.delivery.sender import run_sender
from steadymr.errors import OutputError

POLICY = {"first_wait_s": 0.1, "longest_wait_s": 1.0, "answer_wait_s": 5.0, "settle_s": 0.1}
QUICK: dict[str, Any] = {"policy": POLICY, "connect_timeout_s": 3.0, "answer_timeout_s": 3.0}
LIMIT_S = [120.0]  #: of each fault; an option sets it


@dataclass
class Count:
    """What became of the instances of one run."""

    fault: str
    sent: int
    at_pacs: int
    quarantined: int
    false_successes: int
    lost: int
    unknown_answers: int
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.false_successes and not self.lost and self.at_pacs + self.quarantined == self.sent


def uids_of(files: list[Path]) -> set[str]:
    return {str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in files}


def work(outbox: Path, **options: Any) -> None:
    until_s = time.monotonic() + LIMIT_S[0]
    run_sender(outbox, until_idle=True, stop=lambda: time.monotonic() > until_s, **options)


def count(fault: str, files: list[Path], outbox: Path, held: list[str], start_s: float) -> Count:
    sent, rows = uids_of(files), outbox_list(outbox)
    claimed = {row.instance.sop_instance_uid for row in rows if row.state in ("stored", "committed")}
    known = {row.instance.sop_instance_uid for row in rows if row.state in ("failed", "queued")}
    ours = [uid for uid in held if uid in sent]
    return Count(
        fault,
        sent=len(sent),
        at_pacs=len(ours) if len(ours) == len(set(ours)) else -1,
        quarantined=sum(row.state == "failed" and row.instance.sop_instance_uid not in ours for row in rows),
        false_successes=len(claimed - set(ours)),
        lost=len(sent - set(ours) - known),
        unknown_answers=sum(row.silences for row in rows),
        seconds=time.monotonic() - start_s,
    )


def later(seconds: float, *actions: Callable[[], None], when: Callable[[], bool] = lambda: True) -> threading.Thread:
    """Do the actions in turn, ``seconds`` apart, from the moment that ``when`` holds."""

    def body() -> None:
        while not when():
            time.sleep(0.002)
        for action in actions:
            action()
            time.sleep(seconds)

    thread = threading.Thread(target=body)
    thread.start()
    return thread


def down_at_start(folder: Path) -> Count:
    files, start_s = write_series(folder / "in", 40), time.monotonic()
    peer = storescp(folder)
    enqueue(files, {"url": peer.url, **QUICK}, folder / "outbox")
    accident = later(0.0, lambda: time.sleep(2.0), peer.start)
    work(folder / "outbox")
    accident.join()
    peer.kill()
    return count("PACS down at start", files, folder / "outbox", peer.uids(), start_s)


def killed_in_the_middle(folder: Path) -> Count:
    files, start_s = write_series(folder / "in", 200), time.monotonic()
    with running(storescp(folder)) as peer:
        enqueue(files, {"url": peer.url, **QUICK}, folder / "outbox")
        accident = later(0.3, *[peer.kill, peer.start] * 3, when=lambda: len(peer.uids()) > 20)
        work(folder / "outbox")
        accident.join()
    return count("PACS killed mid-association, 3 times", files, folder / "outbox", peer.uids(), start_s)


def frozen(folder: Path) -> Count:
    files, start_s = write_series(folder / "in", 200), time.monotonic()
    with running(storescp(folder)) as peer:
        enqueue(files, {"url": peer.url, **QUICK}, folder / "outbox")
        accident = later(5.0, peer.freeze, peer.thaw, when=lambda: len(peer.uids()) > 20)
        work(folder / "outbox")
        accident.join()
    return count("PACS frozen (SIGSTOP) for 5 s", files, folder / "outbox", peer.uids(), start_s)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A tmpfs of ``size`` at ``folder``; the function gives it another size."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield lambda new: subprocess.run(["mount", "-o", f"remount,size={new}", folder], check=True) and None
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def pacs_disk_full(folder: Path) -> Count:
    files, start_s = write_series(folder / "in", 20, size=256), time.monotonic()
    with small_disk(folder / "received", "1m") as resize, running(storescp(folder)) as peer:
        enqueue(files, {"url": peer.url, **QUICK}, folder / "outbox")
        accident = later(0.0, lambda: time.sleep(3.0), lambda: resize("64m"))
        work(folder / "outbox")
        accident.join()
        whole = [file for file in peer.folder.iterdir() if file.stat().st_size > 256 * 256 * 2]
        held = [str(pydicom.dcmread(file).SOPInstanceUID) for file in whole]
    return count("PACS disk full, then not", files, folder / "outbox", held, start_s)


def refuses_the_ae(folder: Path) -> Count:
    files, start_s = write_series(folder / "in", 5), time.monotonic()
    with scripted_scp(lambda number, uid: 0x0000, require_calling_aet=["SOMEBODY"]) as peer:
        enqueue(files, {"url": peer.url, **QUICK}, folder / "outbox")
        work(folder / "outbox")
    return count("PACS refuses the AE title", files, folder / "outbox", taken(peer), start_s)


def orthanc_drops_strangers(folder: Path) -> Count:
    files, start_s = write_series(folder / "in", 3), time.monotonic()
    with running(orthanc(folder / "pacs", DicomAlwaysAllowStore=False)) as peer:
        options = {**QUICK, "policy": {**POLICY, "silence_limit": 4, "refusal_limit": 4}}
        enqueue(files, {"url": peer.url, "calling_ae": "STRANGER", **options}, folder / "outbox")
        work(folder / "outbox")
        return count("Orthanc knows not the calling AE", files, folder / "outbox", peer.uids(), start_s)


def refuses_the_sop_class(folder: Path) -> Count:
    files = write_series(folder / "mr", 5) + write_series(folder / "pdf", 2, SOPClassUID=EncapsulatedPDFStorage)
    start_s = time.monotonic()
    with scripted_scp(lambda number, uid: 0x0000) as peer:
        enqueue(files, {"url": peer.url, **QUICK}, folder / "outbox")
        work(folder / "outbox")
    return count("PACS refuses a SOP class", files, folder / "outbox", taken(peer), start_s)


def taken(peer: Any) -> list[str]:
    """What a scripted PACS said it stored, once each as a PACS would hold it."""
    return sorted({uid for uid, status in peer.received if status in (0x0000, 0xB000)})


def answers(status: int, words: str) -> Callable[[Path], Count]:
    """The first 7 requests, and all for one instance, are answered by ``status``."""

    def run(folder: Path) -> Count:
        files, start_s = write_series(folder / "in", 10), time.monotonic()
        lasting = sorted(uids_of(files))[0] if status == 0xC000 else ""
        with scripted_scp(lambda n, uid: status if n < 7 or uid == lasting else 0x0000) as peer:
            enqueue(files, {"url": peer.url, **QUICK}, folder / "outbox")
            work(folder / "outbox")
        return count(f"PACS answers 0x{status:04X}{words}", files, folder / "outbox", taken(peer), start_s)

    run.__name__ = f"answers_{status:04x}"
    return run


class Wire:
    """A TCP relay that can be cut: nothing passes, nothing is closed; mended, it closes what was cut."""

    def __init__(self, target: int) -> None:
        self.port, self._target = free_port(), target
        self._whole = threading.Event()
        self._whole.set()
        self._sockets: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # because a thread that still reads from it would keep it open
            end.close()
        self._sockets = []
        self._whole.set()

    def _accept(self) -> None:
        while True:
            ours, _ = self._server.accept()
            self._whole.wait()
            theirs = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [ours, theirs]
            for source, sink in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self._whole.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def network_cut(folder: Path) -> Count:
    files, start_s = write_series(folder / "in", 100), time.monotonic()
    with running(storescp(folder)) as peer:
        wire = Wire(peer.port)
        enqueue(files, {"url": f"dimse://PACS@127.0.0.1:{wire.port}", **QUICK}, folder / "outbox")
        accident = later(5.0, wire.cut, wire.mend, when=lambda: len(peer.uids()) > 20)
        work(folder / "outbox")
        accident.join()
    return count("network cut for 5 s and back", files, folder / "outbox", peer.uids(), start_s)


def sender_killed(kills: int) -> Callable[[Path], Count]:
    def run(folder: Path) -> Count:
        rng, fork = random.Random(7), multiprocessing.get_context("fork")
        files, start_s = write_series(folder / "in", 500), time.monotonic()
        with running(orthanc(folder / "pacs")) as peer:
            listen = {"confirm": "commitment", "listen_host": "127.0.0.1", "listen_port": peer.report_port}
            enqueue(files, {"url": peer.url, **QUICK, **listen}, folder / "outbox")
            for _ in range(kills):
                process = fork.Process(target=run_sender, args=(folder / "outbox",))
                process.start()
                time.sleep(rng.uniform(0.02, 0.6))
                os.kill(process.pid or 0, signal.SIGKILL)
                process.join()
            work(folder / "outbox")
            name = f"sender killed -9 at {kills} random moments (Orthanc, commitment)"
            return count(name, files, folder / "outbox", peer.uids(), start_s)

    run.__name__ = "sender_killed"
    return run


def clock_stepped(folder: Path) -> Count:
    files, start_s = write_series(folder / "in", 40), time.monotonic()
    peer, step_s = storescp(folder), [0.0]
    enqueue(files, {"url": peer.url, **QUICK}, folder / "outbox")
    steps = [lambda s=s: step_s.__setitem__(0, s) for s in (-3e7, 3e7, 0.0)]  # type: ignore[misc]
    accident = later(0.7, *steps, peer.start)
    work(folder / "outbox", clock=lambda: time.time() + step_s[0])
    accident.join()
    peer.kill()
    return count("clock stepped by a year, back, forth, home", files, folder / "outbox", peer.uids(), start_s)


def outbox_disk_full(folder: Path) -> Count:
    """Too small to queue; then enough to queue, then filled by somebody else while sending, then free again."""
    files, start_s = write_series(folder / "in", 20, size=128), time.monotonic()
    outbox, filler = folder / "disk" / "outbox", folder / "disk" / "filler"
    sender_module._TROUBLE_WAIT_S = 0.5
    with small_disk(folder / "disk", "300k") as resize, running(storescp(folder)) as peer:
        try:
            enqueue(files, {"url": peer.url, **QUICK}, outbox)
            raise SystemExit("20 images fitted into 300 kB")
        except OutputError:
            resize("2m")
        enqueue(files, {"url": peer.url, **QUICK}, outbox)
        accident = later(3.0, lambda: fill(filler), filler.unlink, when=lambda: len(peer.uids()) > 2)
        work(outbox)
        accident.join()
        return count("outbox disk full while queueing and while sending", files, outbox, peer.uids(), start_s)


def fill(file: Path) -> None:
    with open(file, "wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            return


def busy_cores(folder: Path) -> Count:
    files, start_s = write_series(folder / "in", 512, size=256), time.monotonic()
    burn = [sys.executable, "-c", "while True: pass"]
    burners = [subprocess.Popen(burn) for _ in range(os.cpu_count() or 1)]
    try:
        with running(storescp(folder)) as peer:
            enqueue(files, {"url": peer.url, **QUICK}, folder / "outbox")
            work(folder / "outbox")
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    return count("all cores busy", files, folder / "outbox", peer.uids(), start_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run those whose function name contains this")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--limit-s", type=float, default=120.0, help="per fault; more on a busy machine")
    parser.add_argument("--quick", action="store_true", help="5 kills, and no busy cores")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    LIMIT_S[0] = options.limit_s
    faults = [
        down_at_start,
        killed_in_the_middle,
        frozen,
        pacs_disk_full,
        refuses_the_ae,
        orthanc_drops_strangers,
        refuses_the_sop_class,
        answers(0xB000, " 7 times"),
        answers(0xA700, " 7 times"),
        answers(0xC000, " 7 times, and always for one"),
        network_cut,
        sender_killed(5 if options.quick else options.kills),
        clock_stepped,
        outbox_disk_full,
        busy_cores,
    ]
    faults = faults[:-1] if options.quick else faults
    counts = []
    print(f"{'fault':58} sent  PACS quar. FALSE  LOST unkn.     s")
    for fault in faults:
        if options.only in fault.__name__:
            with tempfile.TemporaryDirectory() as folder:
                result = fault(Path(folder))
            counts.append(result)
            print(
                f"{result.fault:58}{result.sent:5}{result.at_pacs:6}{result.quarantined:6}{result.false_successes:6}"
                f"{result.lost:6}{result.unknown_answers:6}{result.seconds:6.1f}  {'ok' if result.ok else 'NOT OK'}",
                flush=True,
            )
            if options.json:
                options.json.write_text(json.dumps([{**asdict(c), "ok": c.ok} for c in counts], indent=1))
    return 0 if all(c.ok for c in counts) else 1


if __name__ == "__main__":
    sys.exit(main())
