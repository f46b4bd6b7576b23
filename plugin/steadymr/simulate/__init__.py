"""Scans with a known answer: anatomy, coils, sampling, and the ISMRMRD file that a scanner would have written."""
