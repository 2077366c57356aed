"""Distortions of an image space, graded by a dose (paper section 4.1, figure 4; pitfalls 4 and 5).

Belongs here: a distortion as a value, and what its families are. Not here: the maps themselves
(`distort.py`), which doses are run (`studies/affine_alignment.py`). This module imports no torch.

    rotation     part `dose` of the geodesic to a full random rotation (1: the full one)
    scaling      stretched along random orthogonal axes, with condition number 10^dose and mean square 1
    shift        a random direction, `dose` times the mean length of a token
    affine       the three together, each at that dose
    authors      x A + b as the authors have it: A a full random rotation times scales in [1 - dose, 1 + dose], b in
                 [-dose, dose]; the rotation is a full one at every dose
    residual     twelve random residual blocks x + dose g(x), each g with a Lipschitz constant of at most 1: bent, and
                 invertible
    warp         asinh(dose z) of every coordinate, z in units of its size: monotone
    permutation  part `dose` of the codes change their places in the codebook: the same information, no shared geometry
    width        `dose` times as many coordinates, by a random orthonormal projection, up or down

Dose 0 of every family is the identity, bit for bit. The bent ones (residual, warp) and a wider
space are scaled so that an adapter gets input of the size it would get without them: a quiet image
is another matter than a distorted one.

What a distortion touches is what the LM reads: images to understand, or its own generated tokens
when they are read back, in training and in decoding through one code path
(`UnifiedVLM.embed_understanding`, `embed_generation`). Targets of generation, and the start of the
head that is trained to write them, stay as they are.
"""

from dataclasses import dataclass

SIDES = ("understanding", "generation")
PLACES = ("before", "after")  # the adapter
# family -> the largest dose; its position is part of its random stream, so new ones go to the end
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
    """One distortion as a value: family, dose, the side it touches, and whether it stands before or
    after the adapter.
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
        # 1 and 1.0 are one distortion, also as JSON
        object.__setattr__(self, "dose", float(self.dose))

    @property
    def changes(self) -> bool:
        """Whether it is anything but the identity."""
        return self.dose > 0
