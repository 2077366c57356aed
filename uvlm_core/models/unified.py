"""The unified model: adapters, generation head and the two losses (paper section 3, figure 2).

Belongs here: the network and its configuration. Not here: the frozen encoders, whose codes or
features are the inputs (`encoders.py`), training (`training/loop.py`), decoding (`decoding.py`).

    understanding: image -> encoder -> understanding adapter -> LM -> text
    generation:    text -> LM -> generation head -> image token -> generation adapter -> LM -> ...
                   -> decoder

A distortion (`distortion.py`) of one side stands before or after that side's adapter.

A space describes the output of an encoder: {"kind", "tokens", "width", "codes"}. Any two spaces can
be combined; no code here depends on the names of the paper's four architectures.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import ModelOutput

from uvlm_core.data.tokens import IGNORED
from uvlm_core.models.distort import Distort
from uvlm_core.models.distortion import SIDES, Distortion
from uvlm_core.models.encoders import describe
from uvlm_core.models.heads import SAMPLERS, SilentLinear, head_of
from uvlm_core.models.kinds import FEATURE_LOSSES, KINDS, kind_of_space
from uvlm_core.models.weights import load_network
from uvlm_core.places import adapted, refusing, resolve_folder

# initial standard deviation of row and column embeddings; that of their sum is 0.3
POSITION_SCALE = 0.2


class UnifiedVLMConfig(PreTrainedConfig):
    """Configuration of a `UnifiedVLM`.

    Args:
        text_config: configuration of the language model.
        understanding_space, generation_space: dictionaries, see `encoders.describe`.
        shared_adapter: one adapter for both spaces (pitfall 2); needs equal kind, tokens and width.
        adapter_positions: learned row and column embeddings on image slots (the paper has none).
        image_loss_weight: alpha of the loss, for codes and features alike.
        feature_loss: loss of continuous output, "cosine" (1 - cosine, the paper's), "mse", or
            "flow" and "image_flow", which make the head one that samples (`heads.SAMPLERS`).
        feature_length: length that generated features get before the LM reads them, in training and
            decoding; 0 keeps theirs. Used with "cosine", which leaves their length open.
        understanding_distortion, generation_distortion: dictionaries of family, dose and place
            (`Distortion`), or None.
        image_in_id, image_out_id: token ids of image slots.
        generate_id: token id that triggers an image.
    """

    model_type = "uvlm"
    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama")
    }

    text_config: dict | PreTrainedConfig | None = None
    understanding_space: dict | None = None
    generation_space: dict | None = None
    shared_adapter: bool = False
    adapter_positions: bool = False
    image_loss_weight: float = 0.2
    feature_loss: str = "cosine"
    feature_length: float = 0.0
    understanding_distortion: dict | None = None
    generation_distortion: dict | None = None
    image_in_id: int = 3
    generate_id: int = 4
    image_out_id: int = 5
    # of the composite model; the language model's own setting is in text_config
    tie_word_embeddings: bool = False

    def check(self) -> None:
        """Raise ValueError for spaces or settings that no model can be built from."""
        for side in ("understanding_space", "generation_space"):
            space = getattr(self, side) or {}
            if (
                set(space) != {"kind", "tokens", "width", "codes"}
                or space["kind"] not in space_kinds()
            ):
                raise ValueError(
                    f"{side} {space!r} is not a dictionary of kind (one of "
                    f"{', '.join(space_kinds())}), tokens, width and codes."
                )
            if self.adapter_positions and math.isqrt(space["tokens"]) ** 2 != space["tokens"]:
                raise ValueError(
                    f"{side} has {space['tokens']} tokens, which is not a square number; "
                    "leave adapter_positions off for it."
                )
        if self.feature_loss not in FEATURE_LOSSES:
            raise ValueError(
                f"feature_loss {self.feature_loss!r} is not one of {', '.join(FEATURE_LOSSES)}."
            )
        if self.shared_adapter and not can_share(*map(self.adapter_space, SIDES)):
            raise ValueError(
                "An adapter can be shared only by spaces of one kind, width and "
                f"number of tokens, not by {self.adapter_space(SIDES[0])!r} and "
                f"{self.adapter_space(SIDES[1])!r}."
            )

    def distortion(self, side: str) -> Distortion | None:
        """Return the distortion of a side, "understanding" or "generation", or None."""
        values = getattr(self, f"{side}_distortion")
        return None if values is None else Distortion(**values, side=side)

    def adapter_space(self, side: str) -> dict:
        """Return the space that a side's adapter reads: a distortion may change its width."""
        space, distortion = getattr(self, f"{side}_space"), self.distortion(side)
        if distortion is None or distortion.place == "after":
            return space
        return space | {"width": Distort(distortion, space["width"], space["codes"]).width}


def space_kinds() -> list[str]:
    """Return the names of the kinds of spaces in a configuration."""
    return [name.lower() for name in KINDS]


def can_share(understanding_space: dict, generation_space: dict) -> bool:
    """Return whether two spaces can share an adapter: same kind, tokens and width."""
    return all(
        understanding_space[name] == generation_space[name] for name in ("kind", "tokens", "width")
    )


class Adapter(nn.Module):
    """The paper's adapter: linear for VQ codes, a two-layer GELU MLP for SigLIP features."""

    def __init__(self, space: dict, width: int, positions: bool):
        super().__init__()
        first = nn.Linear(space["width"], width)
        linear = kind_of_space(space).adapter == "linear"
        self.project = first if linear else nn.Sequential(first, nn.GELU(), nn.Linear(width, width))
        side = math.isqrt(space["tokens"])
        self.row_positions = nn.Parameter(torch.zeros(side, width)) if positions else None
        self.column_positions = nn.Parameter(torch.zeros(side, width)) if positions else None

    def forward(self, tokens: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Map tokens (images, tokens, space width) to (images, tokens, LM width).

        `start` is the position in the image of the first token.
        """
        embeds = self.project(tokens)
        if self.row_positions is None:
            return embeds
        # (tokens, LM width)
        positions = (self.row_positions[:, None] + self.column_positions).flatten(0, 1)
        return embeds + positions[start : start + tokens.shape[1]]


@dataclass
class UnifiedVLMOutput(ModelOutput):
    """Losses of one step, each a mean over its own valid positions, and counts of the positions."""

    loss: torch.Tensor | None = None
    text_loss: torch.Tensor | None = None
    image_loss: torch.Tensor | None = None
    text_positions: int | None = None
    image_positions: int | None = None


class UnifiedVLM(PreTrainedModel):
    """One language model that answers about images and emits image tokens."""

    config_class = UnifiedVLMConfig
    config: UnifiedVLMConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    accepts_loss_kwargs = False  # else Trainer rescales our loss by the number of text labels
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    copies = 1  # models that share a batch (`stack.StackedVLM`)

    def __init__(self, config: UnifiedVLMConfig, language_model: PreTrainedModel | None = None):
        super().__init__(config)
        config.check()
        width = config.text_config.hidden_size
        space_in, space_out = config.understanding_space, config.generation_space
        with torch.device("meta") if language_model is not None else nullcontext():
            self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.understanding_adapter, self.generation_adapter = (
            Adapter(config.adapter_space(side), width, config.adapter_positions) for side in SIDES
        )
        if config.shared_adapter:
            self.generation_adapter = None
        for side, space in zip(SIDES, (space_in, space_out), strict=True):
            distortion = config.distortion(side)
            if distortion is not None:
                tokens = space["width"] if distortion.place == "before" else width
                self.add_module(f"{side}_distortion", Distort(distortion, tokens, space["codes"]))
        self.head = head_of(space_out, config.feature_loss)
        self.generation_head = self.head.build(width, space_out)
        for side, space in (
            ("understanding_codebook", space_in),
            ("generation_codebook", space_out),
        ):
            # persistent; (0, width) for SigLIP
            self.register_buffer(side, torch.zeros(space["codes"], space["width"]))
        if language_model is None:
            self.post_init()
        else:  # initialising 7 B weights takes minutes; `build_model` initialises the others
            with init.no_init_weights():
                self.post_init()
            self.language_model = language_model  # replaces a placeholder on the meta device

    def _init_weights(self, module):
        if isinstance(module, SilentLinear):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, Adapter):
            # at the scale of the tokens that they are added to; smaller ones are learned late
            if module.row_positions is not None:
                init.normal_(module.row_positions, std=POSITION_SCALE)
                init.normal_(module.column_positions, std=POSITION_SCALE)
        else:
            super()._init_weights(module)

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def floating_point_ops(self, *args, **kwargs) -> int:
        """Return 0: transformers' estimate does not know buckets, and no score uses it."""
        return 0

    def embed_understanding(self, images: torch.Tensor) -> torch.Tensor:
        """Map input images to LM inputs (images, tokens, LM width).

        Images are codes (images, tokens) or features (images, tokens, width).
        """
        return self._embed("understanding", images, self.understanding_adapter)

    def embed_generation(
        self,
        images: torch.Tensor,
        start: int = 0,
        read_back: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Map generated images, from token `start` on, to LM inputs (images, tokens, LM width).

        Where `read_back` (images,) is False, the adapter gets zeros instead of the image's tokens.
        If all tokens of an image are decoded at once, the LM reads them with `noise`.
        """
        if self.head.at_once:
            return self.embed_points(*self.head.between(self.generation_head, images, noise))
        return self._embed_drawn(images, start, read_back)

    def embed_points(self, points: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """Map images between noise and features (images, tokens, width) to LM inputs.

        `times` (images, 1, 1) is 0 for noise and 1 for features.
        """
        return self._embed_drawn(points) + self.generation_head.tell(times)

    def _embed_drawn(
        self, images: torch.Tensor, start: int = 0, read_back: torch.Tensor | None = None
    ) -> torch.Tensor:
        adapter = (
            self.understanding_adapter if self.config.shared_adapter else self.generation_adapter
        )
        if self.config.feature_length:
            images = F.normalize(images, dim=-1) * self.config.feature_length
        return self._embed("generation", images, adapter, start, read_back)

    def _embed(
        self,
        side: str,
        images: torch.Tensor,
        adapter: Adapter,
        start: int = 0,
        read_back: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Look up, distort and adapt image tokens, for both sides, in training and decoding."""
        distort, codebook = (
            getattr(self, f"{side}_distortion", None),
            getattr(self, f"{side}_codebook"),
        )
        if distort is None:
            tokens = _look_up(images, codebook)  # (images, tokens, space width)
        else:
            tokens = _look_up(distort.lookup(images), codebook)
            if distort.distortion.place == "before":
                tokens = distort(tokens)
        if read_back is not None:
            tokens = tokens * read_back[:, None, None]
        embeds = adapter(tokens, start)
        return (
            distort(embeds)
            if distort is not None and distort.distortion.place == "after"
            else embeds
        )

    def embed(
        self,
        input_ids: torch.Tensor,
        images_in: torch.Tensor | None = None,
        images_out: torch.Tensor | None = None,
        read_back: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Map token ids and the images in their slots to LM inputs (rows, tokens, LM width)."""
        embeds = self.get_input_embeddings()(input_ids)
        for images, slot, embed in (
            (images_in, self.config.image_in_id, self.embed_understanding),
            (
                images_out,
                self.config.image_out_id,
                partial(self.embed_generation, read_back=read_back, noise=noise),
            ),
        ):
            if images is not None:
                slots = (input_ids == slot).unsqueeze(-1)  # (rows, tokens, 1)
                embeds = embeds.masked_scatter(slots, embed(images).to(embeds.dtype))
        return embeds

    def attention_mask(self, input_ids: torch.Tensor) -> torch.Tensor | None:
        """Return what the LM adds to the attention of token ids; None if that is causal.

        (rows, 1, tokens, tokens). If all tokens of a drawn image are decoded at once, they see each
        other. Other tokens see those before them. A row has one drawn image at most.
        """
        drawn, tokens = input_ids == self.config.image_out_id, input_ids.shape[1]
        if not (self.head.at_once and drawn.any()):
            return None
        causal = torch.ones(tokens, tokens, dtype=torch.bool, device=input_ids.device).tril()
        seen = causal | (drawn[:, :, None] & drawn[:, None])  # (rows, tokens, tokens)
        return attention_bias(seen[:, None], self.language_model.dtype)

    def drawing_states(self, hidden: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the states that predict image tokens, (image slots, LM width).

        Out of `hidden` (rows, tokens, LM width). A token is predicted at the one before it, or in
        its own place if all are decoded at once.
        """
        drawn = input_ids == self.config.image_out_id
        return hidden[drawn] if self.head.at_once else hidden[:, :-1][drawn[:, 1:]]

    def hidden_states(self, embeds: torch.Tensor, **kwargs) -> torch.Tensor:
        """Map LM inputs to the last hidden states (rows, tokens, LM width)."""
        # adapters are always in float32
        embeds = embeds.to(self.language_model.dtype)
        return self.language_model.model(inputs_embeds=embeds, **kwargs).last_hidden_state

    def forward(
        self,
        buckets: list[dict] | None = None,
        padding: dict | None = None,
        text_share: float = 1.0,
        image_share: float = 1.0,
        **names,
    ) -> UnifiedVLMOutput:
        """Compute the losses of one step: loss = text loss + alpha x image loss.

        The text loss is the mean cross-entropy over all labelled positions of all buckets. The
        image loss is the mean over all image slots: cross-entropy of codes, or `feature_loss` of
        features. A language model in bf16 makes the whole step mixed precision.

        Args:
            buckets: output of `tokens.collate`. A single bucket may be given by keyword instead:
                input_ids, labels (rows, tokens); images_in, images_out (images, tokens) or (images,
                tokens, width); read_back (images,), False for generated images that the LM does not
                read back (`feature_dropout`). It reads all of them back by default. noise (images,
                tokens, noises, width + 1), which only heads that sample take (`heads.SAMPLERS`).
            padding: a bucket of padding images as in the authors' code. Their image loss counts as
                zero in the mean, and their text labels are trained (pitfall 3). It exists only to
                measure that effect.
            text_share, image_share: factors of the two losses in `loss`. With several processes:
                this process's positions in the step over the mean of all (`loop.Steps`).
        """
        mixed = self.language_model.dtype == torch.bfloat16
        with torch.autocast(self.understanding_codebook.device.type, torch.bfloat16, enabled=mixed):
            return self._losses(
                [names] if buckets is None else buckets, padding, text_share, image_share
            )

    def _losses(
        self, buckets: list[dict], padding: dict | None, text_share: float, image_share: float
    ):
        text_hidden, text_labels, image_hidden, image_targets, noise = [], [], [], [], []
        padded = 0  # image slots that count in the mean with a loss of zero
        for bucket in buckets + ([] if padding is None else [padding]):
            images_out, hidden = bucket.get("images_out"), self.bucket_states(bucket)
            # the hidden state at a position predicts the next token
            labels = bucket["labels"][:, 1:]
            # (labelled positions, LM width)
            text_hidden.append(hidden[:, :-1][labels != IGNORED])
            text_labels.append(labels[labels != IGNORED])
            if bucket is padding:
                padded = images_out.shape[0] * images_out.shape[1]
            elif images_out is not None:
                image_hidden.append(self.drawing_states(hidden, bucket["input_ids"]))
                image_targets.append(images_out.flatten(0, 1))
                noise += [bucket["noise"].flatten(0, 1)] if "noise" in bucket else []
        text_hidden, text_labels = torch.cat(text_hidden), torch.cat(text_labels)
        # without labelled positions: zero, but with a gradient function
        text_loss = text_hidden.sum()
        if len(text_labels):
            text_loss = F.cross_entropy(
                self.language_model.lm_head(text_hidden).float(), text_labels
            )
        loss, image_loss, slots = text_share * text_loss, None, 0
        if image_hidden:
            slots = sum(len(targets) for targets in image_targets)
            image_loss = (
                self.image_loss(
                    torch.cat(image_hidden),
                    torch.cat(image_targets),
                    torch.cat(noise) if noise else None,
                )
                * slots
                / (slots + padded)
            )
            loss = loss + image_share * self.config.image_loss_weight * image_loss
        return UnifiedVLMOutput(
            loss=loss,
            text_loss=text_loss.detach(),
            image_loss=None if image_loss is None else image_loss.detach(),
            text_positions=len(text_labels),
            image_positions=slots,
        )

    def bucket_states(self, bucket: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the last hidden states of a bucket, given as for `forward`."""
        ids = bucket["input_ids"]
        images = (bucket.get(name) for name in ("images_in", "images_out", "read_back", "noise"))
        mask = self.attention_mask(ids)
        return self.hidden_states(self.embed(ids, *images), attention_mask=mask, use_cache=False)

    def choose(self, hidden: torch.Tensor, temperature: float, draws: torch.Tensor) -> torch.Tensor:
        """Return the next image tokens after hidden states (rows, LM width) of any dtype.

        These are codes (rows,) or features (rows, width). `draws` are of the head (`heads.py`).
        """
        return self.head.choose(self.generation_head, self._for_head(hidden), temperature, draws)

    def velocity(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the velocities (slots, width) at hidden states (slots, LM width) of any dtype.

        Of a head that decodes all tokens of an image at once.
        """
        return self.generation_head(self._for_head(hidden))

    def image_terms(
        self, hidden: torch.Tensor, targets: torch.Tensor, noise: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the head makes of hidden states (slots, LM width), and its goals.

        Targets are codes (slots,) or features (slots, width); `noise` is that of `forward`.
        """
        return self.head.terms(self.generation_head, self._for_head(hidden), targets, noise)

    def image_loss(
        self, hidden: torch.Tensor, targets: torch.Tensor, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean loss of image tokens, given as for `image_terms`."""
        return self.head.loss(*self.image_terms(hidden, targets, noise), self.config.feature_loss)

    def _for_head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.to(next(self.generation_head.parameters()).dtype)


def attention_bias(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to attention scores: 0 where a token is seen, else the least number."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def _look_up(images: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Replace codes by their codebook rows; return features unchanged."""
    return images if images.is_floating_point() else codebook[images]


def load_language_model(
    name: str, vocabulary: int, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """Load a pre-trained language model with at least `vocabulary` rows of embeddings.

    `name` is a shipped name, a folder or a hub id. Missing rows start as the mean of the model's
    own. A peft adapter is merged into the model that it names. ValueError for a folder without a
    whole model, a pickle that holds more than weights, and an adapter that cannot be merged.
    """
    base = adapted(name)
    if base is None:
        model = load_network(AutoModelForCausalLM, name, "a language model", dtype=dtype)
    else:
        what = f"the language model that the adapter {name!r} changes"
        model = _merge(name, load_network(AutoModelForCausalLM, base, what, dtype=dtype))
    known = model.get_input_embeddings().num_embeddings
    if known < vocabulary:
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
        with torch.no_grad():
            for table in (model.get_input_embeddings(), model.get_output_embeddings()):
                table.weight[known:] = table.weight[:known].mean(0)
    return model


def _merge(adapter: str, model: PreTrainedModel) -> PreTrainedModel:
    """Merge a peft adapter into a language model; ValueError for one that does not fit."""
    from peft import PeftModel  # late: peft takes seconds, and few models need it
    from peft.tuners.tuners_utils import BaseTunerLayer

    folder = resolve_folder(adapter, "an adapter")
    what = "an adapter of its model"
    with refusing(adapter, what):
        tuned = PeftModel.from_pretrained(model, folder)
    if not hasattr(tuned, "merge_and_unload"):
        raise ValueError(
            f"{adapter!r} is an adapter of the kind "
            f"{tuned.peft_config['default'].peft_type.value}, which cannot be merged "
            f"into its model; LoRA's can."
        )
    with refusing(adapter, what):  # loaded again: only this call reports missing weights
        report = tuned.load_adapter(folder, "default", torch_device="cpu")
    odd = [*report.missing_keys, *report.unexpected_keys]
    if odd:
        raise ValueError(
            f"{adapter!r} does not hold the weights that its configuration asks for: "
            f"{odd[0]} is missing or unknown."
        )
    tables = model.get_input_embeddings(), model.get_output_embeddings()
    changed = any(isinstance(table, BaseTunerLayer) for table in tables)
    if changed and model.config.tie_word_embeddings:  # peft would change both tables
        raise ValueError(
            f"{adapter!r} cannot be merged: it changes only one of the embeddings and "
            "the head, which share their weights in its model."
        )
    with refusing(adapter, "an adapter of finite weights"):
        return tuned.merge_and_unload(safe_merge=True).to(model.dtype)


def build_model(
    language_model: str | PreTrainedModel,
    understanding,
    generation,
    *,
    seed: int,
    image_in_id: int,
    image_out_id: int,
    shared_adapter: bool,
    distortions: tuple[Distortion, ...] = (),
    images: np.ndarray | None = None,
    **settings,
) -> UnifiedVLM:
    """Build a unified model from a pre-trained language model and the spaces of two encoders.

    Adapters and head are initialised from the seed in float32 (`_start`).

    Args:
        language_model: a folder, hub id or module. Its weights keep their values and dtype; a
            module becomes part of the result.
        shared_adapter: share an adapter if the two spaces allow it, as in the paper's preset.
        distortions: at most one per side, drawn from the seed.
        images: uint8; the mean length of their tokens is the unit of the distortions' shifts, and
            their features' mean and deviation the scale of a head that samples.
        settings: further fields of `UnifiedVLMConfig`.
    """
    if not isinstance(language_model, PreTrainedModel):
        language_model = load_language_model(language_model, 0)
    settings |= {
        f"{each.side}_distortion": {"family": each.family, "dose": each.dose, "place": each.place}
        for each in distortions
    }
    config = UnifiedVLMConfig(
        text_config=language_model.config,
        understanding_space=describe(understanding),
        generation_space=describe(generation),
        image_in_id=image_in_id,
        image_out_id=image_out_id,
        **settings,
    )
    config.shared_adapter = shared_adapter and can_share(*map(config.adapter_space, SIDES))
    model = UnifiedVLM(config, language_model)
    _start(model, seed)
    for buffer, encoder in (
        ("understanding_codebook", understanding),
        ("generation_codebook", generation),
    ):
        if encoder.codes:
            getattr(model, buffer).copy_(encoder.codebook)
    for each in distortions:
        _draw_distortion(
            model, each, understanding if each.side == "understanding" else generation, images, seed
        )
    if generation.codes:
        _start_head(model)
    elif model.head in SAMPLERS.values():
        features = torch.from_numpy(generation.encode(images)).flatten(0, 1)  # (tokens, width)
        model.generation_head.mean.copy_(features.mean(0))
        model.generation_head.scale.copy_(features.std(0))
    return model


@torch.no_grad()
def _start(model: UnifiedVLM, seed: int) -> None:
    """Initialise adapters and head, each from the seed and the kind of its own space alone.

    So the initial weights of one side do not depend on the other side. Architectures with the same
    space for a task therefore share its single-task run (`RunSpec.canonical`). Two adapters of one
    kind get different weights.
    """
    kinds = [
        space_kinds().index(space["kind"])
        for space in (model.config.understanding_space, model.config.generation_space)
    ]
    numbers = (kinds[0], kinds[1] + 2 * (kinds[0] == kinds[1]), 4 + kinds[1])
    for part, number in zip(
        (model.understanding_adapter, model.generation_adapter, model.generation_head),
        numbers,
        strict=True,
    ):
        if part is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(8 * seed + number)
                part.apply(model._init_weights)


@torch.no_grad()
def _draw_distortion(
    model: UnifiedVLM, distortion: Distortion, encoder, images: np.ndarray, seed: int
) -> None:
    """Draw a side's distortion, in units of the images' tokens at its place."""
    distort = getattr(model, f"{distortion.side}_distortion")
    tokens = torch.from_numpy(encoder.encode(images))
    tokens = _look_up(
        tokens if tokens.is_floating_point() else tokens.long(),
        getattr(model, f"{distortion.side}_codebook"),
    )
    if distortion.place == "after":
        shared = distortion.side == "understanding" or model.config.shared_adapter
        tokens = (model.understanding_adapter if shared else model.generation_adapter)(tokens)
    distort.draw(seed, tokens)


@torch.no_grad()
def _start_head(model: UnifiedVLM) -> None:
    """Initialise the head's row of each code as that code's LM input, at the head's usual scale.

    Similar codes then share what is learned from either. The image loss falls faster, and the model
    follows requests earlier (docs/log.md). Other distortions than of the width are left out,
    because they change what the model reads, not what it writes.
    """
    adapter = (
        model.understanding_adapter
        if model.generation_adapter is None
        else model.generation_adapter
    )
    tokens = model.generation_codebook  # (codes, space width)
    # if a distortion changes the width, the adapter takes distorted tokens only
    if model.config.adapter_space("generation")["width"] != tokens.shape[1]:
        tokens = model.generation_distortion(tokens)
    rows = adapter(tokens[:, None], 0)[:, 0]  # (codes, LM width)
    rows = rows - rows.mean(0)
    model.generation_head.weight.copy_(rows * (rows.shape[1] ** -0.5 / rows.std()))


AutoConfig.register(UnifiedVLMConfig.model_type, UnifiedVLMConfig)
AutoModel.register(UnifiedVLMConfig, UnifiedVLM)
