"""Everything that steadymr can refuse to do, as one tree in the order of the dataflow.

::

    SteadymrError
    ├── SettingsError              an option, a config file, an unknown key or name
    ├── SourceError                what was read is not a usable MRD data set
    │   ├── NotMRDError            not HDF5, or no MRD group in it
    │   ├── HeaderError            the XML header is missing, broken, or lacks a required field
    │   ├── ReadoutError           a readout is truncated, too long, NaN, or out of its encoded space
    │   ├── ProtocolError          the peer broke the streaming protocol, or sent more than the limits allow
    │   └── PeerLostError          the peer vanished, failed, or was silent for too long
    ├── AssemblyError              the readouts do not make volumes
    │   ├── UnsupportedScanError   non-Cartesian, uncorrected EPI, undersampled second phase encoding
    │   └── IncompleteScanError    nothing to reconstruct, or readouts after a volume was closed
    ├── PerturbationError          a modelled imperfection that cannot be applied to this scan
    ├── ReconError                 no image can be made
    │   ├── CalibrationError       no calibration lines, or coil maps that vanish everywhere
    │   ├── WeightsError           weights missing, of another shape, or with a wrong checksum
    │   ├── DeviceError            the asked device is not there, or out of memory
    │   └── DeadlineError          the time that sampling may take is over
    ├── DicomError                 geometry or identity that cannot be written down truthfully
    ├── OutputError                the result could not be written whole (disk full, no permission)
    └── DeliveryError              what was written could not be handed to a PACS
        └── PeerError              the PACS cannot be reached, or broke off
            └── PeerRefusedError   the PACS refuses us as a whole until a setting is changed

A message says what was expected, what came, and where to look; the command line prints it as one line and ends with
the class's ``exit_code``.
"""

from __future__ import annotations


class SteadymrError(Exception):
    """Any failure that steadymr foresees."""

    exit_code: int = 1


class SettingsError(SteadymrError):
    """An option, a config file or a name that does not exist."""

    exit_code = 2


class SourceError(SteadymrError):
    """The input is not a usable MRD data set."""

    exit_code = 3


class NotMRDError(SourceError):
    """Not an HDF5 file, or no MRD group in it."""


class HeaderError(SourceError):
    """The XML header is missing, broken, or lacks a required field."""


class ReadoutError(SourceError):
    """A readout is truncated, too long, not finite, or outside the encoded space."""


class ProtocolError(SourceError):
    """The peer broke the streaming protocol, or sent more than the limits allow."""


class PeerLostError(SourceError):
    """The peer vanished, failed, or was silent for too long."""


class AssemblyError(SteadymrError):
    """The readouts do not make volumes."""

    exit_code = 4


class UnsupportedScanError(AssemblyError):
    """A kind of acquisition that is not reconstructed here."""


class IncompleteScanError(AssemblyError):
    """Nothing to reconstruct, or readouts that came after their volume was closed."""


class PerturbationError(SteadymrError):
    """A modelled imperfection that is unknown or cannot be applied to this scan."""

    exit_code = 2


class ReconError(SteadymrError):
    """No image can be made from this k-space."""

    exit_code = 5


class CalibrationError(ReconError):
    """No calibration lines, or coil maps that vanish everywhere."""


class WeightsError(ReconError):
    """Weights that are missing, of another shape, or have a wrong checksum."""


class DeviceError(ReconError):
    """The asked device is not there, or it ran out of memory."""


class DeadlineError(ReconError):
    """The time that sampling may take is over."""


class DicomError(SteadymrError):
    """Geometry or identity that cannot be written down truthfully."""

    exit_code = 6


class OutputError(SteadymrError):
    """The result could not be written whole."""

    exit_code = 7


class DeliveryError(SteadymrError):
    """What was written could not be handed to a PACS."""

    exit_code = 8


class PeerError(DeliveryError):
    """The PACS cannot be reached, or broke off; trying again later may help."""


class PeerRefusedError(PeerError):
    """The PACS refuses us as a whole; trying again helps only once a setting is changed, there or here."""
