"""The maps that distort the tokens of an image space (paper section 4.1).

Belongs here: the map of each family and measures of its strength. Not here: a distortion as a
value and the list of families (`distortion.py`), how well two spaces agree
(`scoring/alignment.py`).
"""

import numpy as np
import torch
from scipy.linalg import polar, schur
from torch import nn

from uvlm_core.models.distortion import FAMILIES, SIDES, Distortion

BLOCKS = 12  # of the residual family
BEND = 2.0  # root mean square of the inputs to tanh in a residual block


class Distort(nn.Module):
    """A distortion of tokens (..., width) as a module without parameters.

    Its random draws are persistent buffers. They are empty at first, so that saved ones can be
    loaded; `draw` fills them from a seed.

    Args:
        width: width of the input tokens; `self.width` is that of the output tokens.
        codes: size of the codebook, 0 for features. ValueError when the family "permutation" gets
            0, and when the family "width" does not give a whole number of coordinates.
    """

    def __init__(self, distortion: Distortion, width: int, codes: int = 0):
        super().__init__()
        self.distortion, self.codes = distortion, codes
        family, self.width = distortion.family, width
        if not distortion.changes:
            return
        if family == "permutation":
            if not codes:
                raise ValueError(
                    "distortion 'permutation' needs a space of codes; SigLIP features have none."
                )
            self.register_buffer("places", torch.zeros(codes, dtype=torch.long))
        elif family == "residual":
            self.register_buffer("inner", torch.zeros(BLOCKS, width, 4 * width))
            self.register_buffer("outer", torch.zeros(BLOCKS, 4 * width, width))
        if family in ("residual", "warp"):
            # scales tokens before they are bent
            self.register_buffer("scale", torch.ones(()))
            self.register_buffer("gain", torch.ones(()))  # restores their mean length
        elif family != "permutation":
            if family == "width":
                self.width = round(width * distortion.dose)
                if self.width != width * distortion.dose:
                    raise ValueError(
                        f"distortion dose {distortion.dose!r} of 'width' makes "
                        f"{width} coordinates {width * distortion.dose:g}, which is "
                        f"not a whole number from 1 up."
                    )
            self.register_buffer("matrix", torch.zeros(width, self.width))
            self.register_buffer("offset", torch.zeros(self.width))

    @torch.no_grad()
    def draw(self, seed: int, tokens: torch.Tensor) -> "Distort":
        """Fill the buffers from the seed and return the module itself.

        The mean length of `tokens` (..., width) is the unit of shifts and bends.
        """
        family, dose = self.distortion.family, self.distortion.dose
        if not self.distortion.changes:
            return self
        length = float(tokens.norm(dim=-1).mean())
        rng = np.random.default_rng(
            [seed, list(FAMILIES).index(family), SIDES.index(self.distortion.side)]
        )
        if family == "permutation":
            self.places.copy_(torch.from_numpy(_permutation(rng, self.codes, dose)))
        elif family == "residual":
            width = self.inner.shape[1]
            for inner, outer in zip(self.inner, self.outer, strict=True):
                inner.copy_(torch.from_numpy(_orthonormal(rng, *inner.shape)))
                outer.copy_(torch.from_numpy(_orthonormal(rng, *outer.shape)))
            # tokens @ inner has a root mean square of length / (2 sqrt(width))
            self.scale.fill_(BEND * 2 * width**0.5 / length)
        elif family == "warp":
            self.scale.fill_(self.width**0.5 / length)
        if family in ("residual", "warp"):
            self.gain.fill_(length / float(self(tokens).norm(dim=-1).mean()))
        elif family != "permutation":
            matrix, offset = _affine(rng, family, dose, *self.matrix.shape, length)
            self.matrix.copy_(torch.from_numpy(matrix))
            self.offset.copy_(torch.from_numpy(offset))
        return self

    def lookup(self, images: torch.Tensor) -> torch.Tensor:
        """Permute codes (images, tokens) before their look-up; return features unchanged."""
        if (
            self.distortion.family == "permutation"
            and self.distortion.changes
            and not images.is_floating_point()
        ):
            return self.places[images]
        return images

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Distort tokens (..., width in) to (..., width out)."""
        family, dose = self.distortion.family, self.distortion.dose
        if not self.distortion.changes or family == "permutation":
            return tokens
        if family == "residual":
            for inner, outer in zip(self.inner, self.outer, strict=True):
                tokens = tokens + dose * self._bend(tokens, inner, outer)
            return self.gain * tokens
        if family == "warp":
            return self.gain * torch.asinh(dose * self.scale * tokens) / (dose * self.scale)
        return tokens @ self.matrix + self.offset

    def inverse(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the input tokens (..., width in) of output tokens (..., width out).

        ValueError for a projection to fewer coordinates. For codes, use the inverse permutation
        `places.argsort()` instead.
        """
        family, dose = self.distortion.family, self.distortion.dose
        if not self.distortion.changes or family == "permutation":
            return tokens
        if family == "residual":
            tokens = tokens / self.gain
            for inner, outer in zip(self.inner.flip(0), self.outer.flip(0), strict=True):
                found = tokens
                for _ in range(400):  # a contraction: each round multiplies the error by <= `dose`
                    found = tokens - dose * self._bend(found, inner, outer)
                tokens = found
            return tokens
        if family == "warp":
            return torch.sinh(dose * self.scale * tokens / self.gain) / (dose * self.scale)
        if self.matrix.shape[1] < self.matrix.shape[0]:
            raise ValueError(
                f"A projection from {self.matrix.shape[0]} to {self.matrix.shape[1]} "
                "coordinates has no inverse."
            )
        return (tokens - self.offset) @ torch.linalg.pinv(self.matrix)

    def _bend(self, tokens: torch.Tensor, inner: torch.Tensor, outer: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.scale * (tokens @ inner)) @ outer / self.scale


def angle(matrix: np.ndarray) -> float:
    """Return the root-mean-square angle of a square matrix's rotation part, in degrees."""
    turns = np.angle(np.linalg.eigvals(polar(matrix)[0]))
    return float(np.degrees(np.sqrt((turns**2).mean())))


def condition_number(matrix: np.ndarray) -> float:
    """Return the largest singular value of a matrix over its smallest."""
    return float(np.linalg.cond(matrix))


def displacement(distort: Distort, tokens: torch.Tensor) -> float:
    """Return the mean distance that tokens (count, width) move, as a share of their length.

    NaN when the distortion changes their width.
    """
    if distort.width != tokens.shape[-1]:
        return float("nan")
    moved = (distort(tokens) - tokens).norm(dim=-1)
    return float((moved / tokens.norm(dim=-1)).mean())


def strength(distort: Distort, tokens: torch.Tensor) -> dict[str, float]:
    """Measure the strength of a distortion on tokens (count, width), comparably between families.

    Returns: "displacement"; "length", the mean length after as a share of that before. A linear
    family that keeps the width also has "angle" (degrees), "condition" and "shift" (in mean token
    lengths).
    """
    length = tokens.norm(dim=-1).mean()
    found = {
        "displacement": displacement(distort, tokens),
        "length": float(distort(tokens).norm(dim=-1).mean() / length),
    }
    if hasattr(distort, "matrix") and distort.width == tokens.shape[-1]:
        matrix = distort.matrix.double().numpy()
        found |= {
            "angle": angle(matrix),
            "condition": condition_number(matrix),
            "shift": float(distort.offset.norm() / length),
        }
    return found


def random_rotation(rng: np.random.Generator, width: int) -> np.ndarray:
    """Draw a rotation matrix (width, width) uniformly."""
    return _rotation_of(rng.standard_normal((width, width)))


def _rotation_of(matrix: np.ndarray) -> np.ndarray:
    """Return the rotation of a QR decomposition, with fixed signs and without reflection."""
    q, r = np.linalg.qr(matrix)
    q = q * np.sign(np.diag(r))
    q[:, 0] *= np.sign(np.linalg.det(q))
    return q


def partial_rotation(rotation: np.ndarray, part: float) -> np.ndarray:
    """Multiply every angle of a rotation by `part`: 0 gives the identity, 1 the rotation."""
    # the triangle is diagonal, because a rotation is a normal matrix
    triangle, vectors = schur(rotation, output="complex")
    turns = np.exp(1j * part * np.angle(np.diag(triangle)))
    return ((vectors * turns) @ vectors.conj().T).real


def _affine(
    rng: np.random.Generator, family: str, dose: float, width: int, out: int, length: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a linear family's matrix (width, out) and offset (out,); the dose changes no draw."""
    matrix, offset = np.eye(width, out), np.zeros(out)
    if family == "width":
        return _orthonormal(rng, width, out) * max(1.0, out / width) ** 0.5, offset
    if family == "authors":
        scaled = _rotation_of(rng.random((width, width))) * rng.uniform(1 - dose, 1 + dose, width)
        return scaled, rng.uniform(-dose, dose, width)
    if family in ("rotation", "affine"):
        matrix = partial_rotation(random_rotation(rng, width), dose)
    if family in ("scaling", "affine"):
        axes = random_rotation(rng, width)
        scales = 10 ** (dose * np.linspace(-0.5, 0.5, width))
        scales /= np.sqrt((scales**2).mean())
        matrix = matrix @ (axes * scales) @ axes.T
    if family in ("shift", "affine"):
        direction = rng.standard_normal(width)
        offset = dose * length * direction / np.linalg.norm(direction)
    return matrix, offset


def _orthonormal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Draw a matrix (rows, columns) with orthonormal rows or columns, whichever are fewer."""
    tall = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))[0]
    return tall if rows > columns else tall.T


def _permutation(rng: np.random.Generator, codes: int, share: float) -> np.ndarray:
    """Draw new places of codes (codes,): a random `share`, at least two codes, moves in a cycle."""
    moved = rng.permutation(codes)[: max(2, round(share * codes))]
    places = np.arange(codes)
    places[moved] = np.roll(moved, 1)
    return places
