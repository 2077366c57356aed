"""Sizes of networks and rows, known without a download (paper appendix, set-up).

Belongs here: configurations of published networks, a spec's image spaces, its model on the meta
device, and a tokenizer that counts tokens offline. Not here: what a whole run takes
(`uvlm_core/plan.py`).
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    SiglipVisionConfig,
)
from transformers.models.janus.configuration_janus import JanusVQVAEConfig

from uvlm_core.data.tokens import NEW_TOKENS, Processor
from uvlm_core.models.encoders import LLAMAGEN
from uvlm_core.models.kinds import kinds_of
from uvlm_core.models.language_models import LM_LAYERS, SHIPPED_LM, shape_of
from uvlm_core.models.unified import UnifiedVLM, UnifiedVLMConfig, can_share
from uvlm_core.places import adapted, refusing, resolve, resolve_network
from uvlm_core.training.networks import tune
from uvlm_core.training.spec import RunSpec


@dataclass(frozen=True)
class Published:
    """The configuration, size and licence of a network on a hub, from its model card."""

    config: PreTrainedConfig
    gigabytes: float  # of the download: weights in the published dtype
    licence: str


PUBLISHED = {
    "lmsys/vicuna-7b-v1.5": Published(
        LlamaConfig(
            vocab_size=32_000,
            hidden_size=4096,
            intermediate_size=11_008,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            max_position_embeddings=4096,
            tie_word_embeddings=False,
        ),
        13.5,
        "Llama 2 Community License",
    ),
    "google/siglip-base-patch16-224": Published(
        SiglipVisionConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            image_size=224,
            patch_size=16,
        ),
        0.81,
        "Apache-2.0",
    ),
    "FoundationVision/LlamaGen/vq_ds16_c2i.pt": Published(
        JanusVQVAEConfig(**LLAMAGEN), 0.29, "MIT"
    ),
    "cache/smollm2": Published(
        LlamaConfig(
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
        ),
        0.093,
        "Apache-2.0",
    ),
}


def network_config(name: str, kind: type) -> PreTrainedConfig:
    """Return the configuration of a network, from its local folder or else `PUBLISHED`.

    A language model of `LM_LAYERS` needs no folder either. ValueError when `name` is in none of
    these, or its folder cannot be loaded.
    """
    if name in PUBLISHED and not _is_there(name):
        return copy.deepcopy(PUBLISHED[name].config)  # resizing a model changes its config
    if name in LM_LAYERS and not _is_there(name):
        config = network_config(SHIPPED_LM, kind)  # of the same tokens
        config.update(shape_of(name))
        return config
    if kind is JanusVQVAEConfig and Path(resolve(name)).is_file():
        return JanusVQVAEConfig(**LLAMAGEN)  # a single file is assumed to be LlamaGen's
    if not Path(resolve(name)).is_dir():
        raise ValueError(
            f"Nothing is known of {name!r} without a hub; a plan knows local folders and "
            f"{', '.join(PUBLISHED)}."
        )
    base = adapted(name)
    if base is not None:
        return network_config(base, kind)
    what = "a network"
    folder = resolve_network(name, what)
    with refusing(name, what):
        return kind.from_pretrained(folder)


def spaces(spec: RunSpec) -> dict[str, dict]:
    """Return what `encoders.describe` says of the spec's encoders, from their configurations."""
    siglip = network_config(spec.model.semantic_encoder, SiglipVisionConfig)
    vq = network_config(spec.model.vq_tokenizer, JanusVQVAEConfig)
    found = {
        "SigLIP": {
            "kind": "siglip",
            "tokens": (siglip.image_size // siglip.patch_size) ** 2,
            "width": siglip.hidden_size,
            "codes": 0,
        },
        "VQ": {
            "kind": "vq",
            "tokens": vq.num_patches**2,
            "width": vq.embed_dim,
            "codes": vq.num_embeddings,
        },
    }
    return found | {"Latent": found["VQ"] | {"kind": "latent", "codes": 0}}


def tuned_model(spec: RunSpec) -> torch.nn.Module:
    """Return a spec's model on the meta device, without weights, prepared by `tune`."""
    processor, _ = text_processor(spec)
    sides = [spaces(spec)[kind] for kind in kinds_of(spec.model.architecture)]
    with torch.device("meta"):
        language_model = AutoModelForCausalLM.from_config(
            network_config(spec.model.language_model, AutoConfig)
        )
        rows = language_model.get_input_embeddings().num_embeddings
        if spec.model.language_model in PUBLISHED:  # its tokenizer lacks the image tokens
            language_model.resize_token_embeddings(rows + len(NEW_TOKENS), mean_resizing=False)
        model = UnifiedVLM(
            UnifiedVLMConfig(
                text_config=language_model.config,
                understanding_space=sides[0],
                generation_space=sides[1],
                shared_adapter=spec.model.shared_adapter and can_share(*sides),
                adapter_positions=spec.model.adapter_positions,
                image_in_id=processor.image_in,
                generate_id=processor.generate,
                image_out_id=processor.image_out,
            ),
            language_model,
        )
        return tune(model, spec)


def text_processor(spec: RunSpec) -> tuple[Processor, str]:
    """Return the spec's processor, and a note (or "") if the shipped tokenizer replaces its own."""
    here = spec.model.tokenizer not in PUBLISHED or _is_there(spec.model.tokenizer)
    sizes = [spaces(spec)[kind]["tokens"] for kind in kinds_of(spec.model.architecture)]
    name = spec.model.tokenizer if here else "pretrained/tokenizer"
    return Processor.load(name, *sizes), "" if here else "text counted with the shipped tokenizer"


def _is_there(name: str) -> bool:
    try:
        return Path(resolve(name)).is_dir()
    except ValueError:
        return False
