"""A series every few seconds for hours, to a PACS that is killed and started again: nothing lost, memory flat.

    python bench/delivery/soak.py [--hours 2] [--every 10] [--restart-every 300] [--images 24] [--json FILE]

The sender is the real process, watched as a server would watch it. Its memory is read after each series.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import psutil
import pydicom
from pacs_peers import StoreSCP, running, storescp, write_series

from steadymr.delivery import SenderWatch, enqueue, outbox_list

MIB = 2**20


def soak(folder: Path, peer: StoreSCP, options: argparse.Namespace) -> tuple[set[str], list[float], int]:
    """The UIDs sent, the sender's resident memory in MiB after each series, and the restarts of the PACS."""
    sent: set[str] = set()
    memory_mib: list[float] = []
    watch, n_restarts = SenderWatch(folder / "outbox"), 0
    start_s = time.monotonic()
    last_restart_s = start_s
    while time.monotonic() - start_s < options.hours * 3600:
        files = write_series(folder / "in", options.images, size=256, seed=len(sent))
        sent |= {str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in files}
        enqueue(files, {"url": peer.url, "answer_timeout_s": 10.0}, folder / "outbox")
        watch.check()
        if time.monotonic() - last_restart_s > options.restart_every:
            peer.kill()
            time.sleep(2.0)
            peer.start()
            last_restart_s, n_restarts = time.monotonic(), n_restarts + 1
        time.sleep(options.every)
        if watch.pid is not None:
            memory_mib.append(psutil.Process(watch.pid).memory_info().rss / MIB)
    until_s = time.monotonic() + 400
    while any(row.state == "queued" for row in outbox_list(folder / "outbox")) and time.monotonic() < until_s:
        watch.check()
        time.sleep(1.0)
    watch.close()
    return sent, memory_mib, n_restarts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between series")
    parser.add_argument("--restart-every", type=float, default=300.0, help="seconds between restarts of the PACS")
    parser.add_argument("--images", type=int, default=24, help="of one series")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running(storescp(folder)) as peer:
            sent, memory_mib, n_restarts = soak(folder, peer, options)
            held = peer.uids()
        claimed = {row.instance.sop_instance_uid for row in outbox_list(folder / "outbox") if row.state == "stored"}
    quarter = max(1, len(memory_mib) // 4)
    result = {
        "sent": len(sent),
        "at_pacs": len(sent & set(held)),
        "false_successes": len(claimed - set(held)),
        "restarts": n_restarts,
        "memory_mib_first_quarter": sum(memory_mib[:quarter]) / quarter,
        "memory_mib_last_quarter": sum(memory_mib[-quarter:]) / quarter,
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps({**result, "memory_mib": memory_mib}, indent=1))
    return 0 if result["at_pacs"] == result["sent"] and not result["false_successes"] else 1


if __name__ == "__main__":
    sys.exit(main())
