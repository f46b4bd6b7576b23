"""The MRD header: documented fallbacks, or one sentence that names what is missing."""

from __future__ import annotations

import re

import ismrmrd.xsd as xsd
import pytest
from mrd import header_xml
from xsdata.models.datatype import XmlDate, XmlTime

from steadymr.errors import HeaderError
from steadymr.source.header import parse_header
from steadymr.types import Limits


def without(xml: str, element: str) -> str:
    """The header without an element; the test fails if it was not there."""
    changed, n_cut = re.subn(rf"<{element}>.*?</{element}>|<{element}/>", "", xml, flags=re.DOTALL)
    assert n_cut
    return changed


def test_spaces_limits_and_counters_are_read() -> None:
    header = parse_header(header_xml(32, 48, 8, k1_limits=(2, 40, 20), counters={"slice": 3, "average": 2}))
    assert header.encoded.matrix_xyz == (64, 48, 8)
    assert header.encoded.fov_mm_xyz == (512.0, 256.0, 5.0)
    assert header.recon.matrix_xyz == (32, 48, 8)
    assert header.k1_limits == Limits(2, 40, 20)
    assert header.k2_limits == Limits(0, 7, 4)
    assert header.counters == {"slice": 3, "average": 2}


def test_everything_that_ismrmrd_writes_about_patient_and_sequence_is_read() -> None:
    full = xsd.CreateFromDocument(header_xml(bandwidth_ratio=0.79))
    full.subjectInformation = xsd.subjectInformationType(
        patientName="Doe^Jane", patientID="007", patientBirthdate=XmlDate(1970, 1, 31), patientGender="F",
        patientWeight_kg=61.5,
    )  # fmt: skip
    full.studyInformation = xsd.studyInformationType(
        studyDate=XmlDate(2026, 11, 22), studyTime=XmlTime(9, 5, 7), studyInstanceUID="1.2.3", accessionNumber=12
    )
    full.measurementInformation = xsd.measurementInformationType(
        measurementID="42_1", patientPosition=xsd.patientPositionType.FFS, protocolName="t2", frameOfReferenceUID="1.9"
    )
    full.sequenceParameters = xsd.sequenceParametersType(TR=[500.0], TE=[3.0, 6.0], flipAngle_deg=[15.0])
    header = parse_header(full.toXML())
    identity = header.identity
    assert (identity.patient_name, identity.patient_id, identity.patient_sex) == ("Doe^Jane", "007", "F")
    assert (identity.patient_birth_date, identity.study_date, identity.study_time) == ("19700131", "20261122", "090507")
    assert (identity.patient_weight_kg, identity.study_instance_uid) == (61.5, "1.2.3")
    assert identity.frame_of_reference_uid == "1.9"
    assert header.measurement_id == "42_1"
    assert header.sequence.patient_position == "FFS"
    assert header.sequence.protocol_name == "t2"
    assert (header.sequence.tr_ms, header.sequence.te_ms, header.sequence.flip_angle_deg) == ((500,), (3, 6), (15,))
    assert header.system.noise_bandwidth_ratio == 0.79
    assert header.system.frequency_hz == 63_500_000


def test_an_accession_number_keeps_its_zeros_and_letters() -> None:
    study = "<studyInformation><accessionNumber>00A12</accessionNumber></studyInformation>"
    xml = header_xml().replace("<experimentalConditions>", study + "<experimentalConditions>")
    assert parse_header(xml).identity.accession_number == "00A12"


@pytest.mark.parametrize("element", ["trajectory", "experimentalConditions", "encodingLimits", "parallelImaging"])
def test_elements_that_scanners_leave_out_have_a_fallback(element: str) -> None:
    header = parse_header(without(header_xml(), element))
    assert header.trajectory == "cartesian"
    assert (header.system.frequency_hz is None) == (element == "experimentalConditions")
    assert (header.k1_limits is None) == (element == "encodingLimits")


def test_a_missing_trajectory_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    parse_header(without(header_xml(), "trajectory"))
    assert "no trajectory" in caplog.text


@pytest.mark.parametrize("position", ["", "<patientPosition>sideways</patientPosition>"])
def test_a_missing_or_unknown_patient_position_is_left_empty(position: str) -> None:
    measurement = f"<measurementInformation>{position}<measurementID>1</measurementID></measurementInformation>"
    header = parse_header(header_xml().replace("<experimentalConditions>", measurement + "<experimentalConditions>"))
    assert header.sequence.patient_position == ""
    assert header.measurement_id == "1"


def test_unknown_elements_are_ignored() -> None:
    xml = header_xml().replace("<trajectory>", "<novelty><deep>1</deep></novelty><trajectory>")
    assert parse_header(xml).encoded.matrix_xyz == (64, 32, 1)


def test_trailing_nuls_are_removed_from_text_and_bytes() -> None:
    assert parse_header(header_xml() + "\0\0") == parse_header(header_xml().encode() + b"\0")


def test_a_prefixed_namespace_is_understood() -> None:
    xml = re.sub(r"<(/?)(\w)", r"<\1m:\2", header_xml()).replace("xmlns=", "xmlns:m=")
    assert parse_header(xml).encoded.matrix_xyz == (64, 32, 1)


def test_optional_values_of_the_wrong_type_are_left_out() -> None:
    xml = header_xml(bandwidth_ratio=0.5).replace(">0.5<", ">half<").replace(">63500000<", ">fast<")
    header = parse_header(xml)
    assert header.system.noise_bandwidth_ratio == 1.0
    assert header.system.frequency_hz is None


@pytest.mark.parametrize("element", ["encodedSpace", "reconSpace", "matrixSize", "fieldOfView_mm"])
def test_a_missing_required_element_is_named(element: str) -> None:
    with pytest.raises(HeaderError, match=element):
        parse_header(without(header_xml(), element))


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("<x>64</x>", "<x>0</x>", "matrixSize.x"),
        ("<x>64</x>", "<x>many</x>", "matrixSize.x"),
        ("<x>64</x>", "<x>100000</x>", "matrixSize.x"),
        ("<x>512.0</x>", "<x>-1.0</x>", "fieldOfView_mm.x"),
        ("<x>512.0</x>", "<x>NaN</x>", "fieldOfView_mm.x"),
        ("<center>16</center>", "<center>99</center>", "kspace_encoding_step_1"),
        ("<center>16</center>", "<center>mid</center>", "kspace_encoding_step_1"),
    ],
)
def test_a_required_value_out_of_range_is_named(before: str, after: str, named: str) -> None:
    assert before in header_xml()
    with pytest.raises(HeaderError, match=named):
        parse_header(header_xml().replace(before, after))


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "\0",
        "no xml at all",
        "<ismrmrdHeader",
        "<other/>",
        b"\xff\xfe<",
        b'<?xml version="1.0" encoding="xyz"?><a/>',
    ],
)
def test_what_is_no_mrd_header_is_refused(xml: str | bytes) -> None:
    with pytest.raises(HeaderError):
        parse_header(xml)


def test_a_header_without_an_encoding_is_refused() -> None:
    with pytest.raises(HeaderError, match="no encoding"):
        parse_header(without(header_xml(), "encoding"))


def test_entities_are_never_expanded() -> None:
    bomb = '<!DOCTYPE b [<!ENTITY a "x"><!ENTITY c "&a;&a;&a;">]>'
    with pytest.raises(HeaderError, match="document type"):
        parse_header(re.sub(r"(<ismrmrdHeader)", bomb + r"\1", header_xml()))


def test_a_header_of_absurd_size_is_not_parsed() -> None:
    with pytest.raises(HeaderError, match="bytes long"):
        parse_header(header_xml() + " " * 2**24)
