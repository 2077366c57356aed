"""Gradients of the two tasks, and the effect of a step on one of them (no section of the paper).

Belongs here: the tasks' gradients on held-out rows, and optimiser steps on rows of one task, each
undone to the bit. Not here: the training itself (`training/loop.py`), how alike the hidden states
of the two sides are (`alignment.py`).

All runs are measured on rows about the same watches, at each of their fractions. The rows are built
as in the run's training: in a control, requests have other watches' images.
"""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from uvlm_core.data.edits import edited
from uvlm_core.data.smart_watch import TEST_STREAM, Watch, render_batch, sample_watches
from uvlm_core.data.tokens import Processor
from uvlm_core.training.loop import Steps
from uvlm_core.training.pool import training_rows
from uvlm_core.training.spec import RunSpec

STEP_STREAM = 810_000  # seed of the training-split rows of steps that are undone; no pool has them
TRIED_STEPS = 4  # of each kind at each fraction; their mean is the score
_LAYER = re.compile(r".*language_model\..*layers\.(\d+)\.(self_attn|mlp)\.")


class TaskGradients:
    """The measurement of one spec's model: build once, call at each fraction.

    ValueError when several processes share the run, because each would have a part of the rows.
    """

    def __init__(self, spec: RunSpec, processor: Processor, understanding, generation):
        self.samples, batch = spec.scoring.gradient_rows, spec.training.batch_size
        if Steps.processes > 1:
            raise ValueError(
                f"gradient_rows {self.samples} are measured by one process, not by "
                f"{Steps.processes}."
            )
        networks, hours = (processor, understanding, generation), spec.data.hours
        watches = sample_watches(TEST_STREAM, self.samples, "test", hours=hours)
        held_out = steps_of_tasks(spec, networks, watches, TEST_STREAM, self.samples)
        self.held_out = {task: steps[0]["buckets"] for task, steps in held_out.items()}
        watches = sample_watches(STEP_STREAM, TRIED_STEPS * batch, "train", hours=hours)
        tried = steps_of_tasks(spec, networks, watches, STEP_STREAM, batch)
        self.tried: dict[str, list] = {
            task: [steps[number]["buckets"] for number in range(TRIED_STEPS)]
            for task, steps in tried.items()
        }
        self.tried["empty"] = [None]

    def __call__(self, model, last: bool, optimizer: torch.optim.Optimizer) -> list[dict]:
        """Return score rows of a model in training: metric, attribute, value, samples.

        After the `last` step no optimiser step is tried: the learning rate is zero there.
        """
        rows = compare_gradients(
            *(gradient_of(model, self.held_out[task]) for task in ("understanding", "generation"))
        )
        if not last:
            rows += [
                {"metric": "loss_change", "attribute": f"one {kind} step", "value": change}
                for kind, change in self._changes(model, optimizer).items()
            ]
        return [row | {"samples": self.samples} for row in rows]

    def _changes(self, model, optimizer) -> dict[str, float]:
        """Return by how much a step of each kind changes the held-out understanding loss."""
        before, found = self._understanding_loss(model), {}
        for kind, steps in self.tried.items():
            changes = []
            for buckets in steps:
                with undone(model, optimizer):
                    take_step(model, optimizer, buckets)
                    changes.append(self._understanding_loss(model) - before)
            found[kind] = sum(changes) / len(changes)
        return found

    @torch.no_grad()
    def _understanding_loss(self, model) -> float:
        model.eval()
        return float(_loss(model, self.held_out["understanding"]))


def steps_of_tasks(
    spec: RunSpec, networks: tuple, watches: list[Watch], seed: int, batch_size: int
) -> dict[str, Steps]:
    """Return steps of `batch_size` rows of each task alone, about watches, made as the run's are.

    Questions and captions come in the run's proportion. Args:
        networks: processor, understanding encoder, generation encoder.
        seed: of questions, wording and order, in place of the run's.
    """
    (processor, understanding, generation), data = networks, spec.data
    drawn = watches
    if data.edit_requests:
        drawn = [edited(watch, number)[1] for number, watch in enumerate(watches)]
    tables = [
        encoder.encode(render_batch(some, data.image_size))
        for encoder, some in ((understanding, watches), (generation, drawn))
    ]
    count, asked = len(watches), data.vqa_examples + data.caption_examples
    captions = round(count * data.caption_examples / max(1, asked))
    none = dict.fromkeys(
        ("vqa_examples", "caption_examples", "generation_examples", "text_examples"), 0
    )
    found = {}
    for task, own in (
        ("understanding", {"vqa_examples": count - captions, "caption_examples": captions}),
        ("generation", {"generation_examples": count}),
    ):
        alone = spec.vary(
            **none | own,
            images=count,
            seed=seed,
            stages=(),
            batch_size=batch_size,
            batch_counts="all",
            padding_image=False,
        )
        found[task] = Steps(alone, processor, *training_rows(alone, processor, watches), *tables)
    return found


def _loss(model, buckets: list[dict]) -> torch.Tensor:
    """Return the loss of a step as training weighs it."""
    return model(
        buckets=[
            {name: tensor.to(model.device) for name, tensor in bucket.items()} for bucket in buckets
        ]
    ).loss


def gradient_of(model: torch.nn.Module, buckets: list[dict]) -> dict[str, torch.Tensor]:
    """Return the gradient of a step's loss by parameter, of those that it reaches.

    `buckets` are those of `tokens.collate`. The model's own gradients stay as they are.
    """
    model.train()
    with torch.random.fork_rng():
        learned = {name: one for name, one in model.named_parameters() if one.requires_grad}
        found = torch.autograd.grad(
            _loss(model, buckets), list(learned.values()), allow_unused=True
        )
    return {
        name: gradient
        for name, gradient in zip(learned, found, strict=True)
        if gradient is not None and gradient.any()
    }


def part_of(parameter: str) -> str:
    """Return the part of a model that a parameter belongs to, "" for other than these.

    "layer 1, attention", "layer 1, MLP" and so on of the LM, "embeddings" (of tokens, at its input
    and its output) and "adapter".
    """
    layer = _LAYER.match(parameter)
    if layer:
        kind = "attention" if layer[2] == "self_attn" else "MLP"
        return f"layer {int(layer[1]) + 1}, {kind}"
    if re.search(r"embed_tokens|lm_head", parameter):
        return "embeddings"
    return "adapter" if re.search(r"(understanding|generation)_adapter", parameter) else ""


def compare_gradients(
    understanding: dict[str, torch.Tensor], generation: dict[str, torch.Tensor]
) -> list[dict]:
    """Return the cosine of two gradients and the ratio of their lengths, by part and of "all".

    The ratio is generation over understanding. Only parameters that both reach count. A part
    without any has no row.
    """
    shared = [name for name in understanding if name in generation]
    parts = {"all": shared}
    for name in shared:
        if part_of(name):
            parts.setdefault(part_of(name), []).append(name)
    rows = []
    for part, names in parts.items():
        one, other = (
            torch.cat([gradient[name].flatten().double() for name in names])
            for gradient in (understanding, generation)
        )
        lengths = one.norm(), other.norm()
        for metric, value in (
            ("gradient_cosine", one @ other / (lengths[0] * lengths[1])),
            ("gradient_ratio", lengths[1] / lengths[0]),
        ):
            rows.append({"metric": metric, "attribute": part, "value": float(value)})
    return rows


def take_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, buckets: list[dict] | None
) -> None:
    """Take one optimiser step on rows, clipped as in training, at the present learning rate.

    Without rows (None) the gradient is zero, and the momenta alone move the model. So it is where
    the rows do not reach a parameter, as if a step of both tasks had these rows alone.
    """
    model.train()
    if buckets is not None:
        _loss(model, buckets).backward()
    learned = [one for one in model.parameters() if one.requires_grad]
    for parameter in learned:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    torch.nn.utils.clip_grad_norm_(learned, 1.0)
    optimizer.step()


@contextmanager
def undone(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Undo to the bit what happens inside to weights, optimiser state and random state.

    Gradients are cleared, as they are after a step of the training.
    """
    learned = [one for one in model.parameters() if one.requires_grad]
    weights = [one.detach().clone() for one in learned]
    state = copy.deepcopy(optimizer.state_dict())
    with torch.random.fork_rng():
        yield
    with torch.no_grad():
        for parameter, weight in zip(learned, weights, strict=True):
            parameter.copy_(weight)
            parameter.grad = None
    optimizer.load_state_dict(state)
