"""Simulate a scan with known truth, reconstruct it, and list what each series claims beside what is true.

python examples/replay_and_judge.py [FOLDER]
"""

import sys
from pathlib import Path

from steadymr.config import load_settings
from steadymr.pipeline import replay
from steadymr.simulate.scan import simulate_scan

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
folder.mkdir(parents=True, exist_ok=True)

scan, full = folder / "accelerated.h5", folder / "full.h5"
for path, acceleration in ((scan, 4), (full, 1)):
    simulate_scan(path, seed=3, n_coils=6, matrix=(96, 96), pixel_mm=2.2, acceleration=acceleration)

settings = load_settings(None, {"samples": 4, "diffusion": {"levels": 8}})
summary = replay(scan, folder / "results", settings, reference=full)

print(f"{'method':12} {'verdict':14} {'score':>6} {'true SSIM':>10}")
for image in summary["images"]:
    score = "none" if image["score"] is None else f"{image['score']:.2f}"
    print(f"{image['method']:12} {image['verdict']:14} {score:>6} {image['truth']['ssim']:10.2f}")
print(f"open {folder / 'results' / 'report.html'}")
