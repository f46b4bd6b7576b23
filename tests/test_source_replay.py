"""MRD files: what is read is what ismrmrd wrote, and whatever is broken is named."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import h5py
import ismrmrd
import mrd
import numpy as np
import pytest

from steadymr.assemble import assemble
from steadymr.errors import HeaderError, NotMRDError, ReadoutError, SourceError, UnsupportedScanError
from steadymr.source.replay import open_scan
from steadymr.types import Readout, VolumeIndex

CALIBRATION = ismrmrd.ACQ_IS_PARALLEL_CALIBRATION


def read(path: Path) -> list[Readout]:
    with open_scan(path) as scan:
        return list(scan.readouts())


def flagged(*flags: int, **changes: object) -> ismrmrd.Acquisition:
    """A line of zeros with the given MRD flags."""
    return mrd.acquisition(mrd.readout(np.zeros((4, 64)), **changes), flags)


def facts(line: Readout) -> list[object]:
    """All but data and raw flags, to compare field by field."""
    return [getattr(line, name) for name in Readout.__slots__ if name not in ("data", "flags")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.h5"


def test_readouts_come_back_as_they_were_written(path: Path) -> None:
    written = mrd.readouts(
        mrd.kspace(),
        index=VolumeIndex(repetition=1, set=2, phase=3, contrast=4, average=5, slice=6),
        position_mm=(1.5, -2.5, 3.5),
        read_dir=(0.0, 1.0, 0.0),
        phase_dir=(1.0, 0.0, 0.0),
        centre_sample=30,
        discard_pre=2,
        discard_post=3,
        time_stamp=77,
        scan_counter=9,
        reversed=True,
    )
    found = read(mrd.write(path, mrd.header_xml(), written))
    for one, other in zip(written, found, strict=True):
        assert np.array_equal(one.data, other.data)
        assert facts(one) == facts(other)


def test_the_last_readout_of_each_interleaved_volume_is_marked(path: Path) -> None:
    lines = [
        mrd.readout(np.zeros((4, 64)), k1=k1, index=VolumeIndex(slice=s, repetition=r))
        for r in range(2)
        for k1 in range(3)
        for s in range(2)
    ]
    found = read(mrd.write(path, mrd.header_xml(), lines))
    assert [i for i, line in enumerate(found) if line.last_of_volume] == [4, 5, 10, 11]


def test_navigators_after_the_last_line_do_not_end_the_volume(path: Path) -> None:
    lines = [flagged(), flagged(ismrmrd.ACQ_IS_NAVIGATION_DATA), flagged(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    assert [line.last_of_volume for line in read(mrd.write(path, mrd.header_xml(), lines))] == [True, False, False]


@pytest.mark.parametrize(
    ("flags", "role"),
    [
        ((), "image"),
        ((ismrmrd.ACQ_FIRST_IN_SLICE, ismrmrd.ACQ_IS_REVERSE), "image"),
        ((ismrmrd.ACQ_IS_NOISE_MEASUREMENT,), "noise"),
        ((CALIBRATION,), "calibration"),
        ((ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING,), "image and calibration"),
        ((CALIBRATION, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING), "image and calibration"),
        ((ismrmrd.ACQ_IS_NAVIGATION_DATA,), "set aside"),
        ((ismrmrd.ACQ_IS_RTFEEDBACK_DATA,), "set aside"),
        ((ismrmrd.ACQ_IS_HPFEEDBACK_DATA,), "set aside"),
        ((ismrmrd.ACQ_IS_DUMMYSCAN_DATA,), "set aside"),
        ((ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,), "set aside"),
        ((ismrmrd.ACQ_IS_PHASECORR_DATA,), "set aside"),
        ((ismrmrd.ACQ_IS_PHASE_STABILIZATION_REFERENCE,), "set aside"),
        ((ismrmrd.ACQ_IS_PHASE_STABILIZATION,), "set aside"),
        ((CALIBRATION, ismrmrd.ACQ_IS_DUMMYSCAN_DATA), "set aside"),
    ],
)  # fmt: skip
def test_flags_decide_the_role(path: Path, flags: tuple[int, ...], role: str) -> None:
    (line,) = read(mrd.write(path, mrd.header_xml(), [flagged(*flags)]))
    assert line.role == role
    assert line.reversed == (ismrmrd.ACQ_IS_REVERSE in flags)


def test_readouts_of_a_second_encoding_space_are_set_aside(path: Path) -> None:
    (line,) = read(mrd.write(path, mrd.header_xml(), [flagged(encoding_space=1)]))
    assert (line.role, line.encoding_space) == ("set aside", 1)


def test_more_readouts_than_a_block_holds_all_come(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steadymr.source.replay.BYTES_PER_BLOCK", 3 * 8 * 4 * 64)
    monkeypatch.setattr("steadymr.source.replay.HEADS_PER_BLOCK", 5)
    lines = mrd.readouts(mrd.kspace())
    found = read(mrd.write(path, mrd.header_xml(), lines))
    assert np.array_equal([line.data for line in found], [line.data for line in lines])


def test_the_checksum_is_that_of_the_file(path: Path) -> None:
    mrd.write(path, mrd.header_xml(), [flagged()])
    with open_scan(path) as scan:
        assert scan.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert scan.n_readouts == 1


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(NotMRDError, match=r"no file .*scan\.h5"):
        open_scan(path)


def test_a_file_that_is_not_hdf5_is_refused(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 not at all")
    with pytest.raises(NotMRDError, match="not an HDF5 file"):
        open_scan(path)


def test_another_group_name_is_answered_with_those_there_are(path: Path) -> None:
    mrd.write(path, mrd.header_xml(), [flagged()], group="measured")
    with pytest.raises(NotMRDError, match="no group 'dataset'; it has measured"):
        open_scan(path)
    with open_scan(path, "measured") as scan:
        assert scan.n_readouts == 1


def test_a_group_without_acquisitions_is_refused(path: Path) -> None:
    mrd.write(path, mrd.header_xml(), [])
    with pytest.raises(NotMRDError, match="no acquisitions"):
        open_scan(path)


def test_hdf5_of_another_kind_is_refused(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["dataset/data"] = np.zeros((3, 4))
        file["dataset/xml"] = [mrd.header_xml()]
    with pytest.raises(NotMRDError, match="not a table of MRD acquisitions"):
        open_scan(path)


def test_a_missing_header_is_said(path: Path) -> None:
    with pytest.raises(HeaderError, match="no XML header"):
        open_scan(mrd.write(path, None, [flagged()]))


def test_a_broken_header_is_said(path: Path) -> None:
    with pytest.raises(HeaderError, match="reconSpace"):
        open_scan(mrd.write(path, mrd.header_xml().replace("reconSpace", "lostSpace"), [flagged()]))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_file_is_refused_wherever_it_ends(path: Path, share: float) -> None:
    whole = mrd.write(path, mrd.header_xml(), mrd.readouts(mrd.kspace())).read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(SourceError, match=r"scan\.h5"):
        read(path)


@pytest.mark.parametrize("start", [0.1, 0.4, 0.7, 0.95])
def test_a_file_with_a_hole_never_passes_as_another_scan(path: Path, start: float) -> None:
    """A hole of zeros, as an interrupted copy leaves it, is refused unless it hits nothing but padding."""
    written = mrd.readouts(mrd.kspace())
    whole = bytearray(mrd.write(path, mrd.header_xml(), written).read_bytes())
    first = int(start * len(whole))
    whole[first : first + 4096] = bytes(4096)
    path.write_bytes(whole)
    try:
        found = read(path)
    except SourceError:
        return
    n_zeros = sum(int((line.data == 0).sum()) for line in found)
    assert n_zeros <= 4096 // 8 + 1, "more samples were lost than the hole is large"


def test_a_hole_that_would_trap_the_hdf5_library_is_refused(path: Path) -> None:
    """Zeros where a heap's next object should begin: the library then reads the same object for ever."""
    whole = bytearray(mrd.write(path, mrd.header_xml(), mrd.readouts(mrd.kspace())).read_bytes())
    first = whole.index(b"GCOL") + 16
    whole[first : first + 64] = bytes(64)
    path.write_bytes(whole)
    with pytest.raises(ReadoutError, match=r"bytes from .* were lost"):
        open_scan(path)


def test_data_shorter_than_its_head_says_is_named(path: Path) -> None:
    mrd.write(path, mrd.header_xml(), mrd.readouts(mrd.kspace()))
    with h5py.File(path, "r+") as file:
        record = file["dataset/data"][5]
        record["data"] = record["data"][:-2]
        file["dataset/data"][5] = record
    with pytest.raises(ReadoutError, match="readout 5 holds 255 complex numbers; its head says 4 channels of 64"):
        read(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, complex(0, -np.inf)])
def test_a_sample_that_is_not_finite_is_named(path: Path, value: complex) -> None:
    lines = mrd.readouts(mrd.kspace())
    lines[7].data[2, 3] = value
    with pytest.raises(ReadoutError, match="readout 7 has 1 samples that are NaN"):
        read(mrd.write(path, mrd.header_xml(), lines))


def test_nans_in_a_dummy_readout_do_no_harm(path: Path) -> None:
    dummy = mrd.readout(np.full((4, 64), np.nan), role="set aside")
    assert len(read(mrd.write(path, mrd.header_xml(), [dummy, flagged()]))) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (mrd.readout(np.zeros((4, 65))), "readout 1 has 65 samples but the header's encoded matrix has 64"),
        (mrd.readout(np.zeros((3, 64))), "readout 1 has 3 channels but the readouts before it have 4"),
        (mrd.readout(np.zeros((3, 64)), role="noise"), "readout 1 has 3 channels"),
        (mrd.readout(np.zeros((4, 64)), discard_pre=40, discard_post=24), "readout 1 has 4 channels and 0 samples"),
        (mrd.readout(np.zeros((4, 64)), k1=32), "kspace_encode_step_1 32 but .* go from 0 to 31"),
        (mrd.readout(np.zeros((4, 64)), index=VolumeIndex(slice=2)), "slice 2 but .* go from 0 to 1"),
    ],
)  # fmt: skip
def test_a_readout_that_does_not_fit_the_header_is_named_before_data_is_read(
    path: Path, wrong: Readout, message: str
) -> None:
    mrd.write(path, mrd.header_xml(counters={"slice": 2}), [mrd.readout(np.zeros((4, 64))), wrong])
    with pytest.raises(ReadoutError, match=message):
        open_scan(path)


def test_a_noise_readout_may_be_longer_than_the_matrix(path: Path) -> None:
    mrd.write(path, mrd.header_xml(), [mrd.readout(np.zeros((4, 1024)), role="noise"), flagged()])
    assert [line.role for line in read(path)] == ["noise", "image"]


def test_phase_correction_with_reversed_lines_is_refused_as_echo_planar(path: Path) -> None:
    lines = [flagged(ismrmrd.ACQ_IS_PHASECORR_DATA), flagged(), flagged(ismrmrd.ACQ_IS_REVERSE)]
    with pytest.raises(UnsupportedScanError, match="echo-planar"):
        open_scan(mrd.write(path, mrd.header_xml(), lines))


def test_readouts_with_coordinates_need_a_named_trajectory(path: Path) -> None:
    acq = ismrmrd.Acquisition.from_array(np.zeros((4, 64), np.complex64), trajectory=np.zeros((64, 2), np.float32))
    with pytest.raises(HeaderError, match="no trajectory"):
        open_scan(mrd.write(path, mrd.header_xml().replace("trajectory>", "course>"), [acq]))


def test_a_closed_scan_releases_its_file(path: Path) -> None:
    with open_scan(mrd.write(path, mrd.header_xml(), [flagged()])):
        pass
    h5py.File(path, "a").close()


def phantom(path: Path, *options: str) -> Path:
    """What Debian's phantom generator writes."""
    tool = shutil.which("ismrmrd_generate_cartesian_shepp_logan")
    assert tool, "this test needs the Debian package ismrmrd-tools: apt-get install ismrmrd-tools"
    subprocess.run([tool, "-m", "64", "-c", "4", *options, "-o", str(path)], check=True, capture_output=True)
    return path


def test_the_phantom_tool_of_ismrmrd_is_understood(path: Path) -> None:
    with open_scan(phantom(path, "-r", "2", "-C")) as scan:
        found = list(scan.readouts())
        assert "<version>8" in scan.header.xml
        assert scan.header.encoded.matrix_xyz == (128, 64, 1)
    assert found[0].role == "noise"
    assert sum(line.last_of_volume for line in found) == 2


def test_the_accelerated_phantom_assembles_with_its_calibration_and_noise(path: Path) -> None:
    """Noise of s.d. 0.02 per real channel; the tool writes each of the two undersampling offsets as a repetition."""
    with open_scan(phantom(path, "-a", "2", "-w", "16", "-C", "-n", "0.02")) as scan:
        volumes = list(assemble(scan.readouts(), scan.header))
    assert len(volumes) == 2
    for volume in volumes:
        assert volume.data.shape == (4, 1, 64, 64)
        assert volume.sampled.sum() == 32  # lines in between are calibration alone
        assert volume.calibrated.sum() == 16
        assert volume.noise_source == "noise scan"
        assert np.diag(volume.noise_covariance).real == pytest.approx(2 * 0.02**2, rel=0.3)
        assert volume.geometry.assumed.startswith("directions")
