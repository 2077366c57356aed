"""The networks of a run: from its spec, and a trained model from its files (paper section 3).

Belongs here: which networks a spec asks for, their untrained model, which of its weights learn, and
the loading of a trained model. Not here: the network itself (`models/unified.py`), its training
(`loop.py`). Loading a model that was trained in full imports neither peft nor the Trainer.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from uvlm_core.data.tokens import Processor
from uvlm_core.models.encoders import SiglipEncoder, VQEncoder, load_encoder
from uvlm_core.models.heads import SAMPLERS
from uvlm_core.models.unified import UnifiedVLM, build_model, load_language_model
from uvlm_core.models.weights import load_into
from uvlm_core.training.pool import sample_images, training_pool
from uvlm_core.training.spec import RunSpec

LORA_TARGETS = (
    r"language_model\.model\.layers\.\d+\."
    r"(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# peft uses the old name
warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)


def feature_length(encoder, images: np.ndarray) -> float:
    """Return the mean length of an encoder's features over some images (uint8)."""
    return float(np.linalg.norm(encoder.encode(images), axis=-1).mean())


def networks(spec: RunSpec):
    """Build the untrained model, its processor and its two encoders.

    Initial weights depend only on the seed and the spaces, so all regimes of one seed start equal.

    Returns: (model, processor, understanding encoder, generation encoder).
    """
    parts = load_parts(spec)
    model = built(spec, parts)
    return model, parts.processor, parts.understanding, parts.generation


@dataclass(frozen=True)
class Parts:
    """What runs of one `ModelSpec` are built from. The encoders may be one object."""

    language_model: PreTrainedModel
    processor: Processor
    understanding: VQEncoder | SiglipEncoder
    generation: VQEncoder | SiglipEncoder


def load_parts(spec: RunSpec) -> Parts:
    """Load the networks of a run."""
    torch.set_num_threads(spec.training.threads)
    logging.disable_progress_bar()  # the grid has a progress bar of its own
    kinds = spec.model.understanding, spec.model.generation
    encoders = {kind: load_encoder(kind, spec) for kind in set(kinds)}
    understanding, generation = (encoders[kind] for kind in kinds)
    processor = Processor.load(spec.model.tokenizer, understanding.tokens, generation.tokens)
    language_model = load_language_model(
        spec.model.language_model, len(processor.tokenizer), DTYPES[spec.training.precision]
    )
    processor.context = getattr(language_model.config, "max_position_embeddings", None)
    return Parts(language_model, processor, understanding, generation)


def built(spec: RunSpec, parts: Parts) -> UnifiedVLM:
    """Build the untrained model of a run.

    Its language model is that of `parts`, not a copy, or a new one with random weights.
    """
    measured = spec.training.feature_loss == "cosine" and not parts.generation.codes
    scaled = spec.training.feature_loss in SAMPLERS and not parts.generation.codes
    looks = measured or scaled or spec.model.distortions
    images = sample_images(training_pool(spec)) if looks else None
    language_model = parts.language_model
    if spec.model.random_language_model:
        language_model = random_language_model(language_model, spec.training.seed)
    return build_model(
        language_model,
        parts.understanding,
        parts.generation,
        seed=spec.training.seed,
        image_in_id=parts.processor.image_in,
        generate_id=parts.processor.generate,
        image_out_id=parts.processor.image_out,
        shared_adapter=spec.model.shared_adapter,
        adapter_positions=spec.model.adapter_positions,
        image_loss_weight=spec.alpha,
        feature_loss=spec.training.feature_loss,
        feature_length=feature_length(parts.generation, images) if measured else 0.0,
        distortions=spec.model.distortions,
        images=images,
    )


def random_language_model(like: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Return a language model of the same configuration, its random weights drawn from the seed.

    Rows of embeddings that were added for new tokens are part of the configuration.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8 * seed + 7)  # adapters and head take the numbers before it
        return AutoModelForCausalLM.from_config(like.config, dtype=like.dtype).eval()


def tune(model: UnifiedVLM, spec: RunSpec) -> torch.nn.Module:
    """Make the adapters, the head and part of the LM trainable: all, LoRA or none (`tuning`)."""
    if spec.training.tuning == "lora":
        from peft import LoraConfig, get_peft_model  # late: takes seconds, and few models need it

        # peft trains the new modules in full and saves them beside the LoRA weights
        new = [
            name
            for name, child in model.named_children()
            if name != "language_model" and next(child.parameters(), None) is not None
        ]
        # the trigger token may be new too: the model must read and predict it, so both tables
        # learn its row
        untie(model.language_model)
        tokens = dict.fromkeys(("model.embed_tokens", "lm_head"), [model.config.generate_id])
        lora = LoraConfig(
            r=spec.training.lora_rank,
            lora_alpha=spec.training.lora_alpha,
            target_modules=LORA_TARGETS,
            modules_to_save=new,
            trainable_token_indices={
                f"language_model.{name}": rows for name, rows in tokens.items()
            },
        )
        with torch.random.fork_rng(devices=[]):  # peft draws LoRA's A from the global generator
            torch.manual_seed(spec.training.seed)
            return get_peft_model(model, lora)
    model.language_model.requires_grad_(spec.training.tuning == "full")
    return model


def untie(language_model: torch.nn.Module) -> None:
    """Give a language model with tied embeddings a separate output head, a copy.

    peft does not see the tie when the language model is part of another model.
    """
    if language_model.config.tie_word_embeddings:
        head = language_model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        language_model.config.tie_word_embeddings = False


def read_spec(folder: str | Path) -> RunSpec:
    """Return the spec of a trained model's folder; ValueError when it cannot be read."""
    path = Path(folder).expanduser() / "spec.json"
    try:
        return RunSpec.from_dict(json.loads(path.read_text()))
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror or error}); a model is a folder "
            f"with model.safetensors and spec.json."
        ) from None
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is not the spec of a run ({error}).") from None


def load_model(folder: str | Path) -> tuple:
    """Load a trained model from a folder with `model.safetensors` and the run's `spec.json`.

    Returns what `networks` returns. ValueError for a file that is missing or cannot be read.
    """
    spec = read_spec(folder)
    model, *others = networks(spec)
    return (load_into(tune(model, spec), Path(folder).expanduser()), *others)
