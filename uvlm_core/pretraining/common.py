"""How frozen vision networks are trained, measured and shipped (no section of the paper).

Belongs here: the training loop, the probes and the model card that they share. Not here: the data
of each network (`vq.py`, `siglip.py`, `stamps.py`), the text networks (`text.py`), the command line
(`__main__.py`). Results are exact per seed on one machine. A killed training resumes from its last
checkpoint.
"""

import json
import textwrap
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from uvlm_core.data.attributes import attribute_with, reader_classes
from uvlm_core.data.smart_watch import CARDS_STREAM, WORLD_VERSION, render_batch, sample_watches
from uvlm_core.environment import cache_folder
from uvlm_core.models.readers import class_numbers, partial_credit
from uvlm_core.models.weights import load_checkpoint
from uvlm_core.places import PRETRAINED, write_sha256
from uvlm_core.training.divergence import Guard, odd_weight
from uvlm_core.training.muon import Muon

SIZE = 64  # px: the laptop profile's watches
SEED = 640  # of weights, batches and watches
WATCHES = 30_000  # rendered once and kept in memory
CHECKPOINT_EVERY = 250  # steps
# without native bf16, autocast is many times slower
BF16 = torch.cpu._is_avx512_bf16_supported()
MUON_RATE = 0.01  # of the matrices of SigLIP's layers
# extra weight of a pixel at full local contrast: the hands are thin
CONTRAST_WEIGHT = 4.0
PROBE_WATCHES = 8_000  # watches that a probe is trained on
PROBE_STEPS = 2_500


def train(
    name: str | None,
    task: nn.Module,
    batch_of: Callable[[np.random.Generator], tuple],
    steps: int,
    rate: float,
    muon: Sequence[nn.Parameter] = (),
    seed: int = SEED,
) -> float:
    """Train `task`, whose forward returns the loss, with warm-up and cosine decay to zero.

    The optimiser is AdamW, and Muon for the matrices in `muon`. Each batch has its own generator,
    so a killed training resumes without a difference. Without a name, no checkpoints are written. A
    checkpoint whose weights are not finite is ignored.

    Returns: minutes of training on this machine, over all sessions. ValueError when the loss, the
    gradient or a weight is not finite; nothing is written then.
    """
    checkpoint = cache_folder() / "pretraining" / f"{name}.pt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if muon:
        rest = [
            parameter
            for parameter in task.parameters()
            if not any(parameter is other for other in muon)
        ]
        optimizer = Muon(
            [
                {"params": list(muon), "lr": MUON_RATE, "orthogonal": True},
                {"params": rest, "lr": rate},
            ]
        )
    else:
        optimizer = torch.optim.AdamW(
            task.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01
        )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        steps,
        pct_start=0.03,
        cycle_momentum=False,
    )
    guard = Guard(
        f"The training of {name or 'a probe'}",
        steps,
        {"learning rate": rate} | ({"of matrices": MUON_RATE} if muon else {}),
    )
    first, seconds = 0, 0.0
    state = load_checkpoint(checkpoint) if name and checkpoint.exists() else None
    if state is not None and odd_weight(state["task"]) is None:
        task.load_state_dict(state["task"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first, seconds = state["step"], state["seconds"]
    started, smooth = time.perf_counter() - seconds, None
    task.train()
    bar = trange(first, steps, initial=first, total=steps, desc=name or "probe", mininterval=10)
    for step in bar:
        torch.manual_seed(seed * 1_000_000 + step)
        loss = task(*batch_of(np.random.default_rng([seed, step])), step=step)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        guard.check_step(step + 1, loss.item(), norm.item())
        optimizer.step()
        schedule.step()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        due = (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps
        if due:
            guard.check_weights(step + 1, task.state_dict())
        if due and name:
            state = {
                "task": task.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "step": step + 1,
                "seconds": time.perf_counter() - started,
            }
            torch.save(state, checkpoint.with_suffix(".partial"))
            checkpoint.with_suffix(".partial").replace(checkpoint)
    task.eval()
    return (time.perf_counter() - started) / 60


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 (images, height, width, 3) to floats in [-1, 1], (images, 3, height, width)."""
    # contiguous: convolutions are twice as fast when channels come first in memory too
    return images.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def drawing_loss(drawn: Tensor, pixels: Tensor) -> Tensor:
    """Return L1 + L2 of pixels (images, 3, height, width), weighted by local contrast.

    The weight of a pixel is 1 + `CONTRAST_WEIGHT` x local contrast.
    """
    error = (drawn - pixels).abs()
    contrast = (
        (pixels - F.avg_pool2d(pixels, 5, 1, 2, count_include_pad=False))
        .abs()
        .mean(1, keepdim=True)
    )
    return ((1 + CONTRAST_WEIGHT * contrast) * (error + error**2)).mean()


def pixel_error(drawn: np.ndarray, images: np.ndarray) -> float:
    """Return the mean absolute difference, 0 to 1, of uint8 images (images, height, width, 3)."""
    return float(np.abs(drawn.astype(np.float32) - images).mean() / 255)


class ReadingTask(nn.Module):
    """Cross-entropy of every attribute, with soft targets for minute, second and battery level."""

    def __init__(
        self, network: nn.Module, prepare: Callable[[Tensor], Tensor] = lambda inputs: inputs
    ):
        super().__init__()
        self.network, self.prepare = network, prepare
        self.targets = {name: _soft_targets(name) for name in reader_classes()}

    def forward(self, inputs: Tensor, labels: Tensor, step: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            logits = self.network(self.prepare(inputs))
        return sum(
            F.cross_entropy(logits[name].float(), self.targets[name][labels[:, column]])
            for column, name in enumerate(reader_classes())
        )


def _soft_targets(name: str, spread: float = 0.7) -> Tensor:
    """Return targets (classes, classes); row k is the target of class k."""
    classes = torch.arange(len(reader_classes()[name]))
    # only minutes, seconds and battery levels have neighbours that look alike
    if len(classes) <= 12:
        return torch.eye(len(classes))
    distance = attribute_with(name).distance(name, classes[:, None], classes[None])
    return F.normalize(torch.exp(-0.5 * (distance / spread) ** 2), p=1, dim=1)


class Probe(nn.Module):
    """A probe: convolutions or a hidden layer over an encoder's outputs, then linear heads."""

    def __init__(self, *body: nn.Module, width: int):
        super().__init__()
        self.body = nn.Sequential(*body)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, len(classes)) for name, classes in reader_classes().items()}
        )

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        hidden = self.body(inputs)  # (images, width)
        return {name: head(hidden) for name, head in self.heads.items()}


class Grid(nn.Module):
    """A layer from tokens (images, side * side, width) to a grid (images, width, side, side)."""

    def forward(self, tokens: Tensor) -> Tensor:
        side = round(tokens.shape[1] ** 0.5)
        return tokens.transpose(1, 2).unflatten(2, (side, side)).contiguous()


@torch.no_grad()
def read_table(title: str, network: nn.Module, inputs: Tensor, labels: Tensor) -> str:
    """Return rows of a card's table: a reading network's partial credit and exact matches."""
    network.eval()
    chosen = [
        {name: logits.argmax(1) for name, logits in network(part).items()}
        for part in inputs.split(250)
    ]
    partial, exact = [], []
    for column, name in enumerate(reader_classes()):
        values = torch.cat([part[name] for part in chosen])
        partial.append(f"{partial_credit(name, values, labels[:, column]).mean():.3f}")
        exact.append(f"{(values == labels[:, column]).float().mean():.3f}")
    rows = (("partial credit", partial), ("exact", exact))
    return "\n".join(
        f"| {title}, {kind} | {len(labels)} | {' | '.join(values)} |" for kind, values in rows
    )


TABLE_HEAD = (
    f"| what is read | images | {' | '.join(reader_classes())} |\n"
    f"|{' --- |' * (2 + len(reader_classes()))}"
)


def ship(
    name: str,
    network: nn.Module,
    config: dict,
    card: str,
    minutes: float,
    data: str = f"Watches of world version {WORLD_VERSION}, {SIZE} px.",
) -> None:
    """Write configuration, weights, card and checksums to `pretrained/<name>`; drop the checkpoint.

    The model card consists of `card`, the cost of training, and `data`, a sentence on the source of
    the pictures. ValueError for weights that are not finite; nothing is written then.
    """
    odd = odd_weight(network.state_dict())
    if odd is not None:
        raise ValueError(
            f"The network {name} is not written, because its weight {odd} is not finite."
        )
    folder = PRETRAINED / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    save_file(
        {key: value.contiguous() for key, value in network.state_dict().items()},
        folder / "model.safetensors",
    )
    parameters = sum(value.numel() for value in network.parameters())
    cost = (
        f"Made by `python -m uvlm_core.pretraining {name}` (seed {SEED}): {parameters:,} "
        f"parameters, {minutes:.0f} minutes on one thread of an {'AVX-512' if BF16 else 'x86'} "
        f"CPU{' with bf16 autocast' if BF16 else ''}; weights are float32. {data}"
    )
    paragraphs = [
        part if part.startswith("|") else textwrap.fill(part, 118, break_on_hyphens=False)
        for part in f"{card.strip()}\n\n{cost}".split("\n\n")
    ]
    (folder / "README.md").write_text("\n\n".join(paragraphs) + "\n")
    write_sha256(folder)
    (cache_folder() / "pretraining" / f"{name}.pt").unlink(missing_ok=True)


def held_out_watches(count: int = 1000) -> tuple[Tensor, Tensor]:
    """Return held-out images, uint8 (count, 64, 64, 3), and their class numbers (count, parts)."""
    watches = sample_watches(CARDS_STREAM, count, "test")
    return torch.from_numpy(render_batch(watches, SIZE)), class_numbers(watches)


def train_probe(probe: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """Train a probe on an encoder's outputs."""

    def batch(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        rows = rng.integers(len(inputs), size=64)
        return inputs[rows], labels[rows]

    train(None, ReadingTask(probe), batch, PROBE_STEPS, 2e-3)
