"""Images of a run become DICOM series with all that hangs on them, in the right patient's study."""
