"""From wire events to readouts, settings and back to images."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import peers
import pytest
from ismrmrd.meta import Meta
from test_protocol import events_in, in_data, recon_data_bytes

from steadymr.errors import OutputError, ReadoutError, SettingsError, UnsupportedScanError
from steadymr.source import heads
from steadymr.source.header import parse_header
from steadymr.source.replay import open_scan
from steadymr.source.wire.messages import ReconData
from steadymr.source.wire.outgoing import image_message
from steadymr.source.wire.scan_config import ScanConfig, config_from_text, parameters_from_json, with_header_parameters
from steadymr.source.wire.stream import ReadoutStream, header_as_sorted
from steadymr.types import Geometry, Image, PerturbationRecord, Readout, ScanHeader, StabilityReport, VolumeIndex


def readouts_of(*acquisitions: Any, header: ScanHeader | None = None) -> list[Readout]:
    events = events_in(in_data(), peers.serialized(*acquisitions, close=False))
    return list(ReadoutStream(header or parse_header(peers.header_xml())).readouts(iter(events), lambda event: None))


def flagged(line: int, *flags: int, **fields: Any) -> ismrmrd.Acquisition:
    acquisition = peers.acquisition(line, **fields)
    acquisition.flags = 0
    for flag in flags:
        acquisition.set_flag(flag)
    return acquisition


def test_a_stream_and_a_file_decode_the_same_acquisition_alike() -> None:
    acquisition = peers.acquisition(3, discard_pre=2, discard_post=1, acquisition_time_stamp=9, sample_time_us=2.5)
    acquisition.set_flag(ismrmrd.ACQ_IS_REVERSE)
    acquisition.idx.slice, acquisition.idx.average, acquisition.idx.set = 4, 1, 2
    head = np.frombuffer(bytes(acquisition.getHead()), ismrmrd.hdf5.acquisition_header_dtype)[0]
    expected = heads.to_readout(head, "image", False, acquisition.data, 0)
    header = replace(parse_header(peers.header_xml()), counters={})
    (readout,) = readouts_of(acquisition, header=header)
    for field in set(Readout.__slots__) - {"data"}:
        assert getattr(readout, field) == getattr(expected, field), field
    np.testing.assert_array_equal(readout.data, expected.data)


def test_a_stream_and_a_file_of_the_phantom_tool_are_the_same_scan(tmp_path: Path) -> None:
    tool = shutil.which("ismrmrd_generate_cartesian_shepp_logan")
    assert tool, "this test needs the Debian package ismrmrd-tools: apt-get install ismrmrd-tools"
    path = tmp_path / "phantom.h5"
    subprocess.run([tool, "-m", "32", "-c", "2", "-r", "2", "-C", "-o", str(path)], check=True, capture_output=True)
    with ismrmrd.Dataset(str(path), create_if_needed=False) as data_set, open_scan(path) as scan:
        streamed = readouts_of(*map(data_set.read_acquisition, range(scan.n_readouts)), header=scan.header)
        for readout, expected in zip(streamed, scan.readouts(), strict=True):
            for field in set(Readout.__slots__) - {"data"}:
                assert getattr(readout, field) == getattr(expected, field), field
            np.testing.assert_array_equal(readout.data, expected.data)


@pytest.mark.parametrize(
    ("flags", "role", "ends"),
    [
        ((), "image", False),
        ((ismrmrd.ACQ_LAST_IN_SLICE,), "image", True),
        ((ismrmrd.ACQ_LAST_IN_REPETITION,), "image", True),
        ((ismrmrd.ACQ_LAST_IN_MEASUREMENT,), "image", True),
        ((ismrmrd.ACQ_LAST_IN_ENCODE_STEP1,), "image", False),
        ((ismrmrd.ACQ_IS_NOISE_MEASUREMENT, ismrmrd.ACQ_LAST_IN_SLICE), "noise", False),
        ((ismrmrd.ACQ_IS_PARALLEL_CALIBRATION, ismrmrd.ACQ_LAST_IN_SLICE), "calibration", False),
        ((ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING, ismrmrd.ACQ_LAST_IN_SLICE), "image and calibration", True),
        ((ismrmrd.ACQ_IS_NAVIGATION_DATA, ismrmrd.ACQ_LAST_IN_SLICE), "set aside", False),
    ],
)
def test_flags_say_what_a_readout_is_for_and_whether_it_ends_its_volume(flags: Any, role: str, ends: bool) -> None:
    (readout,) = readouts_of(flagged(3, *flags))
    assert (readout.role, readout.last_of_volume) == (role, ends)


def test_the_end_of_a_partition_does_not_end_a_volume() -> None:
    header = parse_header(peers.header_xml())
    assert header.k1_limits is not None
    deep = replace(header, k2_limits=replace(header.k1_limits, maximum=1, centre=0))
    lines = [flagged(k2, ismrmrd.ACQ_LAST_IN_SLICE) for k2 in range(2)]
    for k2, line in enumerate(lines):
        line.idx.kspace_encode_step_2 = k2
    assert [readout.last_of_volume for readout in readouts_of(*lines, header=deep)] == [False, True]


def test_samples_that_are_not_finite_are_refused_by_number() -> None:
    bad = peers.acquisition(4)
    bad.data[1, 3] = np.nan
    with pytest.raises(ReadoutError, match="readout 4 has 1 samples that are NaN or infinite"):
        readouts_of(*map(peers.acquisition, range(4)), bad)


def test_a_change_of_channels_is_noticed_from_one_run_to_the_next() -> None:
    with pytest.raises(ReadoutError, match="readout 2 has 3 channels but the readouts before it have 2"):
        readouts_of(peers.acquisition(0), peers.acquisition(1), peers.acquisition(2, channels=3))


def test_echo_planar_data_is_noticed_from_one_run_to_the_next() -> None:
    correction = flagged(0, ismrmrd.ACQ_IS_PHASECORR_DATA, samples=16)
    with pytest.raises(UnsupportedScanError, match="echo-planar"):
        readouts_of(correction, peers.acquisition(0), flagged(1, ismrmrd.ACQ_IS_REVERSE))


def sorted_readouts() -> list[Readout]:
    header = replace(parse_header(peers.header_xml(lines=4, samples=16)), counters={})
    (event,) = events_in(in_data(), recon_data_bytes())
    assert isinstance(event, ReconData)
    adapted = header_as_sorted(header, event)
    assert adapted.encoded.matrix_xyz == (8, 4, 1)
    assert adapted.encoded.fov_mm_xyz == (128.0, 256.0, 5.0)
    return list(ReadoutStream(adapted).readouts(iter([event]), lambda event: None))


def test_sorted_kspace_becomes_calibration_lines_and_then_image_lines() -> None:
    readouts = sorted_readouts()
    assert [readout.role for readout in readouts] == ["calibration"] * 8 + ["image"] * 8
    assert [readout.last_of_volume for readout in readouts] == [False] * 14 + [True] * 2
    assert {readout.index for readout in readouts} == {VolumeIndex(slice=0), VolumeIndex(slice=1)}


def test_sorted_kspace_keeps_each_sample_in_its_place() -> None:
    line = sorted_readouts()[8 + 2 * 3 + 1]  # the last step of the second slice
    assert (line.k1, line.index.slice, line.centre_sample) == (3, 1, 4)
    original = np.arange(8 * 4 * 2 * 2).reshape(8, 4, 2, 2)  # E0 E1 CHA LOC, the other axes being 1
    np.testing.assert_array_equal(line.data, original[:, 3, :, 1].T)


CHAIN = """<configuration><version>2</version><stream><gadget><property name="not ours" value="1"/></gadget>
<external><execute name="m" target="t" type="python"/>
<configuration><property name="samples" value="8"/></configuration></external></stream></configuration>"""


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("", ScanConfig()),
        ("<configuration/>", ScanConfig()),
        ('<configuration><property name="a" value="b"/></configuration>', ScanConfig(properties={"a": "b"})),
        (CHAIN, ScanConfig(properties={"samples": "8"})),
        ('{"parameters": {"a": 1, "b": true}}', ScanConfig(parameters={"a": "1", "b": "true"})),
        ("../../etc/passwd", ScanConfig(name="../../etc/passwd")),
    ],
)
def test_a_configuration_is_read_from(text: str, config: ScanConfig) -> None:
    assert config_from_text(text) == config


BOMB = '<!DOCTYPE b [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><configuration>&b;</configuration>'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (BOMB, "document type definition"),
        ("<configuration>", "not well-formed"),
        ('<configuration><property name="a"/></configuration>', "lacks a name or a value"),
        (
            '<c><property name="a" value="1"/><property name="a" value="2"/></c>',
            "'a' stands in the configuration twice",
        ),
    ],
)
def test_a_broken_configuration_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        config_from_text(text)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"parameters": 3}', '{"parameters": {"a": [1]}}', "[" * 100_000])
def test_broken_parameters_are_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        parameters_from_json(text)


def test_parameters_in_the_header_are_kept_apart() -> None:
    extra = (
        "<userParameters><userParameterLong><name>samples</name><value>4</value></userParameterLong></userParameters>"
    )
    xml = peers.header_xml().replace("</ismrmrdHeader>", extra + "</ismrmrdHeader>")
    config = with_header_parameters(ScanConfig(), xml)
    assert (config.header_parameters, config.settings) == ({"samples": "4"}, {})


def result() -> tuple[Image, StabilityReport]:
    geometry = Geometry((1.0, 2.0, 3.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (256.0, 128.0, 5.0))
    data = np.linspace(0, 7, 12, dtype=np.float32).reshape(1, 3, 4)
    header = parse_header(peers.header_xml())
    record = PerturbationRecord("gain drift", {"drift": 0.1}, 1)
    index = VolumeIndex(slice=2, repetition=1)
    image = Image(data, "diffusion", index, geometry, header, "derived", perturbations=(record,))
    spread = np.zeros((1, 3, 4), np.float32)
    return image, StabilityReport(0.875, "review", ("σ is large", "few samples"), spread, 8, 4)


def test_an_image_carries_its_score_geometry_and_history() -> None:
    message = image_message(*result(), description="steadymr diffusion [review]", comment="review")
    meta = Meta.deserialize(message.meta.decode())
    assert (meta["StabilityScore"], meta["StabilityVerdict"]) == ("0.8750", "review")
    assert meta["StabilityReasons"] == ["σ is large", "few samples"]
    assert meta["ImageProcessingHistory"] == ["steadymr diffusion", "perturbed: gain drift"]
    assert meta["GADGETRON_SeqDescription"] == meta["SeriesDescription"] == "steadymr diffusion [review]"
    assert meta["GADGETRON_ImageComment"] == meta["ImageComments"] == "review"
    assert message.head["position"].tolist() == [1, 2, 3]
    assert (message.head["slice"], message.head["repetition"], message.head["image_type"]) == (2, 1, 1)


def test_counts_times_slope_are_the_image() -> None:
    image, report = result()
    message = image_message(image, report, description="", comment="")
    meta = Meta.deserialize(message.meta.decode())
    assert (message.data.dtype, message.data.max()) == (np.uint16, 4095)
    slope = float(meta["RescaleSlope"])
    np.testing.assert_allclose(message.data[0] * slope, image.data, atol=slope / 2 * 1.001)


def test_float_images_are_sent_as_they_are() -> None:
    image, report = result()
    message = image_message(image, report, description="", comment="", pixel="float32")
    np.testing.assert_array_equal(message.data[0], image.data)


@pytest.mark.parametrize("verdict", ["unscored", "uncalibrated"])
def test_an_image_without_a_score_says_so(verdict: str) -> None:
    image, report = result()
    without = replace(report, score=None, verdict=verdict)
    meta = Meta.deserialize(image_message(image, without, description="", comment="").meta.decode())
    assert (meta["StabilityScore"] or "", meta["StabilityVerdict"]) == ("", verdict)


def test_what_was_assumed_travels_with_the_image() -> None:
    caveats = ("the noise was estimated", "σ was assumed")
    meta = Meta.deserialize(image_message(*result(), description="", comment="", caveats=caveats).meta.decode())
    assert tuple(meta["StabilityCaveats"]) == caveats


def test_an_image_with_nan_is_not_sent() -> None:
    image, report = result()
    with pytest.raises(OutputError, match="NaN or infinite"):
        image_message(replace(image, data=np.full((1, 3, 4), np.nan, np.float32)), report, description="", comment="")


def test_what_xml_cannot_hold_is_replaced_in_the_meta() -> None:
    message = image_message(*result(), description="a\x00\x0b<&>\ud800", comment="")
    assert Meta.deserialize(message.meta.decode())["SeriesDescription"] == "a\ufffd\ufffd<&>\ufffd"
