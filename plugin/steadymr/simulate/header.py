"""The XML header of a simulated scan: complete, and plainly of nobody."""

from __future__ import annotations

from typing import Final

import ismrmrd
from xsdata.models.datatype import XmlDate, XmlTime

NOISE_BANDWIDTH_RATIO: Final = 0.793  # what Siemens receivers are said to have
UID_ROOT: Final = "2.25.207612308311390"  # under the arc for UUIDs (ITU-T X.667), which nobody has to register


def write_header(
    *,
    seed: int,
    n_coils: int,
    matrix_yx: tuple[int, int],
    pixel_mm: float,
    slice_mm: float,
    n_slices: int,
    acceleration: int,
    readout_oversampling: int,
) -> str:
    """Return the header's XML text."""
    xsd = ismrmrd.xsd
    n_y, n_x = matrix_yx
    fov_mm = (n_x * pixel_mm, n_y * pixel_mm, slice_mm)
    encoding = xsd.encodingType(
        encodedSpace=_space((n_x * readout_oversampling, n_y, 1), (fov_mm[0] * readout_oversampling, *fov_mm[1:])),
        reconSpace=_space((n_x, n_y, 1), fov_mm),
        encodingLimits=_limits(n_x * readout_oversampling, n_y, n_slices),
        trajectory=xsd.trajectoryType.CARTESIAN,
        parallelImaging=xsd.parallelImagingType(
            accelerationFactor=xsd.accelerationFactorType(
                kspace_encoding_step_1=acceleration, kspace_encoding_step_2=1
            ),
            calibrationMode=xsd.calibrationModeType.EMBEDDED if acceleration > 1 else None,
        ),
    )
    header = xsd.ismrmrdHeader(
        subjectInformation=xsd.subjectInformationType(
            patientName="STEADYMR^DEMO",
            patientID=f"DEMO-{seed:06d}",
            patientBirthdate=XmlDate(1970, 1, 1),
            patientGender="O",
            patientWeight_kg=70.0,
        ),
        studyInformation=xsd.studyInformationType(
            studyDate=XmlDate(2026, 1, 1),
            studyTime=XmlTime(9, 30, 0),
            studyID="1",
            studyDescription="SIMULATED SCAN, NOT A PATIENT",
            studyInstanceUID=f"{UID_ROOT}.{seed}.1",
            bodyPartExamined="HEAD",
        ),
        measurementInformation=xsd.measurementInformationType(
            measurementID=f"simulated_{seed}",
            patientPosition=xsd.patientPositionType.HFS,
            protocolName="simulated",
            seriesDescription="simulated",
            frameOfReferenceUID=f"{UID_ROOT}.{seed}.2",
        ),
        acquisitionSystemInformation=_system(n_coils),
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=123_200_000),
        encoding=[encoding],
        sequenceParameters=xsd.sequenceParametersType(
            TR=[500.0], TE=[10.0], flipAngle_deg=[70.0], sequence_type="SpinEcho"
        ),
    )
    text: str = xsd.ToXML(header)
    return text


def _system(n_coils: int) -> object:
    xsd = ismrmrd.xsd
    return xsd.acquisitionSystemInformationType(
        systemVendor="steadymr",
        systemModel="simulator",
        systemFieldStrength_T=2.89362,
        relativeReceiverNoiseBandwidth=NOISE_BANDWIDTH_RATIO,
        receiverChannels=n_coils,
        coilLabel=[xsd.coilLabelType(coilNumber=n, coilName=f"LOOP{n + 1}") for n in range(n_coils)],
        institutionName="Nowhere",
    )


def _space(matrix_xyz: tuple[int, int, int], fov_mm_xyz: tuple[float, float, float]) -> object:
    xsd = ismrmrd.xsd
    matrix = xsd.matrixSizeType(x=matrix_xyz[0], y=matrix_xyz[1], z=matrix_xyz[2])
    fov = xsd.fieldOfViewMm(x=fov_mm_xyz[0], y=fov_mm_xyz[1], z=fov_mm_xyz[2])
    return xsd.encodingSpaceType(matrixSize=matrix, fieldOfView_mm=fov)


def _limits(n_samples: int, n_lines: int, n_slices: int) -> object:
    limit = ismrmrd.xsd.limitType
    return ismrmrd.xsd.encodingLimitsType(
        kspace_encoding_step_0=limit(minimum=0, maximum=n_samples - 1, center=n_samples // 2),
        kspace_encoding_step_1=limit(minimum=0, maximum=n_lines - 1, center=n_lines // 2),
        kspace_encoding_step_2=limit(minimum=0, maximum=0, center=0),
        slice=limit(minimum=0, maximum=n_slices - 1, center=n_slices // 2),
    )
