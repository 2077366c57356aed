"""What a profile takes before anything is fetched or trained: `make plan PROFILE=paper` (paper appendix, set-up).

Belongs here: sizes, tokens, memory, operations and downloads of one run, from configurations alone (models stand on the
meta device, without weights), the number of runs that each notebook asks for, and what runs with a record took. Not
here: how a run is carried out (`training.py`).

The run that is planned is the unified one of SigLIP-VQ, the paper's main architecture and its dearest.
"""

import argparse
import copy
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, SiglipVisionConfig
from transformers.models.janus.configuration_janus import JanusVQVAEConfig

from uvlm_core import alignment, experiments
from uvlm_core.conversations import TASKS, make_conversations
from uvlm_core.evaluation import ALIGNED
from uvlm_core.modeling import UnifiedVLM, UnifiedVLMConfig, can_share
from uvlm_core.processing import IGNORED, NEW_TOKENS, Processor
from uvlm_core.profiles import PROFILES, Profile, RunSpec, profile
from uvlm_core.runs import RunStore
from uvlm_core.smart_watch import sample_watches
from uvlm_core.training import DTYPES, tune
from uvlm_core.vision import LLAMAGEN
from uvlm_core.weights import ROOT, adapted, refusing, resolve, resolve_network


@dataclass(frozen=True)
class Published:
    """A network on a hub: its configuration and licence, typed in from its card, for a plan without the hub."""

    config: PreTrainedConfig
    gigabytes: float  # to download: its weights in the type they are published in
    licence: str


PUBLISHED = {
    "lmsys/vicuna-7b-v1.5": Published(LlamaConfig(
        vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, max_position_embeddings=4096, tie_word_embeddings=False), 13.5,
        "Llama 2 Community License"),
    "google/siglip-base-patch16-224": Published(SiglipVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, image_size=224,
        patch_size=16), 0.81, "Apache-2.0"),
    "FoundationVision/LlamaGen/vq_ds16_c2i.pt": Published(JanusVQVAEConfig(**LLAMAGEN), 0.29, "MIT"),
    "cache/smollm2": Published(LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True), 0.093, "Apache-2.0"),
}
GPUS = {"A100": 312, "H100": 989, "L40S": 362, "RTX4090": 165}  # dense bf16 TFLOP/s
UTILISATION = 0.4  # of a GPU's peak in training, an assumption
SHARED_AMONG = (1, 3, 8)  # GPUs; the paper has 3
SAMPLE = 200  # watches whose rows tell the tokens of an example
ARCHITECTURE = "SigLIP-VQ"
GB = 1e9
CAPTION_ROW = 1650  # bytes of a row while a caption file is read; 700 of them stay (measured)


def network_config(name: str, kind: type) -> PreTrainedConfig:
    """The configuration of a network that a spec names: that of its folder, or what `PUBLISHED` holds of it.

    ValueError for a name that is neither.
    """
    if name in PUBLISHED and not _is_there(name):
        return copy.deepcopy(PUBLISHED[name].config)  # a model that grows changes its own
    if kind is JanusVQVAEConfig and Path(resolve(name)).is_file():
        return JanusVQVAEConfig(**LLAMAGEN)  # what a single file is taken for
    if not Path(resolve(name)).is_dir():
        raise ValueError(f"Nothing is known of {name!r} without a hub; a plan knows local folders and "
                         f"{', '.join(PUBLISHED)}.")
    base = adapted(name)
    if base is not None:
        return network_config(base, kind)
    what = "a network"
    folder = resolve_network(name, what)
    with refusing(name, what):
        return kind.from_pretrained(folder)


def spaces(spec: RunSpec) -> dict[str, dict]:
    """The spaces of the spec's two encoders as `vision.describe` gives them, from configurations alone."""
    siglip = network_config(spec.semantic_encoder, SiglipVisionConfig)
    vq = network_config(spec.vq_tokenizer, JanusVQVAEConfig)
    return {"SigLIP": {"kind": "siglip", "tokens": (siglip.image_size // siglip.patch_size) ** 2,
                       "width": siglip.hidden_size, "codes": 0},
            "VQ": {"kind": "vq", "tokens": vq.num_patches**2, "width": vq.embed_dim, "codes": vq.num_embeddings}}


def tuned_model(spec: RunSpec) -> torch.nn.Module:
    """The model of a spec on the meta device, without weights, tuned as the spec says."""
    processor, _ = _processor(spec)
    sides = [spaces(spec)[kind] for kind in spec.architecture.split("-")]
    with torch.device("meta"):
        language_model = AutoModelForCausalLM.from_config(network_config(spec.language_model, AutoConfig))
        rows = language_model.get_input_embeddings().num_embeddings
        if spec.language_model in PUBLISHED:  # its tokenizer lacks the tokens for images
            language_model.resize_token_embeddings(rows + len(NEW_TOKENS), mean_resizing=False)
        model = UnifiedVLM(UnifiedVLMConfig(
            text_config=language_model.config, understanding_space=sides[0], generation_space=sides[1],
            shared_adapter=spec.shared_adapter and can_share(*sides), adapter_positions=spec.adapter_positions,
            image_in_id=processor.image_in, generate_id=processor.generate, image_out_id=processor.image_out),
            language_model)
        return tune(model, spec)


def plan(base: Profile, gpu: str = "A100") -> pd.DataFrame:
    """What one run of a profile takes, one number a row: columns part, quantity, value, unit, note.

    ValueError for an unknown GPU, or a network that nothing is known of.
    """
    if gpu not in GPUS:
        raise ValueError(f"gpu {gpu!r} is not one of {', '.join(GPUS)}.")
    spec, pictured = (some.vary(architecture=ARCHITECTURE, regime="unified")
                      for some in (base.spec, base.picture_spec))
    rows = [*_sizes(spec), *_tokens(spec)]
    numbers = {(part, quantity): value for part, quantity, value, *_ in rows}
    rows += [*_memory(spec, numbers), *_scoring(spec), *_hours(spec, numbers, gpu),
             *_downloads(spec), *_pictures(pictured), *_runs(base)]
    return pd.DataFrame(rows, columns=["part", "quantity", "value", "unit", "note"])


def _sizes(spec: RunSpec) -> list[tuple]:
    model = tuned_model(spec)
    published = network_config(spec.language_model, AutoConfig)
    with torch.device("meta"):
        bare = AutoModelForCausalLM.from_config(published)
    parts = {"language model": bare.num_parameters(), "LoRA": 0, "trigger's rows": 0, "adapters": 0,
             "generation head": 0}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = ("LoRA" if "lora_" in name else "trigger's rows" if "trainable_tokens" in name
                else "adapters" if "adapter." in name and "language_model" not in name
                else "generation head" if "generation_head" in name else None)
        if part is not None:
            parts[part] += parameter.numel()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    every = sum(parameter.numel() for parameter in model.parameters())
    return [*(("parameters", part, count, "", "") for part, count in parts.items() if count),
            ("parameters", "all", every, "", "with the tokens for images"), ("parameters", "trained", trained, "", ""),
            ("parameters", "share trained", 100 * trained / every, "%", "as peft counts")]


def _tokens(spec: RunSpec) -> list[tuple]:
    processor, note = _processor(spec)
    watches, means = sample_watches(0, SAMPLE), {}
    for task in TASKS:
        talks = make_conversations(watches, task, 0, (spec.fewest_turns or spec.turns, spec.turns), (),
                                   spec.mention_rate)
        made = [processor.row(talk, 0) for talk in talks]
        means[task] = sum(len(row.ids) for row in made) / SAMPLE
        means[f"{task} labelled"] = sum(int((row.labels != IGNORED).sum()) for row in made) / SAMPLE
    counts = {"vqa": spec.vqa_examples, "caption": spec.caption_examples, "generation": spec.generation_examples}
    labelled = sum(counts[task] * means[f"{task} labelled"] for task in TASKS) / spec.rows
    filled = "rows" if spec.batch_counts == "all" else f"{spec.batch_counts} rows and the rest beside them"
    return [*(("tokens an example", task, means[task], "", note) for task in TASKS),
            ("tokens an example", "text loss", labelled, "", "positions"),
            ("a run", "examples", spec.rows, "", ""),
            ("a run", "steps", spec.steps, "", f"of {spec.batch_size} {filled}"),
            ("a run", "tokens", sum(counts[task] * means[task] for task in TASKS), "", "")]


def _memory(spec: RunSpec, numbers: dict) -> list[tuple]:
    config = network_config(spec.language_model, AutoConfig)
    trained = numbers["parameters", "trained"]
    frozen = numbers["parameters", "all"] - trained
    unit = DTYPES[spec.precision].itemsize
    tokens = numbers["a run", "tokens"] / spec.steps
    slots = spec.generation_examples / spec.steps * spaces(spec)["VQ"]["tokens"]
    labelled = numbers["tokens an example", "text loss"] * spec.rows / spec.steps
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    # of one layer for its backward: norms, q, k, v, attention and sums (8 x width), gate, up and their product (3 x
    # inner); all layers keep them without checkpointing, and only their inputs with it
    layer = tokens * (8 * width + 3 * inner) * unit
    kept = layers * tokens * width * unit + layer if spec.activation_checkpointing else layers * layer
    logits = (slots * spaces(spec)["VQ"]["codes"] + labelled * config.vocab_size) * 3 * 4  # with softmax and gradient
    rows = []
    for gpus in SHARED_AMONG:
        parts = {"frozen weights": frozen * unit, "trained weights": 4 * trained, "gradients": 4 * trained / gpus,
                 "Adam's moments": 8 * trained / gpus, "activations": kept / gpus, "logits": logits / gpus}
        note = "one process" if gpus == 1 else "ZeRO-2"
        rows += [(f"memory of each of {gpus} GPU{'s' * (gpus > 1)}", name, size / GB, "GB", note)
                 for name, size in (parts | {"all": sum(parts.values())}).items()]
    return rows


def _scoring(spec: RunSpec) -> list[tuple]:
    """The main memory that scoring holds: of what is scored, whatever the sets behind it have."""
    config, sides = network_config(spec.language_model, AutoConfig), spaces(spec)
    asked, drawn = spec.test_watches * spec.understands, spec.generated_watches * spec.generates
    opened = max(asked, drawn) + drawn  # the others are what drawn ones are compared with
    values = {kind: space["tokens"] * (1 if space["codes"] else space["width"])
              for kind, space in sides.items()}
    outputs = 4 * (asked * values["SigLIP"] + drawn * values["VQ"])
    compared = min(ALIGNED, asked, drawn)
    tokens = sum(min(space["tokens"], alignment.GRID**2) for space in sides.values())
    states = compared * tokens * (config.num_hidden_layers + 1) * config.hidden_size * 4
    sizes = {f"{opened:,} images": opened * spec.image_size**2 * 3,
             "outputs of the encoders": outputs, f"states of {compared} images": states}
    return [("memory of scoring", name, size / GB, "GB", "main memory")
            for name, size in sizes.items()]


def _pictures(spec: RunSpec) -> list[tuple]:
    """What a run about captioned pictures takes. Its work sets it and not their number, but for the
    captions."""
    opened = max(spec.test_watches, spec.generated_watches) + spec.generated_watches
    pixels, captions = opened * spec.image_size**2 * 3 / GB, 1e5 * CAPTION_ROW / GB
    rows = [("pictures", "rows", spec.rows, "", f"about {spec.pictures}, or a caption file"),
            ("pictures", "opened to score", opened, "", "at most"),
            ("pictures", "memory of these", pixels, "GB", "main memory"),
            ("pictures", "memory of 100,000 captions", captions, "GB", "in every process")]
    counts = (spec.understanding_rows, spec.generation_rows)
    return rows + [("disk", f"outputs of {kind} for pictures of {count:,} rows",
                    _outputs(space, count) / GB, "GB", "at most, for each seed, computed once")
                   for (kind, space), count in zip(spaces(spec).items(), counts, strict=True)]


def _outputs(space: dict, images: int) -> int:
    """Bytes of an encoder's outputs in the cache."""
    return images * space["tokens"] * (2 if space["codes"] else 4 * space["width"])


def _hours(spec: RunSpec, numbers: dict, gpu: str) -> list[tuple]:
    config = network_config(spec.language_model, AutoConfig)
    tokens, trained = numbers["a run", "tokens"], numbers["parameters", "trained"]
    # a weight costs 2 operations forward and 2 for the gradient of its input; 2 more for its own where it is trained,
    # and the forward once more with checkpointing
    everywhere = 6 if spec.activation_checkpointing else 4
    length = tokens / spec.rows
    attention = 2 * config.num_hidden_layers * config.hidden_size * length  # scores and values, causal: half of each
    work = tokens * (everywhere * (numbers["parameters", "all"] + attention) + 2 * trained)
    peak = GPUS[gpu]
    rows = [("a run", "operations", work, "FLOP", "training alone")]
    return rows + [("a run", f"hours on {gpus} {gpu}", work / (gpus * peak * 1e12 * UTILISATION) / 3600, "h",
                    f"at {UTILISATION:.0%} of {peak} TFLOP/s, an assumption") for gpus in SHARED_AMONG]


def _downloads(spec: RunSpec) -> list[tuple]:
    rows = []
    for name in (spec.language_model, spec.semantic_encoder, spec.vq_tokenizer):
        known = PUBLISHED.get(name)
        rows.append(("download", name, known.gigabytes if known else 0.0, "GB", known.licence if known else "is here"))
    for kind, space in spaces(spec).items():
        rows.append(("disk", f"outputs of {kind} for {spec.images:,} images",
                     _outputs(space, spec.images) / GB, "GB", "computed once, mapped and not held"))
    return rows


def _runs(base: Profile) -> list[tuple]:
    asked = {"02 mutual benefit": experiments.mutual_benefit(base, base.seeds),
             "03 data scaling": experiments.data_scaling(base, base.scaling_seeds),
             "04 affine alignment": experiments.alignment(base, base.alignment_seeds),
             "05 attribute transfer": experiments.transfer(base, base.transfer_seeds),
             "07 captioned pictures": experiments.pictures(base, base.picture_seeds)}
    rows = [("runs", name, len({spec.canonical() for spec in specs}), "", "") for name, specs in asked.items()]
    records = RunStore(ROOT / "figures" / "runs" / base.name).all()
    for regime in ("understanding", "generation", "unified"):
        taken = [sum(record["times"].values()) / 60 for record in records if record["spec"]["regime"] == regime
                 and record["spec"]["vqa_examples"] == base.spec.vqa_examples]
        if taken:
            rows.append(("measured", f"{regime}, {base.spec.vqa_examples} rows of questions",
                         pd.Series(taken).median(), "min", f"median of {len(taken)} records"))
    return rows


def show(table: pd.DataFrame) -> str:
    """A plan for people: its parts with their numbers."""
    lines = []
    for part, rows in table.groupby("part", sort=False):
        lines.append(part)
        for _, row in rows.iterrows():
            number = f"{row['value']:,.0f}" if row["value"] >= 1000 else f"{row['value']:.4g}"
            lines.append(f"  {row['quantity']:<40} {number:>24} {row['unit']:<5} {row['note']}".rstrip())
    return "\n".join(lines)


def header(base: Profile, gpu: str = "A100") -> str:
    """The plan of a profile in two sentences, for the head of a notebook."""
    numbers = plan(base, gpu).set_index(["part", "quantity"])["value"].to_dict()
    taken = [f"{what.split(',')[0]} {value:.1f}" for (part, what), value in numbers.items() if part == "measured"]
    cost = (f"A run took, in minutes on one thread: {', '.join(taken)} (medians of the records)." if taken else
            f"A run is estimated at {numbers['a run', f'hours on 3 {gpu}']:.2g} h on 3 {gpu} and "
            f"{numbers['memory of each of 3 GPUs', 'all']:.0f} GB on each.")
    return (f"Profile {base.name}, {ARCHITECTURE}, unified: {numbers['parameters', 'all']:,.0f} parameters, of which "
            f"{numbers['parameters', 'share trained']:.3g} % are trained, on {numbers['a run', 'examples']:,.0f} "
            f"examples of {numbers['a run', 'tokens'] / numbers['a run', 'examples']:.0f} tokens in "
            f"{numbers['a run', 'steps']:,.0f} steps. {cost}")


def _processor(spec: RunSpec) -> tuple[Processor, str]:
    """The spec's tokenizer, or the shipped one where a hub would be needed; and what to say of it."""
    here = spec.tokenizer not in PUBLISHED or _is_there(spec.tokenizer)
    sizes = [spaces(spec)[kind]["tokens"] for kind in spec.architecture.split("-")]
    name = spec.tokenizer if here else "pretrained/tokenizer"
    return Processor.load(name, *sizes), "" if here else "text counted with the shipped tokenizer"


def _is_there(name: str) -> bool:
    try:
        return Path(resolve(name)).is_dir()
    except ValueError:
        return False


def main(arguments: list[str] | None = None) -> int:
    """The command line; bad input is refused in one sentence with exit code 2."""
    parser = argparse.ArgumentParser(description="Say what a run of a profile takes.")
    parser.add_argument("--profile", default="laptop", help=f"one of {', '.join(PROFILES)}")
    parser.add_argument("--gpu", default="A100", help=f"one of {', '.join(GPUS)}")
    options = parser.parse_args(arguments)
    try:
        print(show(plan(profile(options.profile), options.gpu)))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
