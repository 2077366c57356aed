"""Trained models for analysis, kept in the cache (no section of the paper).

Belongs here: training models that have no file yet, without scoring them. Not here: the
analyses (`scoring/probing.py`, `scoring/patching.py`), loading one folder (`training/networks.py`).
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock
from safetensors.torch import save_file
from tqdm import tqdm

from uvlm_core.environment import cache_folder
from uvlm_core.models.weights import load_into
from uvlm_core.runs.files import make_writable
from uvlm_core.runs.store import describe, record_key
from uvlm_core.training.loop import prepare, train
from uvlm_core.training.networks import networks, tune
from uvlm_core.training.spec import RunSpec

_BAR = "{desc} {percentage:3.0f}% |{bar}| {elapsed} passed, {remaining} to go"
_UNSCORED = {"fractions": (1.0,), "probe_watches": 0, "shown_watches": 0, "gradient_rows": 0}


def trained_models(specs: Sequence[RunSpec]) -> list[tuple]:
    """Load trained models from the cache, and first train those that are missing, in this process.

    A training that was cut off is resumed. Returns: per spec what `networks` returns, with trained
    weights. They are those of the recorded run of the same spec. ValueError when a training
    diverges, or when a file cannot be read or written.
    """
    # scoring does not change weights
    specs = [spec.vary(**_UNSCORED).canonical() for spec in specs]
    found = []
    for spec in specs:
        folder = _kept(spec)
        if not (folder / "model.safetensors").exists():
            _train(spec, folder)
        model, *others = networks(spec)
        found.append((load_into(tune(model, spec), folder), *others))
    return found


def _train(spec: RunSpec, folder: Path) -> None:
    """Train one run without scoring it, and save its weights in `folder`."""
    work = folder.parent / "work" / folder.name
    make_writable(work)
    with FileLock(work.with_suffix(".lock")):  # two notebooks may want the same model
        if not (folder / "model.safetensors").exists():
            model, _, steps, *_ = prepare(spec)
            with tqdm(desc=f"training {describe(spec)}", total=1, bar_format=_BAR) as bar:
                train(
                    model, steps, spec, work, lambda *_: [], lambda done: bar.update(done - bar.n)
                )
            _save(model, spec, folder)
        shutil.rmtree(work, ignore_errors=True)


def _save(model, spec: RunSpec, folder: Path) -> None:
    path = folder / "model.safetensors"
    make_writable(folder)
    # for `load_model`
    path.with_name("spec.json").write_text(json.dumps(spec.to_dict(), indent=1) + "\n")
    # copies, because safetensors refuses tied weights that share memory
    state = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(state, path.with_suffix(".partial"))
    os.replace(path.with_suffix(".partial"), path)


def _kept(spec: RunSpec) -> Path:
    """Return the folder of a run's weights in the cache."""
    return cache_folder() / "models" / record_key(spec)
