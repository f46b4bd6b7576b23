"""Reconstructed volumes as DICOM: arrays and facts in, pydicom data sets out; nothing here touches a file.

``identity`` says whose images they are, ``geometry`` where they lie, ``pixels`` how magnitudes become stored values,
``uids`` what they are called, ``private`` what the standard has no attribute for, and ``series`` puts them together.
What each attribute holds and why is listed in ``docs/dicom-conformance.md``.
"""
