"""512 images of 256 x 256 to DCMTK's storescp: by storescu with its defaults, and by ours, in turn, in one run.

    python bench/delivery/throughput.py [--images 512] [--repeats 3] [--json FILE]

"sender" is the time from the first image to the last at the peer; "send" is all of ``steadymr.delivery.send``: starting
the sender process, copying into the outbox with fsync, sending, and knowing that each was stored.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from pacs_peers import StoreSCP, running, storescp, tool, write_series

from steadymr.delivery import enqueue, send
from steadymr.delivery.sender import run_sender

LIMIT = 0.15


def by_storescu(files: Path, scp: StoreSCP) -> float:
    start_s = time.perf_counter()
    subprocess.run([tool("storescu"), "+sd", "127.0.0.1", str(scp.port), str(files)], check=True)
    return time.perf_counter() - start_s


def by_sender(files: Path, scp: StoreSCP, outbox: Path) -> float:
    enqueue([files], scp.url, outbox)
    start_s = time.perf_counter()
    run_sender(outbox, until_idle=True)
    return time.perf_counter() - start_s


def by_send(files: Path, scp: StoreSCP, outbox: Path) -> float:
    start_s = time.perf_counter()
    result = send([files], scp.url, outbox)
    if not result.ok:
        raise SystemExit(result.sentence())
    return time.perf_counter() - start_s


def measure(n_images: int, repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"storescu": [], "sender": [], "send": []}
    for repeat in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_series(folder / "in", n_images, size=256, seed=repeat)
            scps = {way: storescp(folder / way) for way in times}
            with running(scps["storescu"]) as scp:
                times["storescu"].append(by_storescu(folder / "in", scp))
            with running(scps["sender"]) as scp:
                times["sender"].append(by_sender(folder / "in", scp, folder / "outbox1"))
            with running(scps["send"]) as scp:
                times["send"].append(by_send(folder / "in", scp, folder / "outbox2"))
            for way, scp in scps.items():
                if len(scp.uids()) != n_images:
                    raise SystemExit(f"{way}: {len(scp.uids())} of {n_images} images arrived")
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    times = measure(options.images, options.repeats)
    best = {way: min(values) for way, values in times.items()}
    print(f"{'':10}{'best s':>9}{'ms each':>9}{'ratio':>8}")
    for way, seconds in best.items():
        ratio = seconds / best["storescu"]
        print(f"{way:10}{seconds:9.2f}{1000 * seconds / options.images:9.2f}{ratio:8.3f}")
    if options.json:
        options.json.write_text(json.dumps({"images": options.images, "times_s": times}, indent=1))
    return 0 if best["sender"] <= LIMIT * best["storescu"] else 1


if __name__ == "__main__":
    sys.exit(main())
