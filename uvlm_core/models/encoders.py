"""Frozen vision encoders and the cache of their outputs (paper section 3, figure 2).

Belongs here: images to codes or features, and back. Not here: adapters (`unified.py`), distortions
(`distort.py`), the readers (`readers.py`).

Every encoder has `kind`, `tokens` (per image), `width` (of a token), `codes` (0 for features) and
`encode` (images to codes or features). Encoders of codes also have `codebook`, and those that can
decode images have `decode`. Images are uint8 arrays (images, height, width, 3) and are resized to
the encoder's size. Outputs are computed once in float32 without gradient, on a GPU if available,
and memory-mapped (pitfalls 16 and 17).
"""

import errno
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from huggingface_hub import hf_hub_download
from torch import nn
from torch.nn import functional as F
from transformers import SiglipVisionModel
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from uvlm_core.environment import cache_folder
from uvlm_core.models.kinds import KINDS
from uvlm_core.models.weights import (
    companion_config,
    load_checkpoint,
    load_into,
    load_network,
    load_state,
    take,
)
from uvlm_core.places import fingerprint, is_file, refusing, resolve

# transformers compares a SigLIP configuration with the default and warns of the default's token ids
logging.getLogger("transformers.configuration_utils").addFilter(
    lambda said: "_token_id must be" not in said.msg
)
IMAGES_A_CALL = 64  # images per call of an encoder; the outputs do not depend on it
# 256 px; otherwise LlamaGen's VQ-16 has the defaults of `JanusVQVAEConfig`
LLAMAGEN = {"num_patches": 16}
_OF_TEXTS = r"text_model\.|logit_(scale|bias)$"  # weights of a whole SigLIP outside the tower
_LLAMAGEN_NAMES = (  # LlamaGen's names -> those of `JanusVQVAE`
    (r"encoder\.conv_blocks", "encoder.down"),
    (r"decoder\.conv_blocks", "decoder.up"),
    (r"\.res\.", ".block."),
    (r"mid\.0", "mid.block_1"),
    (r"mid\.1", "mid.attn_1"),
    (r"mid\.2", "mid.block_2"),
)


def to_pixels(images: np.ndarray, size: int | None = None) -> torch.Tensor:
    """Convert uint8 images (images, height, width, 3) to floats in [-1, 1].

    Returns: (images, 3, height, width). ValueError for any other input, and for images that are not
    `size` x `size` px when `size` is given.
    """
    if not (
        isinstance(images, np.ndarray)
        and images.dtype == np.uint8
        and images.ndim == 4
        and images.shape[3] == 3
    ):
        found = (
            f"{images.dtype} {images.shape}"
            if isinstance(images, np.ndarray)
            else type(images).__name__
        )
        raise ValueError(f"Images are a uint8 array (images, height, width, 3), not {found}.")
    if size is not None and images.shape[1:3] != (size, size):
        raise ValueError(
            f"The network takes images of {size} x {size} px, not {images.shape[1]} x "
            f"{images.shape[2]}."
        )
    # contiguous: convolutions are twice as fast when channels come first in memory too
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """Resize images to uint8 (images, size, size, 3), bicubic with antialiasing, if necessary.

    The paper draws at 224 px, SigLIP's size, and its VQ tokenizer takes 256 px.
    """
    if isinstance(images, np.ndarray) and images.shape[1:3] == (size, size):
        return images
    pixels = F.interpolate(to_pixels(images), (size, size), mode="bicubic", antialias=True)
    return to_images(pixels)


def to_images(pixels: torch.Tensor) -> np.ndarray:
    """Convert floats in [-1, 1] (images, 3, height, width) to uint8 (images, height, width, 3)."""
    return (
        ((pixels.clamp(-1, 1) + 1) * 127.5)
        .round()
        .byte()
        .permute(0, 2, 3, 1)
        .contiguous()
        .cpu()
        .numpy()
    )


def device() -> torch.device:
    """Return the device of all networks: the first GPU of this process, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class VQEncoder:
    """A LlamaGen-style VQ tokenizer (`JanusVQVAE`): images to codes and back.

    The rows of its codebook are unit vectors, or zero for unused codes. A network with 3 f^2 input
    channels first folds f x f pixels into channels, which makes it cheap on a CPU.
    """

    kind = "vq"

    def __init__(self, network: JanusVQVAE, name: str):
        self.network, self.name = network.eval().requires_grad_(False).to(device()), name
        config = network.config
        self.fold = round((config.in_channels / 3) ** 0.5)
        self.side = config.num_patches
        self.tokens, self.width, self.codes = self.side**2, config.embed_dim, config.num_embeddings
        # side of an image in px
        self.size = self.side * self.fold * 2 ** (len(config.channel_multiplier) - 1)
        # (codes, width)
        self.codebook = F.normalize(network.quantize.embedding.weight.detach(), dim=-1)

    @classmethod
    def load(cls, name: str) -> "VQEncoder":
        """Load a tokenizer by shipped name, local folder or hub id.

        A LlamaGen checkpoint is loaded by local file, or by hub id and file (owner/model/file).
        """
        what, place = "a VQ tokenizer", resolve(name)
        if not is_file(name):
            return cls(load_network(JanusVQVAE, name, what), name)
        if not os.path.isfile(place):
            owner, model, file = name.split("/", 2)
            with refusing(name, what):
                place = hf_hub_download(f"{owner}/{model}", file)
        return cls(load_llamagen(place), name)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Encode images to codes, int32 (images, tokens), row by row of the code grid."""
        # among unit rows, the nearest has the largest cosine
        codes = [(latent @ self.codebook.T).argmax(-1) for latent in self._latents(images)]
        return torch.cat(codes).cpu().numpy().astype(np.int32)

    @torch.no_grad()
    def _latents(self, images: np.ndarray) -> Iterator[torch.Tensor]:
        """Yield what is rounded to codes, unit vectors (images, tokens, width), some at a time."""
        for start in range(0, len(images), IMAGES_A_CALL):
            pixels = to_pixels(resized(images[start : start + IMAGES_A_CALL], self.size)).to(
                self.network.device
            )
            pixels = F.pixel_unshuffle(pixels, self.fold)
            # (images, width, side, side)
            latent = self.network.quant_conv(self.network.encoder(pixels))
            yield F.normalize(latent.flatten(2).transpose(1, 2), dim=-1)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Decode codes (images, tokens) to uint8 images (images, size, size, 3).

        ValueError for codes of another shape or out of range.
        """
        codes = torch.as_tensor(np.asarray(codes), dtype=torch.long, device=self.network.device)
        if (
            codes.ndim != 2
            or codes.shape[1] != self.tokens
            or codes.min() < 0
            or codes.max() >= self.codes
        ):
            raise ValueError(
                f"Codes are integers from 0 to {self.codes - 1} of shape (images, "
                f"{self.tokens}), not {tuple(codes.shape)} from {codes.min()} to "
                f"{codes.max()}."
            )
        return self._pixels(self.codebook[some] for some in codes.split(IMAGES_A_CALL))

    @torch.no_grad()
    def _pixels(self, latents: Iterable[torch.Tensor]) -> np.ndarray:
        """Decode unit vectors (images, tokens, width), some at a time, to uint8 images."""
        images = []
        for latent in latents:
            latent = latent.transpose(1, 2).unflatten(2, (self.side, self.side)).contiguous()
            pixels = self.network.decoder(self.network.post_quant_conv(latent))
            images.append(to_images(F.pixel_shuffle(pixels, self.fold)))  # (images, size, size, 3)
        return np.concatenate(images)


class LatentEncoder(VQEncoder):
    """A VQ tokenizer without its rounding: images to unit vectors and back."""

    kind = "latent"

    def __init__(self, network: JanusVQVAE, name: str):
        super().__init__(network, name)
        self.codes = 0

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Encode images to unit vectors, float32 (images, tokens, width)."""
        return torch.cat([latent.cpu() for latent in self._latents(images)]).numpy()

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Decode vectors (images, tokens, width) of any length to uint8 images.

        Each is rounded to the nearest code, as the decoder was trained. ValueError for another
        shape.
        """
        latents = torch.as_tensor(np.asarray(latents, np.float32), device=self.network.device)
        if latents.ndim != 3 or latents.shape[1:] != (self.tokens, self.width):
            raise ValueError(
                f"Latents are of shape (images, {self.tokens}, {self.width}), not "
                f"{tuple(latents.shape)}."
            )
        return self._pixels(
            self.codebook[(some @ self.codebook.T).argmax(-1)]
            for some in latents.split(IMAGES_A_CALL)
        )


def load_llamagen(path: str | Path) -> JanusVQVAE:
    """Load LlamaGen's VQ-16 (the paper's `vq_ds16_c2i.pt`) as a frozen `JanusVQVAE`.

    Its weights are under the first of the keys "ema", "model" and "state_dict" that exists; a
    safetensors file holds nothing else. The rows of its codebook are normalised to length 1 here;
    LlamaGen does so at every use. ValueError for any other file.
    """
    if Path(path).suffix == ".safetensors":
        held = found = load_state(path)
    else:
        found = load_checkpoint(path)
        held = next((found[key] for key in ("ema", "model", "state_dict") if key in found), None)
    if not (
        isinstance(held, dict) and all(isinstance(weight, torch.Tensor) for weight in held.values())
    ):
        raise ValueError(
            f"{path} has none of 'ema', 'model' and 'state_dict' with weights in it; "
            f"there are {', '.join(map(repr, list(found)[:5])) or 'none'}."
        )
    state = {}
    for name, weight in held.items():
        for theirs, ours in _LLAMAGEN_NAMES:
            name = re.sub(theirs, ours, str(name))
        state[name] = weight
    state.pop("quantize.codebook_used", None)  # a count that only training uses
    with torch.device("meta"):  # nothing random is drawn, because every weight is read
        network = JanusVQVAE(JanusVQVAEConfig(**LLAMAGEN))
    codebook, wanted = (
        state.get("quantize.embedding.weight"),
        tuple(network.quantize.embedding.weight.shape),
    )
    if codebook is not None and tuple(codebook.shape) != wanted:
        raise ValueError(
            f"{path} has a codebook of {tuple(codebook.shape)} (codes, width), but "
            f"LlamaGen's VQ-16 has {wanted}."
        )
    take(network, {name: weight.float() for name, weight in state.items()}, path)
    weight = network.quantize.embedding.weight
    weight.copy_(F.normalize(weight, dim=-1))
    return network


class SiglipEncoder:
    """A SigLIP vision tower: images to patch features of the penultimate layer, as in the paper."""

    kind = "siglip"

    def __init__(self, network: SiglipVisionModel, name: str):
        self.network, self.name = network.eval().requires_grad_(False).to(device()), name
        config = network.config
        self.size, self.width = config.image_size, config.hidden_size
        self.tokens, self.codes = (config.image_size // config.patch_size) ** 2, 0

    @classmethod
    def load(cls, name: str) -> "SiglipEncoder":
        """Load a tower by shipped name, local folder or hub id; a whole `SiglipModel` will do."""
        return cls(load_network(SiglipVisionModel, name, "a SigLIP vision tower", _OF_TEXTS), name)

    @torch.no_grad()
    def encode(self, images: np.ndarray) -> np.ndarray:
        """Encode images to features, float32 (images, tokens, width)."""
        features = []
        for start in range(0, len(images), IMAGES_A_CALL):
            pixels = to_pixels(resized(images[start : start + IMAGES_A_CALL], self.size)).to(
                self.network.device
            )
            features.append(self.network(pixels, output_hidden_states=True).hidden_states[-2].cpu())
        return torch.cat(features).numpy()


def directions(features: torch.Tensor) -> torch.Tensor:
    """Scale features (..., width) to length sqrt(width): the cosine loss fixes directions only."""
    return F.normalize(features, dim=-1) * features.shape[-1] ** 0.5


class FeatureDecoder(nn.Module):
    """A decoder from the directions of SigLIP features to pixels, for viewing; no score uses it."""

    def __init__(self, width: int, tokens: int, size: int, channels: int = 96):
        super().__init__()
        self.config = {"width": width, "tokens": tokens, "size": size, "channels": channels}
        side = math.isqrt(tokens)
        self.body = nn.Sequential(
            nn.Unflatten(2, (side, side)),  # (images, width, side, side)
            nn.Conv2d(width, channels, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(channels, 3 * (size // side) ** 2, 1),
            nn.PixelShuffle(size // side),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (images, tokens, width) to pixels (images, 3, size, size), about -1 to 1."""
        return self.body(directions(features).transpose(1, 2))

    @classmethod
    def load(cls, name: str, encoder: str) -> "FeatureDecoder":
        """Load a frozen decoder by shipped name or local folder.

        ValueError when it was trained on the features of another encoder than `encoder`.
        """
        config = companion_config(name, encoder)
        with refusing(name, "a decoder of features"):
            network = cls(**config)
        return load_into(network, resolve(name))

    @torch.no_grad()
    def decode(self, features: np.ndarray) -> np.ndarray:
        """Decode features (images, tokens, width) to uint8 images (images, size, size, 3)."""
        parts = torch.from_numpy(np.ascontiguousarray(features, np.float32)).split(IMAGES_A_CALL)
        return to_images(torch.cat([self(part) for part in parts]))


# one per kind in `kinds.KINDS`
ENCODERS = {"VQ": VQEncoder, "SigLIP": SiglipEncoder, "Latent": LatentEncoder}


def load_encoder(kind: str, spec) -> VQEncoder | SiglipEncoder:
    """Load the encoder of a kind, such as "VQ", from the network that the spec names."""
    return ENCODERS[kind].load(getattr(spec.model, KINDS[kind].network))


def vectors(encoder: VQEncoder | SiglipEncoder, outputs: np.ndarray) -> np.ndarray:
    """Return encoder outputs as float32 (images, tokens, width): codes become codebook rows."""
    return encoder.codebook.cpu().numpy()[outputs.astype(np.int64)] if encoder.codes else outputs


def cached_features(
    encoder: VQEncoder | SiglipEncoder,
    images_name: str,
    count: int,
    images: Callable[[int, int], np.ndarray],
) -> np.ndarray:
    """Return the encoder's outputs for `count` images as a read-only memory map.

    The first call computes them. The file is named after the images and the encoder's fingerprint,
    so the outputs of another encoder are never read.

    Args:
        images_name: identifies the images, e.g. "watches-1-train-0-64px".
        images: called with `start` and `stop`, returns images `start` .. `stop - 1` as uint8.

    Returns: codes (count, tokens) uint16 or features (count, tokens, width) float32. ValueError
    when the cache cannot be written, or when a file in it is broken or has another shape or type.
    """
    folder = cache_folder() / "features"
    path = folder / f"{images_name}-{count}-{encoder.kind}-{fingerprint(encoder.name)[:16]}.npy"
    shape, kind = (
        ((count, encoder.tokens), np.uint16)
        if encoder.codes
        else ((count, encoder.tokens, encoder.width), np.float32)
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # one grid worker computes, the others wait
            if not path.exists():
                _compute_features(encoder, path, shape, kind, images)
    except OSError as error:
        raise ValueError(
            f"The feature cache {folder} cannot be written "
            f"({error.strerror or error}); free space there or set UVLM_CACHE to "
            f"another folder."
        ) from None
    try:
        table = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # numpy parses the header as Python, so garbage can raise any error
        raise ValueError(
            f"{path} is not a whole feature cache; delete it and it will be computed again."
        ) from None
    if table.shape != shape or table.dtype != kind:
        raise ValueError(
            f"{path} holds {table.dtype} {table.shape}, but this encoder gives "
            f"{np.dtype(kind)} {shape}; delete it and it will be computed again."
        )
    return table


def _compute_features(encoder, path: Path, shape, kind, images, chunk: int = 1024) -> None:
    partial = path.with_suffix(".partial")
    size, free = math.prod(shape) * np.dtype(kind).itemsize, shutil.disk_usage(path.parent).free
    if size > free:  # fail now, not after hours of encoding
        raise OSError(
            errno.ENOSPC, f"{size / 1e9:.2g} GB are needed and {free / 1e9:.2g} GB are free"
        )
    try:
        # a full disk raises an error in a plain write, but kills a process that writes to a map
        with open(partial, "wb") as file:
            header = {
                "descr": np.lib.format.dtype_to_descr(np.dtype(kind)),
                "fortran_order": False,
                "shape": shape,
            }
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, shape[0], chunk):
                outputs = encoder.encode(images(start, min(start + chunk, shape[0])))
                file.write(np.ascontiguousarray(outputs, kind).tobytes())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def describe(encoder: VQEncoder | SiglipEncoder) -> dict:
    """Return an encoder's space for the model's configuration: kind, tokens, width and codes."""
    return {
        "kind": encoder.kind,
        "tokens": encoder.tokens,
        "width": encoder.width,
        "codes": encoder.codes,
    }
