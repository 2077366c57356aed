"""Distortions of an image space, graded by a dose (paper section 4.1, figure 4; pitfalls 4 and 5).

Belongs here: a distortion as a value, and the list of families. Not here: the maps themselves
(`distort.py`), which doses are run (`studies/affine_alignment.py`). This module imports no torch.

    rotation     part `dose` of the geodesic to a random rotation (1: the full rotation)
    scaling      stretch along random orthogonal axes: condition number 10^dose, mean square 1
    shift        a random direction, `dose` times the mean length of a token
    affine       rotation, scaling and shift, each at that dose
    authors      x A + b as in the authors' code: A a random rotation times scales in
                 [1 - dose, 1 + dose], b in [-dose, dose]; the rotation is full at every dose
    residual     twelve random residual blocks x + dose g(x), each g with a Lipschitz constant of
                 at most 1: non-linear and invertible
    warp         asinh(dose z) of every coordinate, z in units of its size: monotone
    permutation  part `dose` of the codes change places in the codebook: the same information, no
                 shared geometry
    width        `dose` times as many coordinates, by a random orthonormal projection, up or down

Dose 0 is the identity in every family, bit for bit. The non-linear families (residual, warp) and
wider spaces are rescaled, so that the adapter's input keeps its scale. Otherwise a distortion would
be confounded with a change of scale.

A distortion changes what the LM reads: input images, or its own generated tokens when it reads them
back. Training and decoding share one code path (`UnifiedVLM.embed_understanding`,
`embed_generation`). The targets of generation are not distorted. The initial generation head is not
either, except by `width`.
"""

from dataclasses import dataclass

SIDES = ("understanding", "generation")
PLACES = ("before", "after")  # relative to the adapter
# family -> largest dose; its position seeds its random stream, so append new families at the end
FAMILIES = {
    "rotation": 1.0,
    "scaling": 3.0,
    "shift": 10.0,
    "affine": 1.0,
    "authors": 1.0,
    "residual": 0.95,
    "warp": 20.0,
    "permutation": 1.0,
    "width": 16.0,
}


@dataclass(frozen=True)
class Distortion:
    """One distortion as a value: its family, its dose and where it is applied.

    ValueError for an unknown family, side or place, a dose out of range, and the families "width"
    and "permutation" after the adapter.
    """

    family: str  # one of FAMILIES
    dose: float  # 0 (the identity) up to the family's largest
    side: str = "understanding"
    place: str = "before"

    def __post_init__(self):
        for name, allowed in (("family", FAMILIES), ("side", SIDES), ("place", PLACES)):
            if not isinstance(getattr(self, name), str) or getattr(self, name) not in allowed:
                raise ValueError(
                    f"distortion {name} {getattr(self, name)!r} is not one of {', '.join(allowed)}."
                )
        most = FAMILIES[self.family]
        if (
            isinstance(self.dose, bool)
            or not isinstance(self.dose, int | float)
            or not 0 <= self.dose <= most
        ):
            raise ValueError(
                f"distortion dose {self.dose!r} of {self.family!r} is not a number "
                f"from 0 to {most:g}."
            )
        if self.family in ("width", "permutation") and self.place == "after":
            raise ValueError(
                f"distortion {self.family!r} has no meaning after the adapter; its "
                f"place is 'before'."
            )
        # 1 and 1.0 are the same distortion, in JSON too
        object.__setattr__(self, "dose", float(self.dose))

    @property
    def changes(self) -> bool:
        """Whether it differs from the identity."""
        return self.dose > 0
