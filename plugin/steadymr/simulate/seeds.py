"""Which simulated subjects serve which purpose, so that nothing is ever judged on what it was trained on.

A subject is a purpose and a number. The purpose enters the random generator beside the number, so the streams of
different purposes never meet whatever the numbers are: there is no number to reserve and none to avoid.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import numpy as np

Purpose: TypeAlias = Literal["train", "validation", "calibration", "test", "demo"]

#: train: weights are fitted. validation: figures watched during training and in model cards. calibration: thresholds
#: and scores are fitted. test: figures that are reported and nothing is chosen by. demo: scans people play with.
PURPOSES: Final[dict[Purpose, int]] = {"train": 1, "validation": 2, "calibration": 3, "test": 4, "demo": 5}


def subject_rng(purpose: Purpose, number: int) -> np.random.Generator:
    """Return the random generator of one simulated subject; ``number`` is 0 or more."""
    return np.random.default_rng([PURPOSES[purpose], number])
