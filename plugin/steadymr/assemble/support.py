"""What can be reconstructed, judged from the header before data comes and from the lines once they have."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from steadymr.errors import IncompleteScanError, UnsupportedScanError
from steadymr.types import ScanHeader

NEAR_CENTRE = 8  #: lines; of an accelerated scan one lies at least this near to zero frequency


def check_trajectory(header: ScanHeader) -> None:
    """Raise ``UnsupportedScanError`` unless the trajectory is Cartesian."""
    if header.trajectory == "epi":
        raise UnsupportedScanError(
            "the scan is echo-planar (trajectory 'epi'), which is not corrected here; a Cartesian gradient or spin "
            "echo scan would be reconstructed"
        )
    if header.trajectory != "cartesian":
        raise UnsupportedScanError(
            f"the scan's trajectory is '{header.trajectory[:40]}'; only 'cartesian' is reconstructed here, so grid the "
            "data first or use a Cartesian protocol"
        )


def check_centre(sampled: Bool[np.ndarray, "k2 k1"], volume: str) -> None:
    """Raise ``IncompleteScanError`` if no line was acquired near the centre of k-space."""
    n_k2, n_k1 = sampled.shape
    k2, k1 = np.nonzero(sampled)
    if not np.any((np.abs(k2 - n_k2 // 2) <= NEAR_CENTRE) & (np.abs(k1 - n_k1 // 2) <= NEAR_CENTRE)):
        raise IncompleteScanError(
            f"{volume} has {len(k1)} lines but none within {NEAR_CENTRE} of the centre of k-space; was it aborted?"
        )


def check_partitions(sampled: Bool[np.ndarray, "k2 k1"], volume: str) -> None:
    """Raise ``UnsupportedScanError`` if k2 is undersampled.

    Along k2 the acquired partitions must follow one another, and so must, for each line k1 that occurs anywhere, the
    partitions that have it; each partition must have all such lines between its first and last. That lets pass what
    an elliptical shutter or partial Fourier leaves out at the rim, and nothing else.
    """
    if len(sampled) == 1:
        return
    occurring = sampled[np.ix_(sampled.any(axis=1), sampled.any(axis=0))]
    partitions = np.flatnonzero(sampled.any(axis=1))
    n_missing = partitions[-1] - partitions[0] + 1 - len(partitions)
    if n_missing:
        raise UnsupportedScanError(
            f"{volume} lacks {n_missing} partitions between acquired ones: undersampling along the second phase "
            "encoding is not reconstructed; a scan accelerated along the first alone would be"
        )
    if not (_is_gapless(occurring) and _is_gapless(occurring.T)):
        raise UnsupportedScanError(
            f"{volume} has other lines in some partitions than in others (CAIPIRINHA or variable density?); a scan "
            "with the same lines in all partitions would be reconstructed, elliptical corners may be missing"
        )


def _is_gapless(mask: Bool[np.ndarray, "row column"]) -> bool:
    """Whether the set places of each row follow one another."""
    starts = np.diff(mask.astype(np.int8), axis=1, prepend=0) == 1
    return bool((starts.sum(axis=1) <= 1).all())
