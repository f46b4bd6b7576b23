"""The unstable images of a series as a Key Object Selection titled "Quality Issue".

Never under the title 113001, "Rejected for Quality Reasons": a PACS hides images so marked (IHE Image Object Change
Management), and hiding is not ours to decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import highdicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from steadymr.dicom import derived, private
from steadymr.dicom.facts import MANUFACTURER, SeriesFacts, SeriesVerdict

CONTENT = "quality issue"


def quality_issue(
    images: Sequence[Dataset], facts: SeriesFacts, outcome: SeriesVerdict, *, series_number: int, instance_number: int
) -> Dataset | None:
    """A selection of the MR images whose verdict is unstable; None if there are none."""
    unstable = [image for image in images if private.read(image).get("verdict") == "UNSTABLE"]
    if not unstable:
        return None
    name = derived.name(facts, CONTENT, unstable, b"", series_number=series_number, instance_number=instance_number)
    selection = highdicom.ko.KeyObjectSelection(
        document_title=codes.DCM.QualityIssue,
        referenced_objects=unstable,
        description="Repeated reconstructions of these images disagree.",
    )
    document: Dataset = highdicom.ko.KeyObjectSelectionDocument(
        evidence=unstable,
        content=selection,
        **asdict(name),
        manufacturer=MANUFACTURER,
    )
    return derived.complete(document, facts, outcome, CONTENT, spatial=False)
