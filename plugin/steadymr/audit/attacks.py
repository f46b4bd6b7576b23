"""Which worst cases are crafted: on which surrogate, to do what, and in which norm the change is small."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from steadymr.audit.norms import Norm

SurrogateName: TypeAlias = Literal["unet", "varnet", "ensemble", "diffusion"]
LossName: TypeAlias = Literal["clean", "truth", "draw", "erase"]

ATTACK_COLUMNS = ("surrogate", "loss", "norm", "structure")
TARGETED = ("draw", "erase")
DRAWN_CONTRAST = 0.3


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Structure:
    """The round structure that a targeted worst case draws or erases."""

    diameter_mm: Annotated[float, Field(gt=0)] = 6.0
    centre_mm_xy: tuple[float, float] | None = None
    """From the centre of the field of view; None lets the audit choose, see `steadymr.audit.aim.region`."""
    contrast: float | None = None
    """What is added to the magnitude, as a share of white, negative for a dark one; None: 0.3. Not for erasing."""

    def __str__(self) -> str:
        """Return the structure in words, as the table's column has it."""
        place = "" if self.centre_mm_xy is None else " at x {:g}, y {:g} mm".format(*self.centre_mm_xy)
        contrast = "" if self.contrast is None else f", contrast {self.contrast:g}"
        return f"{self.diameter_mm:g} mm{place}{contrast}"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Attack:
    """One kind of worst case, crafted at each strength."""

    surrogate: SurrogateName  #: diffusion: white box, through a shortened chain
    loss: LossName = "clean"  #: distance from the clean image or from the truth; draw or erase a small structure
    norm: Norm = "scan"  #: what is bounded: the whole change, each coil's, or each sample's; see `Budget`
    structure: Structure | None = None  #: of draw and erase; None takes its defaults

    @model_validator(mode="after")
    def _check_structure(self) -> Attack:
        if self.structure is not None and self.loss not in TARGETED:
            raise ValueError(f"a structure belongs to the losses draw and erase, not to {self.loss}")
        if self.loss == "erase" and self.structure is not None and self.structure.contrast is not None:
            raise ValueError("a contrast belongs to the loss draw: what is erased becomes as its surroundings")
        return self

    @property
    def target(self) -> Structure | None:
        """What is drawn or erased; None if this attack has no target."""
        return (self.structure or Structure()) if self.loss in TARGETED else None

    @property
    def title(self) -> str:
        """As pictures and tables call it: the surrogate, and what differs from the plainest attack."""
        return described(self.surrogate, self.loss, self.norm, "" if self.target is None else str(self.target))


def described(surrogate: str, loss: str, norm: str, structure: str) -> str:
    """An attack in words, from its columns in the table: "varnet" or "varnet, draw 6 mm, norm coil"."""
    aim = [] if loss in ("", "clean") else [f"{loss} {structure}".strip()]
    return ", ".join([surrogate, *aim, *([] if norm in ("", "scan") else [f"norm {norm}"])])
