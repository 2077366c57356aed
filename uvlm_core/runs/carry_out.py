"""One run, from its spec to the content of its record (paper sections 3 and 4).

Belongs here: training followed by scoring, and the provenance of a run. Not here: training
(`training/`), scores (`scoring/`), the record (`store.py`), grids of runs (`grid.py`).

If several processes share a run (`launch.py`), each of them runs this code.
"""

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from transformers.utils import logging

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.tokens import padding_share
from uvlm_core.environment import processes
from uvlm_core.files import read_json
from uvlm_core.models.encoders import device
from uvlm_core.models.stack import StackedVLM
from uvlm_core.runs.files import RecordError, report_progress, write_whole
from uvlm_core.runs.provenance import code_state, versions
from uvlm_core.runs.store import fingerprints
from uvlm_core.scoring.evaluation import Evaluation
from uvlm_core.scoring.gradients import TaskGradients
from uvlm_core.scoring.picture_evaluation import PictureEvaluation
from uvlm_core.training.loop import Steps, train, training_steps
from uvlm_core.training.networks import built, load_parts, networks, tune
from uvlm_core.training.pool import all_rows
from uvlm_core.training.spec import RunSpec
from uvlm_core.training.stacked import StackedSteps, train_stack


def execute_run(spec, work_folder: Path) -> tuple[dict, np.ndarray | None]:
    """Carry out `spec`, resuming from what `work_folder` holds.

    Returns: the body of its record, and its pictures or None.

    A `RunSpec` is trained and scored. Any other spec has `run(folder)`, which returns the body, and
    in it optionally "pictures", uint8 (images, height, width, 3).
    Provenance: versions, commit, whether `uvlm_core` or the requirements differed from it, device,
    threads, the sha256 of each network, and when the run was started and resumed.
    """
    work_folder = Path(work_folder)
    trained = isinstance(spec, RunSpec)
    torch.set_num_threads(spec.training.threads if trained else 1)
    sessions = _open_session(work_folder)
    if trained:
        body, pictures = train_and_score(spec, work_folder)
    else:
        logging.disable_progress_bar()  # the grid has its own
        body = dict(spec.run(work_folder))
        pictures = body.pop("pictures", None)
    provenance = _provenance(spec, sessions)
    return {**body, "provenance": provenance | body.get("provenance", {})}, pictures


def _provenance(spec, sessions: list[dict]) -> dict:
    first, *later = sessions
    return {
        "started": first["started"],
        "resumed": [session["started"] for session in later],
        "commit": first["commit"],
        "dirty": any(
            session["dirty"] or session["commit"] != first["commit"] for session in sessions
        ),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "versions": versions("torch", "transformers", "peft", "numpy"),
        "networks": fingerprints(spec),
    }


def train_and_score(spec: RunSpec, folder: str | Path) -> tuple[dict, np.ndarray | None]:
    """Train and score one run in `folder`, resuming from what it holds.

    Returns: the body of its record without provenance ("scores", "counts", "times", "samples"),
    and the `shown_watches` generated images, uint8 (images, height, width, 3), or None.
    """
    began = time.perf_counter()
    model, processor, understanding, generation = networks(spec)
    model = tune(model, spec)
    # before the steps, so that a broken reader is reported now, not after hours of encoding
    kind = PictureEvaluation if spec.data.pictures else Evaluation
    evaluation = kind(spec, processor, understanding, generation)
    gradients = None
    if spec.scoring.gradient_rows:
        gradients = TaskGradients(spec, processor, understanding, generation)
    steps = training_steps(spec, processor, understanding, generation)
    (before,) = _before(evaluation, model)
    prepared = time.perf_counter() - began

    def score(model, last: bool, optimizer) -> list[dict]:
        rows = evaluation(model, last)
        return rows if gradients is None else rows + gradients(model, last, optimizer)

    result = train(
        model, steps, spec, folder, score, lambda fraction: report_progress(folder, fraction)
    )
    return _body(result, before, prepared, _counts(model, steps), *evaluation.samples())


def execute_stack(
    specs: Sequence[RunSpec], folder: Path, report: Callable[[float], None]
) -> list[tuple[dict, np.ndarray | None] | ValueError]:
    """Carry out runs of one `stack_key` as a stack, resuming from what `folder` holds.

    If the GPU has too little memory for all of them, they are halved until they fit. `report` gets
    the fraction that is done. Returns for each run what `execute_run` returns, or the ValueError
    that ended it.
    """
    try:
        return _execute_stack(specs, folder, report)
    except torch.cuda.OutOfMemoryError:
        if len(specs) == 1:
            raise
    torch.cuda.empty_cache()
    half = len(specs) // 2
    return [
        outcome
        for part, some, start in ((0, specs[:half], 0.0), (1, specs[half:], 0.5))
        for outcome in execute_stack(
            some, folder / str(part), lambda done, start=start: report(start + done / 2)
        )
    ]


def _execute_stack(specs, folder: Path, report) -> list:
    began, first = time.perf_counter(), specs[0]
    torch.set_num_threads(first.training.threads)
    folder.mkdir(parents=True, exist_ok=True)
    sessions = _open_session(folder)
    loaded = load_parts(first)
    models = [tune(built(spec, loaded), spec) for spec in specs]
    evaluation = Evaluation(first, loaded.processor, loaded.understanding, loaded.generation)
    # the rows of a run take a processor seconds, and its training a GPU hardly more
    several = Parallel(n_jobs=-1 if torch.cuda.is_available() else 1)
    rows = several(delayed(all_rows)(spec, loaded.processor) for spec in specs)
    every = [
        training_steps(spec, loaded.processor, loaded.understanding, loaded.generation, own)
        for spec, own in zip(specs, rows, strict=True)
    ]
    counts = [_counts(model, steps) for model, steps in zip(models, every, strict=True)]
    stack = StackedVLM(models).to(device())
    before = _before(evaluation, stack)
    prepared = (time.perf_counter() - began) / len(specs)
    results = train_stack(stack, StackedSteps(every), folder, evaluation.of_each, report)
    outcomes = []
    for number, (spec, result) in enumerate(zip(specs, results, strict=True)):
        if isinstance(result, ValueError):
            outcomes.append(result)
            continue
        samples = evaluation.samples(number)
        body, pictures = _body(result, before[number], prepared, counts[number], *samples)
        provenance = _provenance(spec, sessions) | {"stacked": len(specs)}
        outcomes.append((body | {"provenance": provenance}, pictures))
    return outcomes


def _before(evaluation, model) -> list[list[dict]]:
    """Return every model's scores before training: the alignment of the two spaces."""
    if evaluation.spec.training.regime != "unified":
        return [[]] * model.copies
    return [[{"fraction": 0.0} | row for row in rows] for rows in evaluation.alignment(model)]


def _body(result: dict, before: list[dict], prepared: float, counts: dict, samples, pictures):
    """Return the body of a record without provenance, and the pictures."""
    losses = {name: [entry[name] for entry in result["losses"]] for name in ("step", "loss")}
    return {
        "scores": before + result["scores"],
        "counts": counts,
        "times": {"preparing": prepared} | result["times"],
        "samples": samples | {"losses": losses},
    }, pictures


def _counts(model: torch.nn.Module, steps: Steps) -> dict:
    """Count steps, rows, tokens and parameters.

    A row counts once, its tokens as often as it is seen. "padding" is its share in a sample of
    steps.
    """
    some = [
        bucket
        for item in range(0, len(steps), max(1, len(steps) // 20))
        for bucket in steps[item]["buckets"]
    ]
    rows = {"understanding": steps.understanding, "generation": steps.generation}
    if steps.texts:
        rows["text"] = steps.texts
    return {
        "steps": steps.spec.steps,
        **{f"{task} rows": len(own) for task, own in rows.items()},
        "tokens": sum(len(row.ids) for step in range(steps.spec.steps) for row in steps.rows(step)),
        "padding": round(padding_share(some, steps.processor.pad), 4),
        **{
            f"{task} rows about {name}": sum(name in row.about for row in own)
            for task, own in rows.items()
            for name in ATTRIBUTES
        },
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _open_session(folder: Path) -> list[dict]:
    """Note in a run's folder when and with which code it starts or resumes; return all notes.

    If several processes share the run (`launch.py`), only the first one writes. RecordError when
    the notes cannot be read or written.
    """
    path = folder / "sessions.json"
    sessions = read_json(path) if path.exists() else []
    told = {"started", "commit", "dirty"}
    if not (
        isinstance(sessions, list)
        and all(isinstance(each, dict) and told <= each.keys() for each in sessions)
    ):
        raise RecordError(
            f"{path} does not say when this run was started; delete it to go on from "
            f"the last checkpoint."
        )
    session = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **code_state("uvlm_core", "requirements.txt"),
    }
    if processes()[1] == 0:
        try:
            write_whole(path, json.dumps([*sessions, session]).encode())
        except OSError as error:
            raise RecordError(
                f"{path} cannot be written ({error.strerror or error}); make room or "
                f"grant permission there and run again."
            ) from error
    return [*sessions, session]
