"""The profiles: what each named scale changes in the paper's values (paper section 3, appendix).

Belongs here: values. Not here: the meaning and range of a setting (`spec.py`), the scale of one
study in each profile (`studies/`). No code path depends on the profile. `docs/log.md` says which
measurement set each laptop value.
"""

from dataclasses import dataclass

from uvlm_core.training.spec import RunSpec


@dataclass(frozen=True)
class Profile:
    """A named scale: the base spec of its runs. Each study has its own number of seeds."""

    name: str
    spec: RunSpec


_PAPER = RunSpec()  # Vicuna-7B on three GPUs of 80 GB
_SMALL = _PAPER.vary(  # small pictures, shipped frozen networks, one CPU core
    image_size=64,
    images=14_000,
    vqa_examples=9400,
    caption_examples=600,
    generation_examples=14_000,
    turns=5,
    fewest_turns=0,
    mention_rate=0.8,
    semantic_encoder="pretrained/siglip",
    vq_tokenizer="pretrained/vq",
    precision="fp32",
    activation_checkpointing=False,
    batch_size=8,
    batch_counts="understanding",
    threads=1,
    fractions=(0.02, 0.035, 0.06, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0),
    test_watches=500,
    reader="pretrained/reader",
    feature_reader="pretrained/siglip_reader",
    feature_decoder="pretrained/siglip_decoder",
)
_LAPTOP = _SMALL.vary(
    language_model="pretrained/language_model",
    tokenizer="pretrained/tokenizer",
    adapter_positions=True,
    tuning="full",
    optimizer="muon",
    learning_rate=0.01,
    adapter_learning_rate=2e-3,
    image_loss_weight=1.0,
    feature_loss_weight=5.0,
    feature_dropout=0.5,
)
_SMOLLM = _SMALL.vary(  # a real pre-trained language model with the laptop's encoders
    language_model="cache/smollm2",
    tokenizer="cache/smollm2",
    lora_rank=16,
    lora_alpha=32,
    learning_rate=5e-4,
    adapter_learning_rate=1e-3,
)
_SMOKE = _LAPTOP.vary(
    images=48,
    vqa_examples=24,
    caption_examples=8,
    generation_examples=32,
    batch_size=8,
    fractions=(0.5, 1.0),
    test_watches=12,
    generated_watches=8,
)
PROFILES = {
    each.name: each
    for each in (
        # tests in seconds that everything works; its numbers mean nothing
        Profile("smoke", _SMOKE),
        Profile("laptop", _LAPTOP),  # two CPU cores, minutes per run
        Profile("smollm", _SMOLLM),  # one GPU, or a CPU and patience
        Profile("paper", _PAPER),  # GPUs of 80 GB, as in the paper
    )
}


def profile(name: str) -> Profile:
    """Return a profile by its name; ValueError for an unknown name."""
    if name not in PROFILES:
        raise ValueError(f"profile {name!r} is not one of {', '.join(PROFILES)}.")
    return PROFILES[name]
