"""How the contrast was made, as DICOM's MR Image module and counters state it; what is unknown stays empty.

A list of echo times, flip angles and so on belongs to the contrasts if it is as long as they are many, or holds for all
if it has one entry. Any other length says nothing about this image, and the attribute is left empty.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from pydicom.dataset import Dataset

from steadymr.dicom.text import code_string, decimal, describe, is_date, is_time
from steadymr.types import ScanHeader, VolumeIndex

PATIENT_POSITIONS = frozenset(
    {
        "HFS",
        "HFP",
        "HFDR",
        "HFDL",
        "FFS",
        "FFP",
        "FFDR",
        "FFDL",
        "LFP",
        "LFS",
        "RFP",
        "RFS",
        "AFDR",
        "AFDL",
        "PFDR",
        "PFDL",
    }
)

_DAY_MS = 86_400_000

#: Scanning Sequence for MRD's sequence types as converters write them; others are RM, "research mode".
SCANNING_SEQUENCES = {
    "FLASH": "GR",
    "GRE": "GR",
    "GRADIENTECHO": "GR",
    "TRUFI": "GR",
    "SE": "SE",
    "SPINECHO": "SE",
    "TSE": "SE",
    "TURBOSPINECHO": "SE",
    "FSE": "SE",
    "FASTSPINECHO": "SE",
    "IR": "IR",
    "INVERSIONRECOVERY": "IR",
    "EPI": "EP",
}


#: Vendors whose readouts carry the time of day, by the start of their name: length of a tick since midnight.
TICKS_MS = {"siemens": 2.5, "steadymr": 2.5}


def write(dataset: Dataset, header: ScanHeader, index: VolumeIndex, n_z: int, time_stamp: int) -> None:
    """Add what is known of sequence, scanner, counters and time of measuring to a data set.

    ``time_stamp`` is that of the volume's first readout in the scanner's ticks; 0 says nothing.
    """
    _sequence(dataset, header, index.contrast, n_z)
    _field(dataset, header)
    _counters(dataset, header, index)
    _moment(dataset, header, time_stamp)


def _sequence(dataset: Dataset, header: ScanHeader, contrast: int, n_z: int) -> None:
    sequence = header.sequence
    dataset.PatientPosition = sequence.patient_position if sequence.patient_position in PATIENT_POSITIONS else ""
    dataset.ScanningSequence = SCANNING_SEQUENCES.get(code_string(sequence.sequence_type).replace("_", ""), "RM")
    dataset.SequenceVariant = "NONE"
    dataset.ScanOptions = None
    dataset.MRAcquisitionType = "3D" if n_z > 1 or header.encoded.matrix_xyz[2] > 1 else "2D"
    dataset.InPlanePhaseEncodingDirection = "COL"  # y is the phase encoding, and runs along columns
    if sequence.protocol_name:
        dataset.ProtocolName = describe(sequence.protocol_name, "LO")
    if sequence.sequence_type:
        dataset.SequenceName = describe(sequence.sequence_type, "SH")
    n_contrasts = header.counters.get("contrast", 1)
    dataset.EchoTime = _of_contrast(sequence.te_ms, contrast, n_contrasts)
    dataset.RepetitionTime = _of_contrast(sequence.tr_ms, contrast, n_contrasts)
    dataset.EchoTrainLength = None
    for keyword, values in (("InversionTime", sequence.ti_ms), ("FlipAngle", sequence.flip_angle_deg)):
        if values:
            setattr(dataset, keyword, _of_contrast(values, contrast, n_contrasts))


def _field(dataset: Dataset, header: ScanHeader) -> None:
    system = header.system
    if system.field_strength_t is not None:
        dataset.MagneticFieldStrength = decimal(system.field_strength_t)
    if system.frequency_hz is not None:
        dataset.ImagingFrequency = decimal(system.frequency_hz / 1e6)


def _counters(dataset: Dataset, header: ScanHeader, index: VolumeIndex) -> None:
    n = {name: max(1, header.counters.get(name, 1)) for name in ("repetition", "phase", "average", "contrast")}
    dataset.AcquisitionNumber = 1 + index.average + n["average"] * index.set
    if n["contrast"] > 1:
        dataset.EchoNumbers = 1 + index.contrast
    if n["repetition"] * n["phase"] > 1:
        dataset.TemporalPositionIdentifier = 1 + index.phase + n["phase"] * index.repetition
        dataset.NumberOfTemporalPositions = n["repetition"] * n["phase"]


def _moment(dataset: Dataset, header: ScanHeader, time_stamp: int) -> None:
    """Date and time of the measurement, where the length of a tick is known and the study's date is stated."""
    ticks_ms = next((ms for name, ms in TICKS_MS.items() if header.system.vendor.lower().startswith(name)), None)
    if ticks_ms is None or not 0 < time_stamp * ticks_ms < _DAY_MS or not is_date(header.identity.study_date.strip()):
        return
    midnight = datetime.strptime(header.identity.study_date.strip(), "%Y%m%d")
    moment = midnight + timedelta(milliseconds=time_stamp * ticks_ms)
    if is_time(header.identity.study_time) and moment.strftime("%H%M%S") < header.identity.study_time[:6]:
        moment += timedelta(days=1)  # a study that went on past midnight
    dataset.AcquisitionDate = moment.strftime("%Y%m%d")
    dataset.AcquisitionTime = moment.strftime("%H%M%S.%f")


def _of_contrast(values: tuple[float, ...], contrast: int, n_contrasts: int) -> str | None:
    if len(values) == 1:
        return decimal(values[0])
    return decimal(values[contrast]) if len(values) == n_contrasts and contrast < n_contrasts else None
