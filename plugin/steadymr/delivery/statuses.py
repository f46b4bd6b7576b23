"""What the status of a storage request says, after DICOM PS3.4 B.2.3, PS3.7 annex C and PS3.18 I.2.2.

Only what the standard calls stored counts as delivered; whatever else comes back does not.
"""

from __future__ import annotations

from steadymr.delivery.outbox import Outcome

DELIVERED = {
    0x0000: "",
    0xB000: "stored, with coercion of data elements (0xB000)",
    0xB006: "stored, elements discarded (0xB006)",
    0xB007: "stored, data set does not match SOP class (0xB007)",
}


def judge(status: int, comment: str = "") -> Outcome:
    """What a C-STORE status says about the instance."""
    words = f"0x{status:04X}" + (f" {comment}" if comment else "")
    if status in DELIVERED:
        return Outcome("delivered", DELIVERED[status])
    if 0xA700 <= status <= 0xA7FF or status == 0x0213:
        return Outcome("busy", f"the PACS is out of resources ({words})")
    if 0xA900 <= status <= 0xA9FF:
        return Outcome("refused", f"the PACS says the data set does not match its SOP class ({words})")
    if 0xC000 <= status <= 0xCFFF:
        return Outcome("refused", f"the PACS cannot understand the data set ({words})")
    if status == 0x0111:
        return Outcome("refused", f"the PACS says it holds another object of this UID ({words})")
    if status == 0x0122:
        return Outcome("refused", f"the PACS does not support the SOP class ({words})")
    if status == 0x0124:
        return Outcome("refused", f"the PACS does not authorise us to store ({words})")
    return Outcome("refused", f"the PACS answered with status {words}")
