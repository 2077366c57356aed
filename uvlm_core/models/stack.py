"""Several unified models as one, for a GPU that a single small one leaves idle (not in the paper).

Belongs here: the stack of models and of their parts. Not here: training a stack
(`training/stacked.py`), scoring one (`scoring/evaluation.py`).

The rows of a batch are those of the first model, then those of the second, and so on, equally many
for each. Every part with weights holds one set for each model and applies it to that model's rows.
All other operations, such as attention, treat rows separately anyway. So the code that runs,
decodes and scores one model also serves a stack.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from uvlm_core.models.distort import Distort
from uvlm_core.models.heads import SilentLinear
from uvlm_core.models.unified import Adapter, UnifiedVLM, UnifiedVLMOutput


class StackedVLM(UnifiedVLM):
    """Unified models of one shape; `copies` is their number, and of a batch each has as many rows.

    They may differ in weights, in the weight of the image loss and in what a distortion drew.
    ValueError for parts of a kind that cannot be stacked.
    """

    def __init__(self, models: Sequence[UnifiedVLM]):
        first = models[0]
        super().__init__(first.config, copy.deepcopy(first.language_model))
        self.copies = len(models)
        for name, _ in list(self.named_children()):
            setattr(self, name, stacked([model.get_submodule(name) for model in models]))
        if first.config.text_config.tie_word_embeddings:
            self.language_model.lm_head.weight = self.get_input_embeddings().weight
        for name, buffer in first.named_buffers(recurse=False):  # codebooks, equal for all
            getattr(self, name).copy_(buffer)
        alphas = torch.tensor([model.config.image_loss_weight for model in models])
        self.register_buffer("alphas", alphas, persistent=False)  # (models,)

    def forward(
        self, buckets: list[dict], text_at: torch.Tensor, text_labels: torch.Tensor
    ) -> UnifiedVLMOutput:
        """Compute the losses of one step of every model, each (models,).

        As for one model, `loss` is the text loss plus alpha times the image loss. The text loss is
        a mean over a model's own labelled positions, the image loss over its own image slots.

        Args:
            buckets: as for one model, but with the rows of all models and without labels.
            text_at: (models, most labelled positions of a model) places among the positions of all
                buckets that predict a token.
            text_labels: the labels there; IGNORED where a model has fewer.
        """
        hidden, drawn, targets, noise = [], [], [], []
        for bucket in buckets:
            images_out, states = bucket.get("images_out"), self.bucket_states(bucket)
            # (models, positions, width)
            hidden.append(_apart(states[:, :-1], self.copies).flatten(1, 2))
            if images_out is not None:
                slots = self.drawing_states(states, bucket["input_ids"])
                drawn.append(_apart(slots, self.copies))  # (models, slots, LM width)
                targets.append(_apart(images_out.flatten(0, 1), self.copies))
                if "noise" in bucket:
                    noise.append(_apart(bucket["noise"].flatten(0, 1), self.copies))
        told = torch.cat(hidden, 1).gather(1, text_at[..., None].expand(-1, -1, hidden[0].shape[2]))
        logits = _apart(self.language_model.lm_head(told.flatten(0, 1)), self.copies).float()
        text_loss = torch.vmap(F.cross_entropy)(logits, text_labels)  # (models,)
        losses, image_loss = text_loss, None
        if drawn:
            slots = [torch.cat(each, 1).flatten(0, 1) for each in (drawn, targets)]
            slots.append(torch.cat(noise, 1).flatten(0, 1) if noise else None)
            terms = [_apart(each, self.copies) for each in self.image_terms(*slots)]
            image_loss = torch.vmap(
                lambda one, other: self.head.loss(one, other, self.config.feature_loss)
            )(*terms)  # (models,)
            losses = losses + self.alphas * image_loss
        image_loss = None if image_loss is None else image_loss.detach()
        return UnifiedVLMOutput(loss=losses, text_loss=text_loss.detach(), image_loss=image_loss)


def stacked(modules: Sequence[nn.Module]) -> nn.Module:
    """Return modules of one shape as one; ValueError for a kind with weights that is not known."""
    kind = type(modules[0])
    if kind in STACKED:
        return STACKED[kind](modules)
    if any(True for _ in modules[0].parameters(recurse=False)):
        raise ValueError(f"Modules of the kind {kind.__name__} cannot be stacked.")
    one = copy.deepcopy(modules[0])
    for name, _ in list(one.named_children()):
        setattr(one, name, stacked([module.get_submodule(name) for module in modules]))
    return one


class StackedLinear(nn.Module):
    """Linear maps, one for each model."""

    def __init__(self, modules: Sequence[nn.Linear]):
        super().__init__()
        self.weight = _weights(modules, "weight")  # (models, out, in)
        self.bias = None if modules[0].bias is None else _weights(modules, "bias")

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Map (models * rows, ..., in) to (models * rows, ..., out)."""
        flat = values.reshape(len(self.weight), -1, values.shape[-1])
        weight = self.weight.transpose(1, 2)
        if self.bias is None:
            found = torch.bmm(flat, weight)
        else:
            found = torch.baddbmm(self.bias[:, None], flat, weight)
        return found.view(*values.shape[:-1], -1)


class StackedEmbedding(nn.Module):
    """Embeddings of tokens, one table for each model."""

    def __init__(self, modules: Sequence[nn.Embedding]):
        super().__init__()
        self.weight = _weights(modules, "weight")  # (models, vocabulary, width)
        self.num_embeddings = modules[0].num_embeddings

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Look up ids (models * rows, tokens): (models * rows, tokens, width)."""
        models = len(self.weight)
        starts = torch.arange(models, device=ids.device) * self.num_embeddings
        found = F.embedding(_apart(ids, models) + starts[:, None, None], self.weight.flatten(0, 1))
        return found.flatten(0, 1)


class StackedNorm(nn.Module):
    """Root mean square norms, one for each model."""

    def __init__(self, modules: Sequence[LlamaRMSNorm]):
        super().__init__()
        self.weight = _weights(modules, "weight")  # (models, width)
        self.epsilon = modules[0].variance_epsilon

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Norm (models * rows, ..., width)."""
        values = values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + self.epsilon)
        flat = values.reshape(len(self.weight), -1, values.shape[-1])
        return (self.weight[:, None] * flat).view(values.shape)


class StackedAdapter(nn.Module):
    """Adapters, one for each model."""

    def __init__(self, modules: Sequence[Adapter]):
        super().__init__()
        self.project = stacked([module.project for module in modules])
        positions = modules[0].row_positions is not None
        # both (models, side, LM width)
        self.row_positions = _weights(modules, "row_positions") if positions else None
        self.column_positions = _weights(modules, "column_positions") if positions else None

    def forward(self, tokens: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Map tokens as `Adapter` does, (models * images, tokens, space width)."""
        embeds = self.project(tokens)
        if self.row_positions is None:
            return embeds
        # (models, tokens, LM width)
        positions = (self.row_positions[:, :, None] + self.column_positions[:, None]).flatten(1, 2)
        apart = _apart(embeds, len(positions))
        return (apart + positions[:, None, start : start + tokens.shape[1]]).flatten(0, 1)


class StackedDistort(nn.Module):
    """Distortions of one family and place, one for each model."""

    def __init__(self, modules: Sequence[Distort]):
        super().__init__()
        self.each = nn.ModuleList(copy.deepcopy(module) for module in modules)
        self.distortion, self.width = modules[0].distortion, modules[0].width

    def lookup(self, images: torch.Tensor) -> torch.Tensor:
        """Permute codes as `Distort` does, (models * images, tokens)."""
        parts = images.chunk(len(self.each))
        return torch.cat([one.lookup(part) for one, part in zip(self.each, parts, strict=True)])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Distort tokens as `Distort` does, (models * images, tokens, width)."""
        parts = tokens.chunk(len(self.each))
        return torch.cat([one(part) for one, part in zip(self.each, parts, strict=True)])


# what a stack has for each kind of module with weights
STACKED = {
    nn.Linear: StackedLinear,
    SilentLinear: StackedLinear,
    nn.Embedding: StackedEmbedding,
    LlamaRMSNorm: StackedNorm,
    Adapter: StackedAdapter,
    Distort: StackedDistort,
}


def _weights(modules: Sequence[nn.Module], name: str) -> nn.Parameter:
    """Return a weight of every module as one parameter, (models, ...)."""
    first = getattr(modules[0], name)
    both = torch.stack([getattr(module, name).detach() for module in modules])
    return nn.Parameter(both, requires_grad=first.requires_grad)


def _apart(rows: torch.Tensor, models: int) -> torch.Tensor:
    """Split rows (models * rows, ...) by model: (models, rows, ...)."""
    return rows.unflatten(0, (models, -1))
