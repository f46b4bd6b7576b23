"""Where readouts come from: MRD (ISMRMRD) files, decoded and checked, as a stream of ``Readout``."""
