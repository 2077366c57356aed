"""Resources of a run before any download: `make plan PROFILE=paper` (paper appendix, set-up).

Belongs here: parameters, tokens, memory, operations and downloads of one run, from configurations
alone; the number of runs of each study; the minutes of recorded runs. Not here: the configurations
(`training/sizes.py`), how a run is trained (`training/loop.py`).

The plan is for unified training of SigLIP-VQ, the paper's main and most expensive architecture.
"""

import argparse
import json
import sys

import pandas as pd
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from uvlm_core.data.conversations import TASKS, make_conversations
from uvlm_core.data.smart_watch import sample_watches
from uvlm_core.data.tokens import IGNORED
from uvlm_core.environment import ROOT
from uvlm_core.models.kinds import kinds_of
from uvlm_core.runs.store import RunStore, canonical_of
from uvlm_core.scoring.alignment import GRID
from uvlm_core.scoring.evaluation import ALIGNED_WATCHES
from uvlm_core.studies import studies
from uvlm_core.studies.base import Measurement
from uvlm_core.training.networks import DTYPES
from uvlm_core.training.profiles import PROFILES, Profile, profile
from uvlm_core.training.sizes import PUBLISHED, network_config, spaces, text_processor, tuned_model
from uvlm_core.training.spec import REGIMES, RunSpec

GPU_SPEEDS = {"A100": 312, "H100": 989, "L40S": 362, "RTX4090": 165}  # dense bf16 TFLOP/s
UTILISATION = 0.4  # assumed share of a GPU's peak speed in training
SHARED_AMONG = (1, 3, 8)  # numbers of GPUs; the paper uses 3
COUNTED_WATCHES = 200  # sample for the mean tokens of an example
PLANNED = "SigLIP-VQ"
GB = 1e9
CAPTION_BYTES = 1650  # per row while a caption file is read; 700 stay after it (measured)


def plan(base: Profile, gpu: str = "A100") -> pd.DataFrame:
    """Return the resources that one run of a profile takes, one number per row.

    Columns: part, quantity, value, unit, note. ValueError for an unknown GPU, and for a network
    that is neither a local folder nor in `PUBLISHED`.
    """
    if gpu not in GPU_SPEEDS:
        raise ValueError(f"gpu {gpu!r} is not one of {', '.join(GPU_SPEEDS)}.")
    spec = base.spec.vary(architecture=PLANNED, regime="unified")
    asked = {
        f"{study.number:02d} {study.name.replace('_', ' ')}": study.specs(base)
        for study in studies()
        if base.name in study.scales
    }
    rows = [*_sizes(spec), *_tokens(spec)]
    numbers = {(part, quantity): value for part, quantity, value, *_ in rows}
    rows += [
        *_memory(spec, numbers),
        *_scoring(spec),
        *_hours(spec, numbers, gpu),
        *_downloads(spec),
        *_pictures(base, asked),
        *_runs(base, asked),
    ]
    return pd.DataFrame(rows, columns=["part", "quantity", "value", "unit", "note"])


def _sizes(spec: RunSpec) -> list[tuple]:
    model = tuned_model(spec)
    published = network_config(spec.model.language_model, AutoConfig)
    with torch.device("meta"):
        bare = AutoModelForCausalLM.from_config(published)
    parts = {
        "language model": bare.num_parameters(),
        "LoRA": 0,
        "trigger's rows": 0,
        "adapters": 0,
        "generation head": 0,
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = (
            "LoRA"
            if "lora_" in name
            else "trigger's rows"
            if "trainable_tokens" in name
            else "adapters"
            if "adapter." in name and "language_model" not in name
            else "generation head"
            if "generation_head" in name
            else None
        )
        if part is not None:
            parts[part] += parameter.numel()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    every = sum(parameter.numel() for parameter in model.parameters())
    return [
        *(("parameters", part, count, "", "") for part, count in parts.items() if count),
        ("parameters", "all", every, "", "with the tokens for images"),
        ("parameters", "trained", trained, "", ""),
        ("parameters", "share trained", 100 * trained / every, "%", "as peft counts"),
    ]


def _tokens(spec: RunSpec) -> list[tuple]:
    processor, note = text_processor(spec)
    watches, means = sample_watches(0, COUNTED_WATCHES), {}
    for task in TASKS:
        talks = make_conversations(
            watches,
            task,
            0,
            (spec.data.fewest_turns or spec.data.turns, spec.data.turns),
            (),
            spec.data.mention_rate,
        )
        made = [processor.row(talk, 0) for talk in talks]
        means[task] = sum(len(row.ids) for row in made) / COUNTED_WATCHES
        means[f"{task} labelled"] = (
            sum(int((row.labels != IGNORED).sum()) for row in made) / COUNTED_WATCHES
        )
    counts = {
        "vqa": spec.data.vqa_examples,
        "caption": spec.data.caption_examples,
        "generation": spec.data.generation_examples,
    }
    labelled = sum(counts[task] * means[f"{task} labelled"] for task in TASKS) / spec.rows
    filled = (
        "rows"
        if spec.training.batch_counts == "all"
        else f"{spec.training.batch_counts} rows and the rest beside them"
    )
    return [
        *(("tokens an example", task, means[task], "", note) for task in TASKS),
        ("tokens an example", "text loss", labelled, "", "positions"),
        ("a run", "examples", spec.rows, "", ""),
        ("a run", "steps", spec.steps, "", f"of {spec.training.batch_size} {filled}"),
        ("a run", "tokens", sum(counts[task] * means[task] for task in TASKS), "", ""),
    ]


def _memory(spec: RunSpec, numbers: dict) -> list[tuple]:
    config = network_config(spec.model.language_model, AutoConfig)
    trained = numbers["parameters", "trained"]
    frozen = numbers["parameters", "all"] - trained
    unit = DTYPES[spec.training.precision].itemsize
    tokens = numbers["a run", "tokens"] / spec.steps
    slots = spec.data.generation_examples / spec.steps * spaces(spec)["VQ"]["tokens"]
    labelled = numbers["tokens an example", "text loss"] * spec.rows / spec.steps
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    # bytes kept by a layer for its backward pass: norms, q, k, v, attention, sums (8 x width) and
    # gate, up and their product (3 x inner); with checkpointing, layers keep only their inputs
    layer = tokens * (8 * width + 3 * inner) * unit
    kept = (
        layers * tokens * width * unit + layer
        if spec.training.activation_checkpointing
        else layers * layer
    )
    # logits, softmax and gradient, of 4 bytes each
    logits = (slots * spaces(spec)["VQ"]["codes"] + labelled * config.vocab_size) * 3 * 4
    rows = []
    for gpus in SHARED_AMONG:
        parts = {
            "frozen weights": frozen * unit,
            "trained weights": 4 * trained,
            "gradients": 4 * trained / gpus,
            "Adam's moments": 8 * trained / gpus,
            "activations": kept / gpus,
            "logits": logits / gpus,
        }
        note = "one process" if gpus == 1 else "ZeRO-2"
        rows += [
            (f"memory of each of {gpus} GPU{'s' * (gpus > 1)}", name, size / GB, "GB", note)
            for name, size in (parts | {"all": sum(parts.values())}).items()
        ]
    return rows


def _scoring(spec: RunSpec) -> list[tuple]:
    """Return the main memory that scoring takes, which does not grow with the training data."""
    config, sides = network_config(spec.model.language_model, AutoConfig), _sides(spec)
    asked = spec.scoring.test_watches * spec.understands
    drawn = spec.scoring.generated_watches * spec.generates
    opened = max(asked, drawn) + drawn  # generated images are compared with as many real ones
    values = {
        kind: space["tokens"] * (1 if space["codes"] else space["width"])
        for kind, space in sides.items()
    }
    compared = min(ALIGNED_WATCHES, asked, drawn)
    tokens = sum(min(space["tokens"], GRID**2) for space in sides.values())
    states = compared * tokens * (config.num_hidden_layers + 1) * config.hidden_size
    sizes = {
        f"{opened:,} images": opened * spec.data.image_size**2 * 3,
        "outputs of the encoders": 4 * (asked * values["SigLIP"] + drawn * values["VQ"]),
        f"states of {compared} images": 4 * states,
    }
    return [
        ("memory of scoring", name, size / GB, "GB", "main memory") for name, size in sizes.items()
    ]


def _pictures(base: Profile, asked: dict[str, list]) -> list[tuple]:
    """Return what a run on captioned pictures takes; an empty list if no study asks for one.

    Only the captions' memory grows with the caption file; all else follows from the run's rows.
    """
    specs = [
        spec
        for runs in asked.values()
        for spec in runs
        if isinstance(spec, RunSpec)
        and spec.data.pictures
        and spec.training.regime == "unified"  # other arms lack the other task's rows
    ]
    if not specs:
        return []
    spec = max(specs, key=lambda each: each.rows).vary(architecture=PLANNED)
    drawn = spec.scoring.generated_watches
    opened = max(spec.scoring.test_watches, drawn) + drawn
    rows = [
        ("pictures", "rows", spec.rows, "", f"about {spec.data.pictures}, or a caption file"),
        ("pictures", "opened to score", opened, "", "at most"),
        (
            "pictures",
            "memory of these",
            opened * spec.data.image_size**2 * 3 / GB,
            "GB",
            "main memory",
        ),
        (
            "pictures",
            "memory of 100,000 captions",
            1e5 * CAPTION_BYTES / GB,
            "GB",
            "in every process",
        ),
    ]
    counts = (spec.understanding_rows, spec.generation_rows)
    return rows + [
        (
            "disk",
            f"outputs of {kind} for pictures of {count:,} rows",
            _outputs(space, count) / GB,
            "GB",
            "at most, for each seed, computed once",
        )
        for (kind, space), count in zip(_sides(spec).items(), counts, strict=True)
    ]


def _sides(spec: RunSpec) -> dict[str, dict]:
    """Return the spaces of `PLANNED`'s two sides, understanding and generation."""
    return {kind: spaces(spec)[kind] for kind in kinds_of(PLANNED)}


def _outputs(space: dict, images: int) -> int:
    """Return the bytes that the cache takes for an encoder's outputs on `images` images."""
    return images * space["tokens"] * (2 if space["codes"] else 4 * space["width"])


def _hours(spec: RunSpec, numbers: dict, gpu: str) -> list[tuple]:
    config = network_config(spec.model.language_model, AutoConfig)
    tokens, trained = numbers["a run", "tokens"], numbers["parameters", "trained"]
    # FLOP per weight and token: 2 in the forward pass (4 with checkpointing, which repeats it), 2
    # for the gradient of the input, and 2 for the gradient of the weight if it is trained
    everywhere = 6 if spec.training.activation_checkpointing else 4
    length = tokens / spec.rows
    # scores and values, causal: half of each
    attention = 2 * config.num_hidden_layers * config.hidden_size * length
    work = tokens * (everywhere * (numbers["parameters", "all"] + attention) + 2 * trained)
    peak = GPU_SPEEDS[gpu]
    rows = [("a run", "operations", work, "FLOP", "training alone")]
    return rows + [
        (
            "a run",
            f"hours on {gpus} {gpu}",
            work / (gpus * peak * 1e12 * UTILISATION) / 3600,
            "h",
            f"at {UTILISATION:.0%} of {peak} TFLOP/s, an assumption",
        )
        for gpus in SHARED_AMONG
    ]


def _downloads(spec: RunSpec) -> list[tuple]:
    rows = []
    for name in (spec.model.language_model, spec.model.semantic_encoder, spec.model.vq_tokenizer):
        known = PUBLISHED.get(name)
        rows.append(
            (
                "download",
                name,
                known.gigabytes if known else 0.0,
                "GB",
                known.licence if known else "is here",
            )
        )
    rows += [
        (
            "disk",
            f"outputs of {kind} for {spec.data.images:,} images",
            _outputs(space, spec.data.images) / GB,
            "GB",
            "computed once, mapped and not held",
        )
        for kind, space in _sides(spec).items()
    ]
    return rows


def _runs(base: Profile, asked: dict[str, list]) -> list[tuple]:
    # by spec and not by key, which asks for networks that may not be here
    records = {
        json.dumps(record["spec"], sort_keys=True): record
        for record in RunStore(ROOT / "figures" / "runs" / base.name).all()
    }
    rows = []
    for study, runs in asked.items():
        trained = [spec for spec in runs if not isinstance(spec, Measurement)]
        specs = [json.dumps(canonical_of(spec).to_dict(), sort_keys=True) for spec in trained]
        taken = [sum(records[spec]["times"].values()) for spec in specs if spec in records]
        note = f"{sum(taken) / 3600:.1f} core-hours in {len(taken)} records" if taken else ""
        rows.append(("runs", study, len(trained), "", note))
    minutes = {regime: [] for regime in REGIMES}
    for record in records.values():
        if "measurement" not in record["spec"]:
            spec = RunSpec.from_dict(record["spec"])
            if spec.data.vqa_examples == base.spec.data.vqa_examples:
                minutes[spec.training.regime].append(sum(record["times"].values()) / 60)
    return rows + [
        (
            "measured",
            f"{regime}, {base.spec.data.vqa_examples} rows of questions",
            pd.Series(taken).median(),
            "min",
            f"median of {len(taken)} records",
        )
        for regime, taken in minutes.items()
        if taken
    ]


def show(table: pd.DataFrame) -> str:
    """Return a plan as text, grouped by part."""
    lines = []
    for part, rows in table.groupby("part", sort=False):
        lines.append(part)
        for _, row in rows.iterrows():
            number = f"{row['value']:,.0f}" if row["value"] >= 1000 else f"{row['value']:.4g}"
            lines.append(
                f"  {row['quantity']:<40} {number:>24} {row['unit']:<5} {row['note']}".rstrip()
            )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 2 after printing what is wrong with the input, else 0."""
    parser = argparse.ArgumentParser(description="Say what a run of a profile takes.")
    parser.add_argument("--profile", default="laptop", help=f"one of {', '.join(PROFILES)}")
    parser.add_argument("--gpu", default="A100", help=f"one of {', '.join(GPU_SPEEDS)}")
    options = parser.parse_args(arguments)
    try:
        print(show(plan(profile(options.profile), options.gpu)))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
