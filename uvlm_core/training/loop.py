"""The training of a run: steps, optimiser, learning curve, checkpoints (paper section 3).

Belongs here: everything from the untrained networks to the trained model. Not here: the networks
(`networks.py`), the rows (`pool.py`), the scores (`scoring/`, called by `runs/carry_out.py`), the
record (`runs/store.py`).

Arms are comparable by construction (common random numbers). A step takes understanding rows and, in
proportion, generation rows. Two arms of one seed share initial weights, understanding rows and
their order. A single-task arm only leaves out the other task's rows. If `batch_counts` names a
task, it therefore sees each row at the same step as the unified arm.
"""

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import reduce
from safetensors import SafetensorError
from torch.utils.data import Dataset, SequentialSampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from uvlm_core import environment
from uvlm_core.data.tokens import IGNORED, Processor, Row, collate
from uvlm_core.files import read_json
from uvlm_core.models.heads import SAMPLERS
from uvlm_core.models.weights import load_state
from uvlm_core.places import reason
from uvlm_core.training.divergence import Guard, odd_weight
from uvlm_core.training.muon import Muon
from uvlm_core.training.networks import networks, tune
from uvlm_core.training.pool import all_rows, pool_features, training_pool
from uvlm_core.training.spec import RunSpec
from uvlm_core.training.stages import KINDS_OF_ROWS, order_of_rows, rate_factor, warmup_steps

LM_MATRICES = r".*language_model\.model\.layers\..*(proj|lora_[AB]\.\w+)\.weight"
LM_WEIGHTS = r".*language_model\..*"
# the last file of a checkpoint: one without it is incomplete and is not resumed
DONE = "complete"
LOGGED = 50  # losses in a record


def prepare(spec: RunSpec):
    """Build everything that a run starts from.

    Returns: (model, processor, training steps, understanding encoder, generation encoder).
    """
    model, processor, understanding, generation = networks(spec)
    model = tune(model, spec)
    steps = training_steps(spec, processor, understanding, generation)
    return model, processor, steps, understanding, generation


def training_steps(
    spec: RunSpec, processor: Processor, understanding, generation, rows: tuple = ()
) -> "Steps":
    """Build the steps of a run, and encode its images unless they are in the cache.

    `rows` are those of `pool.all_rows`, if they are there already.
    """
    pool = training_pool(spec)
    images_in = images_out = None
    if spec.understands:
        images_in = pool_features(understanding, pool.side("understanding"))
    if spec.generates or spec.training.padding_image:
        images_out = pool_features(generation, pool.side("generation"))
    asked, requested, texts = rows or all_rows(spec, processor)
    return Steps(spec, processor, asked, requested, images_in, images_out, texts)


class Steps(Dataset):
    """The optimiser steps as a dataset: understanding rows and, in proportion, generation rows.

    Several processes split the rows of a step: each gets one item, and a step's items are
    consecutive. An item also holds its share of the step's labelled positions, so the mean over
    processes equals the loss of the step.
    """

    processes = environment.processes()[0]

    def __init__(
        self,
        spec: RunSpec,
        processor: Processor,
        understanding: list[Row],
        generation: list[Row],
        images_in: np.ndarray | None,
        images_out: np.ndarray | None,
        texts: Sequence[Row] = (),
    ):
        self.spec, self.processor = spec, processor
        self.understanding, self.generation, self.texts = understanding, generation, texts
        self.stages = spec.schedule()
        self.orders = self._orders()
        self.images_in, self.images_out = images_in, images_out

        if min(len(self.rows(step)) for step in range(spec.steps)) < self.processes:
            raise ValueError(
                f"batch_size {spec.training.batch_size} leaves some of "
                f"{self.processes} processes without a row."
            )
        if spec.training.tuning == "frozen" and any(
            row.image_in < 0 and row.image_out < 0
            for step in range(spec.steps)
            for row in self.rows(step)[:1]
        ):
            raise ValueError(
                "With tuning 'frozen' a step of text rows alone trains nothing, and some steps "
                "have no other rows; give the run more rows with images."
            )

    def __len__(self) -> int:
        return self.spec.steps * self.processes

    def rows(self, step: int) -> list[Row]:
        """Return the rows of a step."""
        stage, step = self._stage_of(step)
        count = self.stages[stage][1]
        every = (self.understanding, self.generation, self.texts)
        return [
            rows[place]
            for rows, order in zip(every, self.orders[stage].values(), strict=True)
            for place in order[len(order) * step // count : len(order) * (step + 1) // count]
        ]

    def _stage_of(self, step: int) -> tuple[int, int]:
        """Return the number of the stage that a step is in, and the step's number in the stage."""
        ends = np.cumsum([count for _, count in self.stages])
        stage = int(np.searchsorted(ends, step, side="right"))
        return stage, step - int(ends[stage - 1] if stage else 0)

    def _orders(self) -> list[dict[str, np.ndarray]]:
        """Return for each stage the positions of its rows in their order, by kind of row."""
        every = (self.understanding, self.generation, self.texts)
        rows = dict(zip(KINDS_OF_ROWS, map(len, every), strict=True))
        passed, orders = dict.fromkeys(KINDS_OF_ROWS, 0), []
        for stage, _ in self.stages:
            order = {}
            for kind, wanted in stage.seen(rows).items():
                order[kind] = order_of_rows(
                    rows[kind], wanted, passed[kind], self.spec.training.seed, kind
                )
                passed[kind] += wanted
            orders.append(order)
        return orders

    def freezes(self, step: int) -> bool:
        """Return whether the language model keeps its weights at a step."""
        return self.stages[self._stage_of(step)[0]][0].freeze

    def __getitem__(self, item: int) -> dict:
        step, process = divmod(item, self.processes)
        rows = self.rows(step)
        own = rows[process :: self.processes]
        inputs = {"buckets": collate(own, self.images_in, self.images_out, self.processor.pad)}
        if self.processes > 1:
            inputs |= {
                f"{kind}_share": self.processes * count(own) / max(1, count(rows))
                for kind, count in (("text", _labelled), ("image", self._drawn))
            }
        drawing = [bucket for bucket in inputs["buckets"] if "images_out" in bucket]
        ends = np.cumsum([len(bucket["images_out"]) for bucket in drawing])
        count = int(ends[-1]) if drawing else 0
        # (images,) and (images, tokens, noises, width + 1)
        for name, draw in (("read_back", self.read_back), ("noise", self.noise)):
            values = draw(item, count)
            if values is not None:
                for bucket, some in zip(drawing, np.split(values, ends[:-1]), strict=True):
                    bucket[name] = torch.from_numpy(some)
        if self.spec.training.padding_image:
            blank = np.zeros_like(self.images_out[:1])  # (1, tokens) or (1, tokens, width)
            (inputs["padding"],) = collate(
                [self.processor.padding_row()], None, blank, self.processor.pad
            )
        return inputs

    def read_back(self, item: int, count: int) -> np.ndarray | None:
        """Return which of an item's generated images the LM reads back, (images,) bool.

        The images are in the order of `collate`. None if it reads all of them (`feature_dropout`).
        """
        dropout = self.spec.training.feature_dropout
        if not (dropout and count and self.images_out.ndim == 3):
            return None
        return np.random.default_rng([self.spec.training.seed, 4, item]).random(count) >= dropout

    def noise(self, item: int, count: int) -> np.ndarray | None:
        """Return the noise of an item's generated images (`heads.SAMPLERS`), in the order above.

        Standard normal, float32 (images, tokens, noises, width + 1). None for losses without noise.
        """
        head = SAMPLERS.get(self.spec.training.feature_loss)
        if not (head and count and self.images_out.ndim == 3):
            return None
        _, tokens, width = self.images_out.shape
        rng = np.random.default_rng([self.spec.training.seed, 5, item])
        return rng.standard_normal((count, tokens, head.noises, width + 1), np.float32)

    def _drawn(self, rows: list[Row]) -> int:
        return sum(int((row.ids == self.processor.image_out).sum()) for row in rows)


def _labelled(rows: list[Row]) -> int:
    return sum(int((row.labels[1:] != IGNORED).sum()) for row in rows)


def make_optimizer(model: torch.nn.Module, spec: RunSpec) -> torch.optim.Optimizer:
    """Build the optimiser with two groups: the LM (with Muon only its matrices), and the rest.

    The rest has the learning rate `adapter_learning_rate`.
    """
    trainable = [
        (name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad
    ]
    pattern = re.compile(LM_MATRICES if spec.training.optimizer == "muon" else LM_WEIGHTS)
    first = [parameter for name, parameter in trainable if pattern.fullmatch(name)]
    rest = [parameter for name, parameter in trainable if not pattern.fullmatch(name)]
    groups = [
        {"params": first, "lr": spec.training.learning_rate},
        {"params": rest, "lr": spec.training.adapter_learning_rate},
    ]
    groups = [
        group | {"weight_decay": spec.training.weight_decay} for group in groups if group["params"]
    ]
    if spec.training.optimizer == "adamw":
        return torch.optim.AdamW(groups)  # with its defaults, as in the authors' Trainer
    groups[0]["orthogonal"] = bool(first)
    return Muon(groups, spec.training.momentum)


def rates_of(spec: RunSpec) -> dict[str, float]:
    """Return the learning rates of a run by name."""
    names = "learning_rate", "adapter_learning_rate"
    return {name: getattr(spec.training, name) for name in names}


class LearningCurve(TrainerCallback):
    """Scores the model and saves a checkpoint at each of the spec's fractions of the training.

    The scores so far are stored beside the checkpoints, keyed by step. A resumed run overwrites
    them with the same scores. Weights that are not finite are neither scored nor saved: they end
    every process of the run.
    """

    def __init__(
        self,
        trainer: "SpecTrainer",
        folder: Path,
        score: Callable[[torch.nn.Module, bool, torch.optim.Optimizer], list[dict]],
        report: Callable[[float], None],
    ):
        self.path, self.score, self.report = folder / "scores.json", score, report
        self.scores = read_json(self.path) if self.path.exists() else {}
        if not (
            isinstance(self.scores, dict)
            and all(
                step.isdecimal() and isinstance(rows, list) for step, rows in self.scores.items()
            )
        ):
            raise ValueError(
                f"{self.path} is not the scores of a run; delete its folder, and the "
                f"run starts anew."
            )
        self.trainer, self.spec = trainer, trainer.train_dataset.spec
        self.marks = marks_of(self.spec)
        # `reading`: an error before the first step may come from a broken checkpoint
        self.seconds, self.reading = 0.0, True

    def on_step_begin(self, args, state, control, **kwargs):
        self.reading = False

    def on_train_begin(self, args, state, control, **kwargs):
        lost = [
            step
            for step in self.marks
            if step <= state.global_step and str(step) not in self.scores
        ]
        if lost and state.is_world_process_zero:
            self.reading = False
            raise ValueError(
                f"{self.path} lacks the scores of step {lost[0]}, which the "
                f"checkpoint beside it has passed; delete {self.path.parent}, and the "
                f"run starts anew."
            )
        # otherwise rows would be skipped, or the marks would be at other steps
        if state.max_steps != self.spec.steps:
            self.reading = False
            raise ValueError(
                f"A run of {self.spec.steps} steps would take {state.max_steps} with "
                f"{args.world_size} processes of {max(1, args.n_gpu)} GPUs each; give "
                f"every process one GPU (CUDA_VISIBLE_DEVICES), and start several by "
                f"accelerate launch."
            )

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        step = state.global_step
        due = step in self.marks
        if due:
            self.trainer.check_weights()
        if due and state.is_world_process_zero:
            began = time.perf_counter()
            rows = self.score(model, step == self.spec.steps, optimizer)
            check_scores(rows, f"at step {step} of {self.spec.steps}")
            self.scores[str(step)] = [{"fraction": self.marks[step]} | row for row in rows]
            write_atomically(self.path, json.dumps(self.scores))
            self.seconds += time.perf_counter() - began
            model.train()
        control.should_save = due
        self.report(step / self.spec.steps)
        return control

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / DONE).touch()


def marks_of(spec: RunSpec) -> dict[int, float]:
    """Return the steps after which a run is scored, each with its fraction of the training."""
    return {max(1, round(spec.steps * fraction)): fraction for fraction in spec.scoring.fractions}


def write_atomically(path: Path, text: str) -> None:
    """Write a small file; a killed process leaves either the old or the new one, whole."""
    partial = path.with_suffix(".partial")
    with writing(path.parent):
        partial.write_text(text)
        os.replace(partial, path)


@contextmanager
def writing(folder: str | Path) -> Iterator[None]:
    """Turn errors of writing a run's folder, such as a full disk, into a ValueError."""
    try:
        yield
    # the errors of Python, torch and safetensors
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"The folder {folder} cannot be written ({reason(error)}); make room "
            "there, and running again goes on from the last checkpoint."
        ) from error


def check_scores(rows: list[dict], when: str) -> None:
    """Raise a ValueError for scores that are not finite; only those of alignment may be missing."""
    for row in rows:
        if not (math.isfinite(row["value"]) or row["metric"].startswith("alignment_")):
            name = " of ".join(filter(None, (row["metric"], row["attribute"])))
            raise ValueError(
                f"The score {name} {when} is {row['value']}, so the run is not recorded."
            )


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint with finite weights, or None."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{DONE}")]
    whole.sort(key=lambda path: int(path.name.split("-")[1]), reverse=True)
    for path in whole:
        if not any(odd_weight(load_state(file)) for file in path.glob("*.safetensors")):
            return str(path)
    return None


def train(
    model: torch.nn.Module,
    steps: Steps,
    spec: RunSpec,
    folder: str | Path,
    score: Callable[[torch.nn.Module, bool, torch.optim.Optimizer], list[dict]],
    report: Callable[[float], None] = lambda fraction: None,
) -> dict:
    """Train with transformers' Trainer, resuming from a checkpoint in `folder` if there is one.

    A resumed training equals an uninterrupted one bit for bit. `score(model, last, optimizer)`
    returns the score rows of the current model, and leaves model and optimiser as they were; `last`
    is True after the last step. `report` gets the fraction of steps done. ValueError when the loss,
    the gradient, a weight or a score is not finite. Nothing is scored or saved after that, so a
    resumed run ends the same way.

    Returns: {"scores": rows with their fraction, "times": seconds of training and scoring in this
        process, "losses": the Trainer's log}.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    total = spec.steps
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        num_train_epochs=1,
        lr_scheduler_type="cosine",
        # below 1, Trainer reads a fraction; `create_scheduler` handles several stages
        warmup_steps=float(warmup_steps(total, spec.training.warmup)),
        max_grad_norm=1.0,
        save_strategy="no",
        save_total_limit=2,
        logging_steps=max(1, total // LOGGED),
        report_to="none",
        # the filter logs a loss that is not finite as the mean of earlier ones
        logging_nan_inf_filter=False,
        use_cpu=not torch.cuda.is_available(),
        seed=spec.training.seed,
        disable_tqdm=True,
        remove_unused_columns=False,
        activation_checkpointing=spec.training.activation_checkpointing,
        # reentrant checkpointing needs a gradient at its inputs
        activation_checkpointing_kwargs={"use_reentrant": False},
        dataloader_pin_memory=False,
        # a step may have no rows of one task
        ddp_find_unused_parameters=True,
        label_names=[],
    )
    trainer = SpecTrainer(
        model, arguments, train_dataset=steps, data_collator=lambda items: items[0]
    )
    curve = LearningCurve(trainer, folder, score, report)
    trainer.add_callback(curve)
    trainer.remove_callback(PrinterCallback)
    began = time.perf_counter()
    checkpoint = last_checkpoint(folder)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except Exception as error:  # each library raises its own errors for an incomplete file
        if checkpoint is None or not curve.reading:
            raise
        raise ValueError(
            f"The run cannot go on from {checkpoint} ({reason(error)}); delete that "
            f"folder, and it goes on from an earlier one or starts anew."
        ) from error
    seconds = time.perf_counter() - began
    scores = [row for mark in sorted(curve.scores, key=int) for row in curve.scores[mark]]
    return {
        "scores": scores,
        "times": {"training": seconds - curve.seconds, "scoring": curve.seconds},
        "losses": [log for log in trainer.state.log_history if "loss" in log],
    }


class SpecTrainer(Trainer):
    """A Trainer that keeps the steps' order and uses the spec's optimiser, also under DeepSpeed.

    A step whose loss or gradient is not finite ends the run before it changes a weight (under
    DeepSpeed right after). All processes see the same numbers, so all of them end.
    """

    def __init__(self, *arguments, **names):
        super().__init__(*arguments, **names)
        spec = self.train_dataset.spec
        self.guard = Guard("The run", spec.steps, rates_of(spec))

    def training_step(self, *arguments, **names):
        self.loss = super().training_step(*arguments, **names)
        if self.train_dataset.freezes(self.state.global_step):
            if self.is_deepspeed_enabled:  # it keeps the gradients elsewhere
                raise ValueError("A stage with freeze True cannot be trained with DeepSpeed.")
            for name, parameter in self.model.named_parameters():
                if re.fullmatch(LM_WEIGHTS, name):
                    parameter.grad = None
        return self.loss

    def create_scheduler(self, num_training_steps, optimizer=None):
        stages = [steps for _, steps in self.train_dataset.stages]
        if len(stages) == 1:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            warmup = self.train_dataset.spec.training.warmup
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: rate_factor(step, stages, warmup)
            )
        return self.lr_scheduler

    def _get_grad_norm(self, *arguments, **names):  # called before each step of the optimiser
        norm = super()._get_grad_norm(*arguments, **names)
        loss = reduce(self.loss).float()  # the mean over processes is the loss of the step
        both = torch.stack([loss, torch.as_tensor(norm, dtype=loss.dtype, device=loss.device)])
        loss, norm = both.tolist()  # one synchronisation with the GPU
        self.guard.check_step(self.state.global_step + 1, loss, norm)
        return norm

    def check_weights(self) -> None:
        """Raise a ValueError if a weight or, after the last step, the loss is not finite."""
        step, steps = self.state.global_step, self.train_dataset
        self.guard.check_weights(step, self.model.state_dict())
        if step == steps.spec.steps:  # otherwise the next step computes the loss of these weights
            last = steps[len(steps) - steps.processes + self.args.process_index]
            with torch.no_grad(), self.compute_loss_context_manager():
                loss = self.compute_loss(self.model, self._prepare_inputs(last))
            self.guard.check_end(reduce(loss).item())

    def _save_checkpoint(self, *arguments, **names):
        with writing(self.args.output_dir):
            super()._save_checkpoint(*arguments, **names)

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset)

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.model, self.train_dataset.spec)
        return self.optimizer
