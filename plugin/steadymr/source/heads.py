"""Acquisition heads, decoded and judged: what each readout is for, and whether it fits the header.

Heads are NumPy records of ismrmrd's own layout, so that files and streams are judged by the same functions.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import ismrmrd
import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Complex64, Int64

from steadymr.errors import ReadoutError, UnsupportedScanError
from steadymr.types import Limits, Readout, ScanHeader, VolumeIndex

Heads: TypeAlias = npt.NDArray[Any]  #: one record per readout, fields as in ismrmrd.hdf5.acquisition_header_dtype
Head: TypeAlias = Any  #: one such record

Role: TypeAlias = Literal["image", "calibration", "image and calibration", "noise", "set aside"]

ROLES: tuple[Role, ...] = ("noise", "set aside", "image and calibration", "calibration", "image")  #: first match wins
RoleNumbers: TypeAlias = Int64[np.ndarray, " readout"]  #: places in ROLES; from 2 on the line belongs to an image
NOISE, SET_ASIDE = 0, 1


def mask(*numbers: int) -> np.uint64:
    """MRD flags, counted from 1 as ismrmrd does, as one mask."""
    return np.uint64(sum(1 << (number - 1) for number in numbers))


SET_ASIDE_FLAGS = mask(
    ismrmrd.ACQ_IS_NAVIGATION_DATA,
    ismrmrd.ACQ_IS_PHASECORR_DATA,
    ismrmrd.ACQ_IS_HPFEEDBACK_DATA,
    ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
    ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
    ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,
    ismrmrd.ACQ_IS_PHASE_STABILIZATION_REFERENCE,
    ismrmrd.ACQ_IS_PHASE_STABILIZATION,
)
_CALIBRATION_AND_IMAGING = mask(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
_CALIBRATION = mask(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
_NOISE = mask(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
#: The marks by which a scanner ends something, as one mask.
END_FLAGS = int(
    mask(
        ismrmrd.ACQ_LAST_IN_ENCODE_STEP1,
        ismrmrd.ACQ_LAST_IN_ENCODE_STEP2,
        ismrmrd.ACQ_LAST_IN_AVERAGE,
        ismrmrd.ACQ_LAST_IN_SLICE,
        ismrmrd.ACQ_LAST_IN_CONTRAST,
        ismrmrd.ACQ_LAST_IN_PHASE,
        ismrmrd.ACQ_LAST_IN_REPETITION,
        ismrmrd.ACQ_LAST_IN_SET,
        ismrmrd.ACQ_LAST_IN_SEGMENT,
        ismrmrd.ACQ_LAST_IN_MEASUREMENT,
    )
)
VOLUME_COUNTERS = ("repetition", "set", "phase", "contrast", "average", "slice")


def has_flag(flags: npt.NDArray[Any] | int, number: int) -> Any:
    """Whether MRD flag ``number``, counted from 1 as ismrmrd does, is set in each of ``flags``."""
    return (np.asarray(flags, np.uint64) & np.uint64(1 << (number - 1))) != 0


def user_flag(number: int) -> int:
    """The mask of ``ACQ_USER1`` to ``ACQ_USER8``, flags that MRD leaves to the site."""
    return int(mask(ismrmrd.ACQ_USER1 + number - 1))


def roles(heads: Heads) -> list[Role]:
    """What each readout is for. A noise flag wins over all others; a second encoding space is set aside."""
    return [ROLES[i] for i in role_numbers(heads).tolist()]


def role_numbers(heads: Heads) -> RoleNumbers:
    """The same as places in ROLES."""
    flags = heads["flags"]
    aside = ((flags & SET_ASIDE_FLAGS) != 0) | (heads["encoding_space_ref"] != 0)
    numbers = np.full(len(heads), ROLES.index("image"))
    numbers[(flags & _CALIBRATION) != 0] = ROLES.index("calibration")
    numbers[(flags & _CALIBRATION_AND_IMAGING) != 0] = ROLES.index("image and calibration")
    numbers[aside] = SET_ASIDE
    numbers[(flags & _NOISE) != 0] = NOISE
    return numbers


def last_of_volume(heads: Heads) -> Bool[np.ndarray, " readout"]:
    """For each readout, whether no later one of these heads belongs to the same volume."""
    last: dict[tuple[int, ...], int] = {}
    found = np.zeros(len(heads), bool)
    for i, (role, key) in enumerate(zip(roles(heads), _volume_keys(heads), strict=True)):
        if role not in ("noise", "set aside"):
            last[tuple(key)] = i
    found[list(last.values())] = True
    return found


def _volume_keys(heads: Heads) -> Int64[np.ndarray, "readout counter"]:
    return np.stack([heads["idx"][name] for name in VOLUME_COUNTERS], axis=1).astype(np.int64)


def check_heads(heads: Heads, header: ScanHeader, first: int = 0, role: RoleNumbers | None = None) -> None:
    """Judge heads against the XML header before any data is read; ``first`` is the number of the first of them.

    ``role`` is what ``role_numbers`` says of them, if it is known already.

    Raises ``ReadoutError`` for the first readout that is empty, longer than the encoded matrix, has another number of
    channels than those before it, or a counter outside the encoding limits that the header states; raises
    ``UnsupportedScanError`` for echo-planar data.
    """
    role = role_numbers(heads) if role is None else role
    imaging = role > SET_ASIDE
    _check_not_epi(heads, imaging)
    _check_sizes(heads, role != SET_ASIDE, imaging, header, first)
    for name, limits in _stated_limits(header).items():
        _check_counter(heads, imaging, name, limits, first)


def _check_not_epi(heads: Heads, imaging: Bool[np.ndarray, " readout"]) -> None:
    phase_correction = has_flag(heads["flags"], ismrmrd.ACQ_IS_PHASECORR_DATA)
    if not phase_correction.any():
        return
    reversed_lines = imaging & has_flag(heads["flags"], ismrmrd.ACQ_IS_REVERSE)
    if reversed_lines.any():
        raise UnsupportedScanError(
            f"the scan looks echo-planar ({phase_correction.sum()} phase-correction readouts, {reversed_lines.sum()} "
            "reversed lines), which is not reconstructed here; a Cartesian gradient or spin echo scan would be"
        )


def _check_sizes(
    heads: Heads,
    used: Bool[np.ndarray, " readout"],
    imaging: Bool[np.ndarray, " readout"],
    header: ScanHeader,
    first: int,
) -> None:
    n_x = header.encoded.matrix_xyz[0]
    samples, channels = heads["number_of_samples"].astype(int), heads["active_channels"].astype(int)
    kept = samples - heads["discard_pre"] - heads["discard_post"]
    if (i := _first(used & ((channels < 1) | (kept < 1)))) is not None:
        raise ReadoutError(
            f"readout {first + i} has {channels[i]} channels and {kept[i]} samples to keep; expected some"
        )
    if (i := _first(imaging & (kept > n_x))) is not None:
        raise ReadoutError(
            f"readout {first + i} has {kept[i]} samples but the header's encoded matrix has {n_x} along the readout"
        )
    expected = channels[used][0] if used.any() else 0
    if (i := _first(used & (channels != expected))) is not None:
        raise ReadoutError(f"readout {first + i} has {channels[i]} channels but the readouts before it have {expected}")


def _stated_limits(header: ScanHeader) -> dict[str, Limits]:
    limits = {name: Limits(0, number - 1, 0) for name, number in header.counters.items()}
    if header.k1_limits:
        limits["kspace_encode_step_1"] = header.k1_limits
    if header.k2_limits:
        limits["kspace_encode_step_2"] = header.k2_limits
    return limits


def _check_counter(heads: Heads, imaging: Bool[np.ndarray, " readout"], name: str, limits: Limits, first: int) -> None:
    values = heads["idx"][name].astype(int)
    if (i := _first(imaging & ((values < limits.minimum) | (values > limits.maximum)))) is not None:
        raise ReadoutError(
            f"readout {first + i} has {name} {values[i]} but the header's encodingLimits go from {limits.minimum} to "
            f"{limits.maximum}"
        )


def _first(wrong: Bool[np.ndarray, " readout"]) -> int | None:
    return int(np.argmax(wrong)) if wrong.any() else None


def to_readout(head: Head, role: Role, last: bool, data: Complex64[np.ndarray, "coil sample"], number: int) -> Readout:
    """One readout from its head and samples.

    Raises ``ReadoutError`` naming readout ``number`` if a sample that will be used is not finite.
    """
    if role != "set aside" and not np.isfinite(data.view(np.float32)).all():
        n_bad = int((~np.isfinite(data)).sum())
        raise ReadoutError(f"readout {number} has {n_bad} samples that are NaN or infinite; the raw data is damaged")
    idx = head["idx"]
    return Readout(
        data=data,
        role=role,
        index=VolumeIndex(**{name: int(idx[name]) for name in VOLUME_COUNTERS}),
        k1=int(idx["kspace_encode_step_1"]),
        k2=int(idx["kspace_encode_step_2"]),
        centre_sample=int(head["center_sample"]),
        discard_pre=int(head["discard_pre"]),
        discard_post=int(head["discard_post"]),
        reversed=bool(has_flag(int(head["flags"]), ismrmrd.ACQ_IS_REVERSE)),
        last_of_volume=last,
        sample_time_us=float(head["sample_time_us"]),
        position_mm=_vector(head["position"]),
        read_dir=_vector(head["read_dir"]),
        phase_dir=_vector(head["phase_dir"]),
        slice_dir=_vector(head["slice_dir"]),
        time_stamp=int(head["acquisition_time_stamp"]),
        scan_counter=int(head["scan_counter"]),
        encoding_space=int(head["encoding_space_ref"]),
        flags=int(head["flags"]),
    )


def _vector(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return (x, y, z)
