"""The training of many runs at once, as one stack of models (no section of the paper).

Belongs here: which runs can be stacked, the steps of a stack, and its training. Not here: the
models (`models/stack.py`), one run by itself (`loop.py`), where stacks are carried out
(`runs/backends.py`).

Stacked runs have the same number of rows of each kind in every step. They may differ in the seed,
the rows, their order, the weight of the image loss and the random draws of a distortion. Each is
trained as if it were alone, up to rounding.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from uvlm_core.data.tokens import IGNORED, image_rows, joins
from uvlm_core.models.stack import StackedVLM
from uvlm_core.places import reason
from uvlm_core.training.divergence import Guard
from uvlm_core.training.loop import (
    LM_WEIGHTS,
    LOGGED,
    Steps,
    check_scores,
    make_optimizer,
    marks_of,
    rates_of,
    writing,
)
from uvlm_core.training.spec import DEFAULTS, RunSpec
from uvlm_core.training.stages import KINDS_OF_ROWS, rate_factor

CHECKPOINT = "stack.pt"
_FREE = ("seed", "image_loss_weight", "feature_loss_weight")  # may differ within a stack


def stack_key(spec) -> tuple | None:
    """Return what runs of one stack have in common; None for a run that cannot be stacked."""
    if not isinstance(spec, RunSpec) or spec.data.pictures:
        return None
    training, data = spec.training, spec.data
    if training.tuning == "lora" or training.precision != "fp32" or training.padding_image:
        return None
    if spec.scoring.gradient_rows:  # an optimiser step is undone for each model alone
        return None
    families = [
        # the dose of this family is the width of the result
        replace(each, dose=each.dose if each.family == "width" else 1.0)
        for each in spec.model.distortions
    ]
    return (
        spec.vary(**{name: DEFAULTS[name] for name in _FREE}).training,
        replace(spec.model, distortions=tuple(families)),
        spec.scoring,
        (data.world, data.image_size, data.images, data.hours, data.edit_requests),
        # what is scored beside the usual
        tuple(bias.attribute for bias in data.biases if bias.tasks != ("generation",)),
        tuple(spec.rows_of_kinds.values()),
        tuple(steps for _, steps in spec.schedule()),
    )


class StackedSteps(Dataset):
    """The optimiser steps of several runs as those of one stack (`StackedVLM.forward`)."""

    def __init__(self, each: Sequence[Steps]):
        self.each = each

    def __len__(self) -> int:
        return self.each[0].spec.steps

    def __getitem__(self, step: int) -> dict:
        kinds = [_by_kind(steps, step) for steps in self.each]
        buckets, places, labels, passed = [], [], [], 0
        for kind in KINDS_OF_ROWS:
            rows = [one[kind] for one in kinds]  # of each model
            # the longest row of each model first, then the second longest, ...
            lengths = [max(len(one.ids) for one, *_ in rank) for rank in zip(*rows, strict=True)]
            for start, stop in _cuts(lengths):
                bucket, told = self._bucket(kind, [some[start:stop] for some in rows])
                models, count, length = told.shape
                told = told[:, :, 1:].reshape(models, -1)
                labels.append(told)
                places.append(np.arange(passed, passed + told.shape[1])[None].repeat(models, 0))
                buckets.append(bucket)
                passed += told.shape[1]
        told, place = np.concatenate(labels, 1), np.concatenate(places, 1)
        # labelled positions first, and as many as the model with the most has
        order = np.argsort(told == IGNORED, 1, kind="stable")[:, : (told != IGNORED).sum(1).max()]
        return {
            "buckets": buckets,
            "text_at": torch.from_numpy(np.take_along_axis(place, order, 1)),
            "text_labels": torch.from_numpy(np.take_along_axis(told, order, 1)),
        }

    def _bucket(self, kind: str, rows: list[list[tuple]]) -> tuple[dict, np.ndarray]:
        """Return a bucket of rows of one kind, and its labels (models, rows, tokens)."""
        first, length = self.each[0], max(len(row.ids) for some in rows for row, *_ in some)
        shape = len(rows), len(rows[0]), length
        ids, labels = np.full(shape, first.processor.pad), np.full(shape, IGNORED)
        for model, some in enumerate(rows):
            for number, (row, *_) in enumerate(some):
                ids[model, number, : len(row.ids)] = row.ids
                labels[model, number, : len(row.ids)] = row.labels
        bucket = {"input_ids": torch.from_numpy(ids).flatten(0, 1)}
        every = [row for some in rows for row, *_ in some]
        if kind == "understanding":
            tables = [(steps.images_in, len(rows[0])) for steps in self.each]
            bucket["images_in"] = _images(tables, [row.image_in for row in every])
        elif kind == "generation":
            tables = [(steps.images_out, len(rows[0])) for steps in self.each]
            bucket["images_out"] = _images(tables, [row.image_out for row in every])
            if every[0].image_in >= 0:  # an edit reads an image as well
                tables = [(steps.images_in, len(rows[0])) for steps in self.each]
                bucket["images_in"] = _images(tables, [row.image_in for row in every])
            _, kept, noise = rows[0][0]
            if kept is not None:
                bucket["read_back"] = torch.tensor([kept for some in rows for _, kept, _ in some])
            if noise is not None:
                each = [noise for some in rows for *_, noise in some]
                bucket["noise"] = torch.from_numpy(np.stack(each))
        return bucket, labels


def _images(tables: list[tuple[np.ndarray, int]], places: list[int]) -> torch.Tensor:
    """Return images of several tables, of each as many as are named beside it."""
    starts = np.cumsum([0, *(count for _, count in tables)])
    return torch.cat(
        [
            image_rows(table, places[start : start + count])
            for start, (table, count) in zip(starts, tables, strict=False)
        ]
    )


def _by_kind(steps: Steps, step: int) -> dict[str, list[tuple]]:
    """Return a step's rows by kind, the longest first.

    With each row: whether its image is read back, and its noise; None if the run has none of it.
    """
    rows = sorted(steps.rows(step), key=lambda row: -len(row.ids))  # as `collate` does
    drawn = [row for row in rows if row.image_out >= 0]
    kept, noise = (
        [None] * len(drawn) if found is None else found
        for found in (steps.read_back(step, len(drawn)), steps.noise(step, len(drawn)))
    )
    return {
        "understanding": [(row, None, None) for row in rows if row.image_in >= 0 > row.image_out],
        "generation": list(zip(drawn, kept, noise, strict=True)),
        "text": [(row, None, None) for row in rows if row.image_in < 0 and row.image_out < 0],
    }


def _cuts(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the buckets of rows of falling lengths, by the rule of `collate`."""
    start = 0
    for number, length in enumerate(lengths):
        if not joins(length, lengths[start], number - start):
            yield start, number
            start = number
    if lengths:
        yield start, len(lengths)


def train_stack(
    model: StackedVLM,
    steps: StackedSteps,
    folder: Path,
    score: Callable[[StackedVLM, bool], list[list[dict]]],
    report: Callable[[float], None] = lambda fraction: None,
) -> list[dict | ValueError]:
    """Train a stack, resuming from a checkpoint in `folder` if there is one.

    `score(model, last)` returns the score rows of every model. Returns for each run what
    `loop.train` returns, or the ValueError that ends it there; the others go on.
    """
    training = _Training(model, steps, Path(folder))
    training.resume()
    for batch in training.batches():
        training.take(batch)
        training.score(score, batch)
        report(training.step / len(steps))
    return training.results()


class _Training:
    """A stack in training: the optimiser, the losses and scores so far, and who diverged."""

    def __init__(self, model: StackedVLM, steps: StackedSteps, folder: Path):
        self.model, self.steps, self.folder = model, steps, folder
        self.spec = steps.each[0].spec
        self.optimizer = make_optimizer(model, self.spec)
        stages, warmup = [count for _, count in steps.each[0].stages], self.spec.training.warmup
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: rate_factor(step, stages, warmup)
        )
        self.guards = [Guard("The run", len(steps), rates_of(one.spec)) for one in steps.each]
        self.marks = marks_of(self.spec)
        self.step, self.losses = 0, []  # losses: one tensor (models,) per step
        self.scores: list[list[dict]] = [[] for _ in steps.each]
        self.failures: dict[int, str] = {}
        self.seconds = {"training": 0.0, "scoring": 0.0}

    def batches(self) -> Iterator[dict]:
        """Yield the remaining steps, made ready by other processes if there is a GPU."""
        device, workers = self.model.device, 0
        if device.type == "cuda":
            workers = max(1, min(12, (os.cpu_count() or 1) - 2))
        rest = torch.utils.data.Subset(self.steps, range(self.step, len(self.steps)))
        for batch in DataLoader(rest, batch_size=None, num_workers=workers):
            yield _moved(batch, device)

    def take(self, batch: dict) -> None:
        """Take one optimiser step."""
        began = time.perf_counter()
        self.model.train()
        losses = self.model(**batch).loss  # (models,)
        losses.sum().backward()
        if self.steps.each[0].freezes(self.step):
            for name, parameter in self.model.named_parameters():
                if re.fullmatch(LM_WEIGHTS, name):
                    parameter.grad = None
        gradients = [one.grad for one in self.model.parameters() if one.grad is not None]
        norms = torch.stack([grad.flatten(1).norm(dim=1) for grad in gradients]).norm(dim=0)
        factors = (1.0 / (norms + 1e-6)).clamp(max=1.0)  # as clip_grad_norm_ does
        for number, (loss, norm) in enumerate(zip(losses.tolist(), norms.tolist(), strict=True)):
            self._attempt(number, self.guards[number].check_step, self.step + 1, loss, norm)
        for grad in gradients:
            grad.mul_(factors.view(-1, *[1] * (grad.ndim - 1)))
            for number in self.failures:
                grad[number] = 0  # its weights no longer matter
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.losses.append(losses.detach())
        self.step += 1
        self.seconds["training"] += time.perf_counter() - began

    def score(self, score: Callable, batch: dict) -> None:
        """Score and save the stack if that is due."""
        if self.step not in self.marks:
            return
        began, last = time.perf_counter(), self.step == len(self.steps)
        for number, guard in enumerate(self.guards):
            state = {name: each[number] for name, each in self.model.named_parameters()}
            self._attempt(number, guard.check_weights, self.step, state)
        if last:  # otherwise the next step computes the loss of these weights
            with torch.no_grad():
                losses = self.model(**batch).loss.tolist()
            for number, (guard, loss) in enumerate(zip(self.guards, losses, strict=True)):
                self._attempt(number, guard.check_end, loss)
        when = f"at step {self.step} of {len(self.steps)}"
        for number, rows in enumerate(score(self.model, last)):
            self._attempt(number, check_scores, rows, when)
            self.scores[number] += [{"fraction": self.marks[self.step]} | row for row in rows]
        self.seconds["scoring"] += time.perf_counter() - began
        self._save()

    def results(self) -> list[dict | ValueError]:
        """Return the outcome of every run."""
        losses = torch.stack(self.losses).cpu().double().numpy()  # (steps, models)
        every = max(1, len(losses) // LOGGED)
        ends = range(every, len(losses) + 1, every)
        share = {name: seconds / self.model.copies for name, seconds in self.seconds.items()}
        return [
            ValueError(self.failures[number])
            if number in self.failures
            else {
                "scores": self.scores[number],
                "times": share,
                "losses": [
                    {"step": end, "loss": float(losses[end - every : end, number].mean())}
                    for end in ends
                ],
            }
            for number in range(self.model.copies)
        ]

    def resume(self) -> None:
        """Go on from the checkpoint in the folder, if there is one; ValueError for a broken one."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location=self.model.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
        except Exception as error:  # torch raises errors of several types for an incomplete file
            raise ValueError(
                f"The runs cannot go on from {path} ({reason(error)}); delete that file, and they "
                "start anew."
            ) from error
        self.step, self.losses = state["step"], list(state["losses"])
        self.scores, self.failures = json.loads(state["scores"]), state["failures"]

    def _save(self) -> None:
        path = self.folder / CHECKPOINT
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            torch.save(
                {
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "schedule": self.schedule.state_dict(),
                    "step": self.step,
                    "losses": torch.stack(self.losses),
                    "scores": json.dumps(self.scores),
                    "failures": self.failures,
                },
                path.with_suffix(".partial"),
            )
            os.replace(path.with_suffix(".partial"), path)

    def _attempt(self, number: int, check: Callable, *arguments) -> None:
        """Note the failure of a run whose check fails; a failed run is not checked again."""
        if number not in self.failures:
            try:
                check(*arguments)
            except ValueError as error:
                self.failures[number] = str(error)


def _moved(batch: dict, device: torch.device) -> dict:
    """Return a step on a device."""
    buckets = [
        {name: tensor.to(device) for name, tensor in bucket.items()} for bucket in batch["buckets"]
    ]
    return {name: tensor.to(device) for name, tensor in batch.items() if name != "buckets"} | {
        "buckets": buckets
    }
