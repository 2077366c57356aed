"""The language models that are pre-trained here: one family, four sizes (paper section B).

The paper has one language model, Vicuna-7B, and asks what a more advanced one would gain.

Belongs here: their names, their shapes and their parameters. Not here: their pre-training
(`pretraining/text.py`), configurations of published networks (`training/sizes.py`). This module
imports no torch.

A model has as many heads as layers, each `HEAD_WIDTH` wide, so depth and width grow together.
"""

SHIPPED_LM = "pretrained/language_model"
LM_LAYERS = {  # network -> its layers; `make language_models` puts the others into the cache
    "cache/language_model_tiny": 2,
    SHIPPED_LM: 4,
    "cache/language_model_medium": 7,
    "cache/language_model_large": 11,
}
HEAD_WIDTH = 32
LM_TOKENS = 541  # of the shipped tokenizer, with those for images


def shape_of(name: str) -> dict:
    """Return the settings of a model's `LlamaConfig`, but for its tokens.

    ValueError for a model that is not in `LM_LAYERS`.
    """
    if name not in LM_LAYERS:
        raise ValueError(f"language model {name!r} is not one of {', '.join(LM_LAYERS)}.")
    layers = LM_LAYERS[name]
    width = HEAD_WIDTH * layers
    # Untied as in Vicuna. Initial weights have three times the usual scale. At the usual scale,
    # AdamW soon adds a common shift to all embeddings that is larger than their differences. The
    # tokens of a text are then hard to tell apart.
    return dict(
        hidden_size=width,
        intermediate_size=8 * -(-width // 3),  # 8/3 of the width, as in Llama
        num_hidden_layers=layers,
        num_attention_heads=layers,
        num_key_value_heads=layers,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        initializer_range=0.06,
    )


def parameters_of(name: str) -> int:
    """Return the number of a model's parameters, embeddings included; ValueError as `shape_of`."""
    shape = shape_of(name)
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    layer = 4 * width**2 + 3 * width * inner + 2 * width  # attention, MLP, norms
    return shape["num_hidden_layers"] * layer + 2 * LM_TOKENS * width + width
