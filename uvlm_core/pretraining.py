"""How frozen networks are trained, measured and shipped: `python -m uvlm_core.pretraining vq` (or `make encoders`).

Belongs here: the training loop, the probes and the model card that all of them share, and the command line. Not here:
what each network is trained on (`vq_`, `siglip_`, `text_` and `stamps_pretraining.py`). Everything is exact per seed on
one machine; a killed training continues from its last checkpoint.
"""

import argparse
import json
import sys
import textwrap
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from uvlm_core.divergence import Guard, odd_weight
from uvlm_core.environment import cache_folder
from uvlm_core.muon import Muon
from uvlm_core.reader import CLASSES, labels_of, partial_credit
from uvlm_core.smart_watch import WORLD_VERSION, render_batch, sample_watches
from uvlm_core.weights import PRETRAINED, load_checkpoint, write_sha256

SIZE = 64  # px: the laptop profile's watches
SEED = 640  # of weights, batches and watches
TEST_SEED = 641  # of the held-out watches (split "test") on which the cards' numbers are measured
WATCHES = 30_000  # rendered once and kept in memory
CHECKPOINT_EVERY = 250  # steps
BF16 = torch.cpu._is_avx512_bf16_supported()  # without native bf16, autocast would be many times slower, not faster
MUON_RATE = 0.01  # of the matrices of SigLIP's layers
CONTRAST_WEIGHT = 4.0  # how much more a pixel of full local contrast weighs than a flat one: the hands are thin
PROBED = 8_000  # watches a probe learns from
PROBE_STEPS = 2_500


def train(name: str | None, task: nn.Module, batch_of: Callable[[np.random.Generator], tuple], steps: int, rate: float,
          muon: Sequence[nn.Parameter] = (), seed: int = SEED) -> float:
    """Train `task` (its forward gives the loss) with AdamW (`muon` with Muon), warm-up and cosine decay to zero.

    Batch number `step` is drawn from its own generator, so a training that was killed continues as if it had not been;
    without a name no checkpoints are written. One whose weights are not finite is passed over.

    Returns: minutes of training on this machine, all sessions together. ValueError ends a training
    whose loss, gradient or weights are not finite; nothing of it is written.
    """
    checkpoint = cache_folder() / "pretraining" / f"{name}.pt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if muon:
        rest = [parameter for parameter in task.parameters() if not any(parameter is other for other in muon)]
        optimizer = Muon([{"params": list(muon), "lr": MUON_RATE, "orthogonal": True}, {"params": rest, "lr": rate}])
    else:
        optimizer = torch.optim.AdamW(task.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], steps, pct_start=0.03, cycle_momentum=False)
    guard = Guard(f"The training of {name or 'a probe'}", steps,
                  {"learning rate": rate} | ({"of matrices": MUON_RATE} if muon else {}))
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
            state = {"task": task.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
                     "step": step + 1, "seconds": time.perf_counter() - started}
            torch.save(state, checkpoint.with_suffix(".partial"))
            checkpoint.with_suffix(".partial").replace(checkpoint)
    task.eval()
    return (time.perf_counter() - started) / 60


def to_float(images: Tensor) -> Tensor:
    """uint8 (images, height, width, 3) to [-1, 1], (images, 3, height, width)."""
    return images.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1  # channels first in memory too: twice as fast


def drawing_loss(drawn: Tensor, pixels: Tensor) -> Tensor:
    """L1 + L2 of pixels (images, 3, height, width), weighted by 1 + `CONTRAST_WEIGHT` x local contrast."""
    error = (drawn - pixels).abs()
    contrast = (pixels - F.avg_pool2d(pixels, 5, 1, 2, count_include_pad=False)).abs().mean(1, keepdim=True)
    return ((1 + CONTRAST_WEIGHT * contrast) * (error + error**2)).mean()


def pixel_error(drawn: np.ndarray, images: np.ndarray) -> float:
    """Mean absolute difference of two sets of images, uint8 (images, height, width, 3), on a scale of 1."""
    return float(np.abs(drawn.astype(np.float32) - images).mean() / 255)


class ReadingTask(nn.Module):
    """Cross-entropy of every attribute; of numbers, against a target that gives their neighbours a share."""

    def __init__(self, network: nn.Module, prepare: Callable[[Tensor], Tensor] = lambda inputs: inputs):
        super().__init__()
        self.network, self.prepare = network, prepare
        self.targets = {name: _soft_targets(name) for name in CLASSES}

    def forward(self, inputs: Tensor, labels: Tensor, step: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            logits = self.network(self.prepare(inputs))
        return sum(F.cross_entropy(logits[name].float(), self.targets[name][labels[:, column]])
                   for column, name in enumerate(CLASSES))


def _soft_targets(name: str, spread: float = 0.7) -> Tensor:
    """Row k is the target of class k: (classes, classes)."""
    count = len(CLASSES[name])
    if name not in ("minute", "second", "battery"):
        return torch.eye(count)
    distance = (torch.arange(count)[:, None] - torch.arange(count)[None]).abs()
    distance = distance if name == "battery" else torch.minimum(distance, count - distance)
    return F.normalize(torch.exp(-0.5 * (distance / spread) ** 2), p=1, dim=1)


class Probe(nn.Module):
    """What a small network can read: convolutions or a hidden layer over an encoder's outputs, then linear heads."""

    def __init__(self, *body: nn.Module, width: int):
        super().__init__()
        self.body = nn.Sequential(*body)
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(classes)) for name, classes in CLASSES.items()})

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        hidden = self.body(inputs)  # (images, width)
        return {name: head(hidden) for name, head in self.heads.items()}


class Grid(nn.Module):
    """Tokens (images, side * side, width) to a grid (images, width, side, side)."""

    def forward(self, tokens: Tensor) -> Tensor:
        side = round(tokens.shape[1] ** 0.5)
        return tokens.transpose(1, 2).unflatten(2, (side, side)).contiguous()


@torch.no_grad()
def read_table(title: str, network: nn.Module, inputs: Tensor, labels: Tensor) -> str:
    """Rows of a card's table: per attribute partial credit and exact matches of a network that reads `inputs`."""
    network.eval()
    chosen = [{name: logits.argmax(1) for name, logits in network(part).items()} for part in inputs.split(250)]
    partial, exact = [], []
    for column, name in enumerate(CLASSES):
        values = torch.cat([part[name] for part in chosen])
        partial.append(f"{partial_credit(name, values, labels[:, column]).mean():.3f}")
        exact.append(f"{(values == labels[:, column]).float().mean():.3f}")
    rows = (("partial credit", partial), ("exact", exact))
    return "\n".join(f"| {title}, {kind} | {len(labels)} | {' | '.join(values)} |" for kind, values in rows)


TABLE_HEAD = f"| what is read | images | {' | '.join(CLASSES)} |\n|{' --- |' * (2 + len(CLASSES))}"


def ship(name: str, network: nn.Module, config: dict, card: str, minutes: float,
         data: str = f"Watches of world version {WORLD_VERSION}, {SIZE} px.") -> None:
    """Write configuration, weights, model card and sums into `pretrained/<name>`, and drop the checkpoint.

    The card is `card`, what the training cost, and `data`, a sentence on where its pictures come from.
    ValueError for weights that are not finite, of which nothing is written.
    """
    odd = odd_weight(network.state_dict())
    if odd is not None:
        raise ValueError(f"The network {name} is not written, because its weight {odd} is not "
                         "finite.")
    folder = PRETRAINED / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, folder / "model.safetensors")
    parameters = sum(value.numel() for value in network.parameters())
    cost = (f"Made by `python -m uvlm_core.pretraining {name}` (seed {SEED}): {parameters:,} parameters, {minutes:.0f} "
            f"minutes on one thread of an {'AVX-512' if BF16 else 'x86'} CPU{' with bf16 autocast' if BF16 else ''}; "
            f"weights are float32. {data}")
    paragraphs = [part if part.startswith("|") else textwrap.fill(part, 118, break_on_hyphens=False)
                  for part in f"{card.strip()}\n\n{cost}".split("\n\n")]
    (folder / "README.md").write_text("\n\n".join(paragraphs) + "\n")
    write_sha256(folder)
    (cache_folder() / "pretraining" / f"{name}.pt").unlink(missing_ok=True)


def held_out_watches(count: int = 1000) -> tuple[Tensor, Tensor]:
    """Held-out images, uint8 (count, 64, 64, 3), and their labels."""
    watches = sample_watches(TEST_SEED, count, "test")
    return torch.from_numpy(render_batch(watches, SIZE)), labels_of(watches)


def train_probe(probe: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """Train a probe on an encoder's outputs."""

    def batch(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        rows = rng.integers(len(inputs), size=64)
        return inputs[rows], labels[rows]

    train(None, ReadingTask(probe), batch, PROBE_STEPS, 2e-3)


def main(arguments: list[str] | None = None) -> int:
    """Train the networks named on the command line.

    Missing stamps and a training that diverges are one sentence and exit code 2.
    """
    from uvlm_core import siglip_pretraining as siglip  # they import this module
    from uvlm_core import stamps_pretraining as stamps
    from uvlm_core import text_pretraining as text
    from uvlm_core import vq_pretraining as vq

    networks = {"tokenizer": text.build_tokenizer, "language_model": text.build_language_model,  # in order of need
                "vq": vq.train_vq, "reader": vq.train_reader, "siglip": siglip.train_siglip,
                "siglip_decoder": siglip.train_decoder, "siglip_reader": siglip.train_feature_reader,
                "stamps_vq": stamps.train_stamps_vq, "stamps_siglip": stamps.train_stamps_siglip,
                "stamps_siglip_decoder": stamps.train_stamps_decoder}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=[*networks, "all"])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    wanted = list(networks) if options.network == "all" else [options.network]
    if not (cache_folder() / "stamps").is_dir():
        if options.network.startswith("stamps_"):
            print(f"{options.network} is trained on Tux Paint's stamps, which are not in the cache {cache_folder()}; "
                  "run `make stamps` first.", file=sys.stderr)
            return 2
        without = [name for name in wanted if name.startswith("stamps_")]
        if without:
            print(f"Left out, because the stamps are not there (`make stamps` brings them): {', '.join(without)}.")
        wanted = [name for name in wanted if name not in without]
    try:
        for name in wanted:
            networks[name]()
    except (ValueError, OSError) as error:  # a disk that is full, say
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
