"""Trained models for analysis, kept in the cache (no section of the paper).

Belongs here: training the models that have no file yet, without scoring them. Not here: the
analyses (`scoring/probing.py`, `scoring/patching.py`), loading one folder (`training/loop.py`).
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from uvlm_core.environment import cache_folder
from uvlm_core.models.weights import load_into
from uvlm_core.runs.files import report_progress
from uvlm_core.runs.grid import run_grid
from uvlm_core.runs.store import RunStore, record_key
from uvlm_core.training.loop import networks, prepare, train, tune
from uvlm_core.training.spec import RunSpec


def trained_models(specs: Sequence[RunSpec], workers: int = 2) -> list[tuple]:
    """Load trained models from the cache, and train those that are missing.

    Returns: per spec what `networks` returns, with trained weights. They are those of the recorded
    run of the same spec. ValueError when a file cannot be read.
    """
    # scoring does not change weights
    specs = [
        spec.vary(fractions=(1.0,), probe_watches=0, shown_watches=0).canonical() for spec in specs
    ]
    store, folders = RunStore(cache_folder() / "models"), [_kept(spec) for spec in specs]
    for spec, folder in zip(specs, folders, strict=True):
        if not (folder / "model.safetensors").exists():
            store.path(spec).unlink(missing_ok=True)
    run_grid(dict.fromkeys(specs), store, workers, store.folder / "work", _keep_model)
    found = []
    for spec, folder in zip(specs, folders, strict=True):
        model, *others = networks(spec)
        found.append((load_into(tune(model, spec), folder), *others))
    return found


def _keep_model(spec: RunSpec, folder: Path) -> tuple[dict, None]:
    """Train one run without scoring it and save its weights in the cache, for `run_grid`."""
    model, _, steps, *_ = prepare(spec)
    train(
        model,
        steps,
        spec,
        folder,
        lambda *_: [],
        lambda fraction: report_progress(folder, fraction),
    )
    path = _kept(spec) / "model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    # for `load_model`
    path.with_name("spec.json").write_text(json.dumps(spec.to_dict(), indent=1) + "\n")
    # copies, because safetensors refuses tied weights that share memory
    state = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(state, path.with_suffix(".partial"))
    os.replace(path.with_suffix(".partial"), path)
    return {}, None


def _kept(spec: RunSpec) -> Path:
    """Return the folder of a run's weights in the cache."""
    return cache_folder() / "models" / record_key(spec)
