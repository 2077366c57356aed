"""The shipped trained models, and how they were made: `make models` (no section of the paper).

Belongs here: which models are shipped, their files and their cards. Not here: using them
(`model.py`), training (`runs/trained.py`), the frozen networks (`pretraining/`).

Weights are stored in half precision, which halves their size. A model computes in float32.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable
from math import nan
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from uvlm_core.data.conversations import make_conversations
from uvlm_core.data.smart_watch import TEST_STREAM, render_batch, sample_watches
from uvlm_core.environment import ROOT
from uvlm_core.explore.model import BOX, Model
from uvlm_core.models.decoding import answer, generate_images
from uvlm_core.places import write_sha256
from uvlm_core.runs.store import RunStore, record_key
from uvlm_core.runs.trained import trained_models
from uvlm_core.scoring.evaluation import Evaluation
from uvlm_core.studies.base import load_study
from uvlm_core.training.spec import ARCHITECTURES, RunSpec

SHIPPED = (
    *((architecture, "unified") for architecture in ARCHITECTURES),
    ("VQ-VQ", "understanding"),
)
COMPARED = 500  # watches of the test set whose answers are compared before and after rounding
_DRAWN = 100  # requests whose drawings are compared


def shipped_spec(architecture: str, regime: str) -> RunSpec:
    """Return the spec of a shipped model: that of seed 0 in the study of learning curves."""
    wanted = {"architecture": architecture, "regime": regime, "seed": 0}
    return next(arm.spec for arm in load_study("learning_curves").arms if arm.labels == wanted)


def make(architecture: str, regime: str, box: Path = BOX) -> Path:
    """Train a model or take it from the cache, and write its folder into the box; return it.

    An earlier folder stays until the new one is whole.
    """
    spec = shipped_spec(architecture, regime)
    ((network, *_),) = trained_models([spec])
    name = f"{architecture} {regime}"
    folder = box / name.lower().replace("-", "_").replace(" ", "_")
    box.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=box, prefix=f".{folder.name}-") as temporary:
        made = Path(temporary) / folder.name
        made.mkdir()
        (made / "spec.json").write_text(json.dumps(spec.to_dict(), indent=1) + "\n")
        state = network.state_dict()
        save_file(
            {key: each.half().contiguous() for key, each in state.items()},
            made / "model.safetensors",
        )
        (made / "README.md").write_text(_card(name, spec, network, Model(name, spec, made)))
        write_sha256(made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return folder


def _card(name: str, spec: RunSpec, network, rounded: Model) -> str:
    """Return the card of a model: what it was trained on, its scores, and what rounding changed."""
    told = []
    if spec.understands:
        equal, count = _equal_answers(spec, network, rounded)
        told.append(
            f"Half precision leaves {equal / count:.2%} of {count:,} answers about "
            f"{COMPARED} test watches as they were."
        )
    if spec.generates and rounded.draws.codes:
        told.append(
            f"It leaves {_equal_codes(spec, network, rounded):.2%} of the codes of {_DRAWN} "
            "drawn watches as they were."
        )
    rows = {
        "understanding rows": spec.understanding_rows,
        "generation rows": spec.generation_rows,
        "steps": spec.steps,
    }
    recorded = RunStore(ROOT / "figures" / "runs" / "laptop").load(spec)
    before = _looked_at(recorded["scores"] if recorded else ())
    scores = "\n".join(
        f"| {metric} | {attribute} | {value:.3f} | {before.get((metric, attribute), nan):.3f} |"
        for (metric, attribute), value in _looked_at(_scores(spec, rounded)).items()
    )
    return (
        f"# {name}\n\n"
        f"A trained model of the profile laptop, seed {spec.training.seed}: "
        f"{', '.join(f'{count:,} {what}' for what, count in rows.items() if count)}.\n\n"
        f"| score | attribute | this model | record `{record_key(spec)}` |\n"
        f"| --- | --- | --- | --- |\n{scores}\n\n"
        "The record is of an earlier training of the same spec. The two differ by rounding, and by "
        f"what rounding grows to.\n\n{' '.join(told)}\n\n"
        "Made by `make models`. It knows nothing but these watches.\n"
    )


def _scores(spec: RunSpec, model: Model) -> list[dict]:
    """Return the score rows of a loaded model, as a run's record has them."""
    evaluation = Evaluation(spec, model.processor, model.reads, model.draws)
    return [row | {"fraction": 1} for row in evaluation(model.network)]


def _looked_at(scores: Iterable[dict]) -> dict[tuple[str, str], float]:
    """Return the final scores that a reader asks for first, by metric and attribute."""
    return {
        (row["metric"], row["attribute"]): row["value"]
        for row in scores
        if row["metric"] in ("partial", "read_back", "feature_read_back")
        and row["fraction"] == 1
        and row["attribute"] in ("total", "time", "weather", "battery", "weather_corner")
    }


def _equal_answers(spec: RunSpec, network, rounded: Model) -> tuple[int, int]:
    """Return how many answers are the same before and after rounding, and how many there are."""
    watches = sample_watches(TEST_STREAM, COMPARED, "test")
    talks = make_conversations(watches, "vqa", TEST_STREAM)
    seen = rounded.reads.encode(render_batch(watches, spec.data.image_size))
    both = [
        np.concatenate(answer(each, rounded.processor, talks, seen))
        for each in (network, rounded.network)
    ]
    return int((both[0] == both[1]).sum()), len(both[0])


def _equal_codes(spec: RunSpec, network, rounded: Model) -> float:
    """Return the share of equal codes in what is drawn before and after rounding."""
    watches = sample_watches(TEST_STREAM, _DRAWN, "test")
    talks = make_conversations(watches, "generation", TEST_STREAM)
    both = [
        generate_images(each, rounded.processor, talks).tokens
        for each in (network, rounded.network)
    ]
    return float((both[0] == both[1]).mean())


def main() -> int:
    """Make every model of the box; return 2 with one sentence on stderr when one cannot be made."""
    torch.set_num_threads(1)
    try:
        for each in SHIPPED:
            folder = make(*each)
            print(f"{folder.relative_to(ROOT)}: {' '.join(each)}")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
