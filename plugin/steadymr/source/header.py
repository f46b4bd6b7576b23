"""The MRD XML header as a ``ScanHeader``: lenient where nothing can go wrong, one clear sentence where it could.

Real headers deviate from the schema. What is done about it:

==========================================  ==========================================================================
unknown elements, any namespace prefix      ignored
trailing NULs (FIRE clients send them)      removed
no ``trajectory``                           taken as ``cartesian``, with a warning in the log
no or unknown ``patientPosition``           ``Sequence.patient_position`` is empty
no ``experimentalConditions``               ``System.frequency_hz`` is None
no ``encodingLimits`` or a part of it       the limits are None, the counter is not checked
a value of the wrong type that is optional  left out, with a warning in the log
a document type definition                  refused: an MRD header has none, and entities can be made to explode
anything else that the schema demands       ``HeaderError`` naming the field
==========================================  ==========================================================================
"""

from __future__ import annotations

import logging
import math
import re
import warnings
from typing import Any
from xml.etree import ElementTree

import ismrmrd.xsd
from xsdata.exceptions import ConverterWarning, ParserError
from xsdata.formats.dataclass.parsers import XmlParser
from xsdata.formats.dataclass.parsers.config import ParserConfig

from steadymr.errors import HeaderError
from steadymr.types import Identity, Limits, ScanHeader, Sequence, Space, System

log = logging.getLogger(__name__)

MAX_BYTES = 16 * 2**20  #: Siemens headers with embedded protocols reach some 100 kB
MAX_POINTS = 65535  #: MRD counters are 16 bits wide
COUNTERS = ("slice", "average", "contrast", "phase", "repetition", "set")
NAMESPACE = f"{{{ismrmrd.xsd.ismrmrdHeader.Meta.namespace}}}"
NEVER_READ = ("userParameters", "waveformInformation")
MISSING_FREQUENCY_HZ = 0


def parse_header(xml: str | bytes) -> ScanHeader:
    """Read an MRD XML header.

    Raises ``HeaderError`` if it is not XML, has a document type definition, or lacks an encoding with an encoded and
    a reconstructed space.
    """
    root = _parse_xml(xml)
    _fill_gaps(root)
    header = _bind(root)
    if not header.encoding:
        raise HeaderError("the MRD header has no encoding; expected one with encodedSpace and reconSpace")
    encoding = header.encoding[0]
    limits = encoding.encodingLimits
    measurement = header.measurementInformation
    return ScanHeader(
        xml=_text(xml),
        measurement_id=_string(measurement and measurement.measurementID),
        trajectory=_word(encoding.trajectory),
        encoded=_space(encoding.encodedSpace, "encodedSpace"),
        recon=_space(encoding.reconSpace, "reconSpace"),
        k1_limits=_limits(limits.kspace_encoding_step_1, "kspace_encoding_step_1"),
        k2_limits=_limits(limits.kspace_encoding_step_2, "kspace_encoding_step_2"),
        counters=_counters(limits),
        acceleration=_acceleration(encoding.parallelImaging),
        calibration_mode=_calibration_mode(encoding.parallelImaging),
        identity=_identity(header, _accession_number(root)),
        sequence=_sequence(header),
        system=_system(header),
    )


class _NoDoctype(ElementTree.TreeBuilder):
    """Builds the tree of a document without a document type definition, hence without entities."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise HeaderError(
            f"the MRD header contains a document type definition ('{name[:40]}'), which MRD does not allow"
        )


def _text(xml: str | bytes) -> str:
    text = xml if isinstance(xml, str) else xml.decode("utf-8", errors="replace")
    return text.rstrip("\0 \r\n\t")


def _parse_xml(xml: str | bytes) -> ElementTree.Element:
    if len(xml) > MAX_BYTES:
        raise HeaderError(f"the MRD header is {len(xml)} bytes long; more than {MAX_BYTES} are not read")
    stripped = xml.rstrip("\0 \r\n\t") if isinstance(xml, str) else xml.rstrip(b"\0 \r\n\t")
    if not stripped:
        raise HeaderError("the MRD header is empty; expected an ismrmrdHeader element")
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        parser.feed(stripped)
        root = parser.close()
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise HeaderError(f"the MRD header is not well-formed XML: {error}") from error
    for element in root.iter():
        element.tag = NAMESPACE + element.tag.rpartition("}")[2]
    if root.tag != NAMESPACE + "ismrmrdHeader":
        raise HeaderError(f"the header's outermost element is '{_local(root)[:40]}'; expected 'ismrmrdHeader'")
    return root


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _fill_gaps(root: ElementTree.Element) -> None:
    """Put in what the schema demands and many scanners leave out, and drop what is never read."""
    for name in NEVER_READ:
        for element in root.findall(NAMESPACE + name):
            root.remove(element)
    conditions = _child(root, "experimentalConditions")
    if conditions.find(NAMESPACE + "H1resonanceFrequency_Hz") is None:
        _child(conditions, "H1resonanceFrequency_Hz").text = str(MISSING_FREQUENCY_HZ)
    measurement = root.find(NAMESPACE + "measurementInformation")
    if measurement is not None:
        _child(measurement, "patientPosition")
    for encoding in root.findall(NAMESPACE + "encoding"):
        _child(encoding, "encodingLimits")
        if encoding.find(NAMESPACE + "trajectory") is None:
            log.warning("the MRD header names no trajectory; taken as cartesian")
            _child(encoding, "trajectory").text = "cartesian"


def _child(parent: ElementTree.Element, name: str) -> ElementTree.Element:
    found = parent.find(NAMESPACE + name)
    return ElementTree.SubElement(parent, NAMESPACE + name) if found is None else found


def _bind(root: ElementTree.Element) -> Any:
    """The tree as ismrmrd's own header class; a missing field's name is taken out of Python's complaint."""
    parser = XmlParser(config=ParserConfig(fail_on_unknown_properties=False))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConverterWarning)  # wrong types are judged field by field below
            return parser.from_bytes(ElementTree.tostring(root), ismrmrd.xsd.ismrmrdHeader)
    except TypeError as error:
        where = str(error).partition(".__init__")[0].removesuffix("Type")
        fields = re.findall(r"'(\w+)'", str(error))
        raise HeaderError(f"the MRD header lacks {' and '.join(fields) or error} in {where}") from error
    except ParserError as error:
        raise HeaderError(f"the MRD header does not follow the MRD schema: {error}") from error


def _space(space: Any, name: str) -> Space:
    matrix, fov = space.matrixSize, space.fieldOfView_mm
    return Space(
        matrix_xyz=(
            _points(matrix.x, f"{name}.matrixSize.x"),
            _points(matrix.y, f"{name}.matrixSize.y"),
            _points(matrix.z, f"{name}.matrixSize.z"),
        ),
        fov_mm_xyz=(
            _length(fov.x, f"{name}.fieldOfView_mm.x"),
            _length(fov.y, f"{name}.fieldOfView_mm.y"),
            _length(fov.z, f"{name}.fieldOfView_mm.z"),
        ),
    )


def _points(value: Any, name: str) -> int:
    if not isinstance(value, int) or not 1 <= value <= MAX_POINTS:
        raise HeaderError(
            f"the MRD header's {name} is {str(value)[:40]!r}; expected a whole number from 1 to {MAX_POINTS}"
        )
    return value


def _length(value: Any, name: str) -> float:
    if not isinstance(value, float) or not math.isfinite(value) or value <= 0:
        raise HeaderError(f"the MRD header's {name} is {str(value)[:40]!r}; expected a length in millimetres above 0")
    return value


def _limits(limits: Any, name: str) -> Limits | None:
    if limits is None:
        return None
    found = Limits(limits.minimum, limits.maximum, limits.center) if _all_counts(limits) else None
    if found is None or not 0 <= found.minimum <= found.centre <= found.maximum:
        raise HeaderError(
            f"the MRD header's encodingLimits.{name} is minimum {str(limits.minimum)[:20]}, maximum "
            f"{str(limits.maximum)[:20]}, center {str(limits.center)[:20]}; expected 0 <= minimum <= center <= maximum"
        )
    return found


def _all_counts(limits: Any) -> bool:
    return all(isinstance(value, int) for value in (limits.minimum, limits.maximum, limits.center))


def _counters(limits: Any) -> dict[str, int]:
    stated = {name: getattr(limits, name) for name in COUNTERS}
    for name, limit in stated.items():
        if limit is not None and not (isinstance(limit.maximum, int) and limit.maximum >= 0):
            raise HeaderError(f"the MRD header's encodingLimits.{name}.maximum is {str(limit.maximum)[:20]!r}")
    return {name: limit.maximum + 1 for name, limit in stated.items() if limit is not None}


def _calibration_mode(parallel: Any) -> str:
    return "" if parallel is None or parallel.calibrationMode is None else str(parallel.calibrationMode.value)


def _acceleration(parallel: Any) -> tuple[int, int]:
    if parallel is None:
        return (1, 1)
    factor = parallel.accelerationFactor
    k1, k2 = factor.kspace_encoding_step_1, factor.kspace_encoding_step_2
    if not (isinstance(k1, int) and isinstance(k2, int) and k1 >= 1 and k2 >= 1):
        log.warning("the MRD header's accelerationFactor is %.20r, %.20r; taken as 1", k1, k2)
        return (1, 1)
    return (k1, k2)


def _accession_number(root: ElementTree.Element) -> str:
    """As written: the schema calls it a whole number, which would lose leading zeros and letters."""
    return (root.findtext(f"{NAMESPACE}studyInformation/{NAMESPACE}accessionNumber") or "").strip()


def _identity(header: Any, accession_number: str) -> Identity:
    subject, study, measurement = header.subjectInformation, header.studyInformation, header.measurementInformation
    return Identity(
        patient_name=_string(subject and subject.patientName),
        patient_id=_string(subject and subject.patientID),
        patient_birth_date=_date(subject and subject.patientBirthdate),
        patient_sex=_sex(subject and subject.patientGender),
        patient_weight_kg=_positive(subject and subject.patientWeight_kg, "patientWeight_kg"),
        study_instance_uid=_string(study and study.studyInstanceUID),
        study_date=_date(study and study.studyDate),
        study_time=_time(study and study.studyTime),
        study_description=_string(study and study.studyDescription),
        study_id=_string(study and study.studyID),
        accession_number=accession_number,
        referring_physician=_string(study and study.referringPhysicianName),
        frame_of_reference_uid=_string(measurement and measurement.frameOfReferenceUID),
        body_part=_string(study and study.bodyPartExamined),
    )


def _sequence(header: Any) -> Sequence:
    parameters, measurement = header.sequenceParameters, header.measurementInformation
    return Sequence(
        protocol_name=_string(measurement and measurement.protocolName),
        sequence_type=_string(parameters and parameters.sequence_type),
        patient_position=_position(measurement and measurement.patientPosition),
        tr_ms=_numbers(parameters and parameters.TR, "TR"),
        te_ms=_numbers(parameters and parameters.TE, "TE"),
        ti_ms=_numbers(parameters and parameters.TI, "TI"),
        flip_angle_deg=_numbers(parameters and parameters.flipAngle_deg, "flipAngle_deg"),
        echo_spacing_ms=_numbers(parameters and parameters.echo_spacing, "echo_spacing"),
    )


def _system(header: Any) -> System:
    system = header.acquisitionSystemInformation
    ratio = _positive(system and system.relativeReceiverNoiseBandwidth, "relativeReceiverNoiseBandwidth")
    return System(
        vendor=_string(system and system.systemVendor),
        model=_string(system and system.systemModel),
        institution=_string(system and system.institutionName),
        station=_string(system and system.stationName),
        device_id=_string(system and (system.deviceID or system.deviceSerialNumber)),
        field_strength_t=_positive(system and system.systemFieldStrength_T, "systemFieldStrength_T"),
        frequency_hz=_positive(header.experimentalConditions.H1resonanceFrequency_Hz, "H1resonanceFrequency_Hz"),
        noise_bandwidth_ratio=1.0 if ratio is None else ratio,
    )


def _word(value: Any) -> str:
    """An enumerated value as its word; one that the schema does not know comes as the text that was written."""
    return str(getattr(value, "value", value)).strip()


def _string(value: object) -> str:
    return "" if value is None else str(value).strip()


def _position(value: Any) -> str:
    word = "" if value is None else _word(value)
    known = {position.value for position in ismrmrd.xsd.patientPositionType}
    if word and word not in known:
        log.warning("the MRD header's patientPosition is none of %s; left out", ", ".join(sorted(known)))
    return word if word in known else ""


def _sex(value: object) -> str:
    letter = _string(value).upper()
    return letter if letter in ("M", "F", "O") else ""


def _date(value: Any) -> str:
    """An XML date as DICOM DA; a text that is no date is left out."""
    match = re.match(r"(\d{4})-(\d{2})-(\d{2})", str(value))
    return "".join(match.groups()) if match else ""


def _time(value: Any) -> str:
    """An XML time as DICOM TM, to the second; a text that is no time is left out."""
    match = re.match(r"(\d{2}):(\d{2}):(\d{2})", str(value))
    return "".join(match.groups()) if match else ""


def _positive(value: Any, name: str) -> float | None:
    if value is None or value == MISSING_FREQUENCY_HZ:
        return None
    number = _number(value)
    if number is None or number <= 0:
        log.warning("the MRD header's %s is no number above 0; left out", name)
        return None
    return number


def _numbers(values: list[Any] | None, name: str) -> tuple[float, ...]:
    numbers = tuple(_number(value) for value in values or ())
    if None in numbers:
        log.warning("the MRD header's %s has a value that is no number; left out", name)
    return tuple(number for number in numbers if number is not None)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
