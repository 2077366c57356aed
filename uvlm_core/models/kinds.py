"""The kinds of image spaces and what differs between them, as values (paper section 3, figure 2).

Belongs here: `KINDS`, `OUTPUTS` and the parsing of an architecture's name. Not here: the encoders
(`encoders.py`), the heads (`heads.py`). This module imports no torch.

An architecture such as "SigLIP-VQ" names two kinds: of the images a model reads, and of the images
it writes.

A new kind of encoder is an entry in `KINDS` and a class in `encoders.ENCODERS`. A new kind of
output is an entry in `OUTPUTS`, a head in `heads.HEADS` and scores in `scoring/evaluation.py` and
`scoring/picture_evaluation.py`.
"""

from dataclasses import dataclass

# the first two regress features; the others sample them, token by token or an image at once
FEATURE_LOSSES = ("cosine", "mse", "flow", "image_flow")


@dataclass(frozen=True)
class Kind:
    """One kind of image space."""

    network: str  # the field of `RunSpec` that names its frozen network
    adapter: str  # form of its adapter: "linear" or "mlp"
    output: str  # what a model writes in this space, one of OUTPUTS


@dataclass(frozen=True)
class Output:
    """One kind of output."""

    weight: str  # the field of `RunSpec` with alpha, the weight of the image loss
    settings: tuple[str, ...]  # the fields of `RunSpec` that only models with this output see
    scorers: tuple[str, ...]  # the fields of `RunSpec` that name the networks which score it
    read_back: str  # the metric of attributes read back from generated watches
    retrieval: str  # the metric of drawn pictures found among the real ones


KINDS = {  # a kind's position seeds its initial weights: append new kinds at the end
    "VQ": Kind("vq_tokenizer", "linear", "codes"),
    "SigLIP": Kind("semantic_encoder", "mlp", "features"),
    "Latent": Kind("vq_tokenizer", "linear", "latents"),  # what VQ rounds to codes
}
OUTPUTS = {
    "codes": Output(
        "image_loss_weight",
        ("image_loss_weight",),
        ("reader", "inception"),
        "read_back",
        "drawn_retrieval",
    ),
    "features": Output(
        "feature_loss_weight",
        ("feature_loss_weight", "feature_loss", "feature_dropout"),
        ("feature_reader", "feature_decoder"),
        "feature_read_back",
        "feature_drawn_retrieval",
    ),
    "latents": Output(
        "feature_loss_weight",
        ("feature_loss_weight", "feature_loss", "feature_dropout"),
        ("reader", "inception"),
        "read_back",
        "drawn_retrieval",
    ),
}


def kinds_of(architecture: str) -> tuple[str, str]:
    """Return an architecture's kinds (understanding, generation); ValueError for an unknown one."""
    known = {f"{one}-{other}": (one, other) for other in KINDS for one in reversed(KINDS)}
    if architecture not in known:
        raise ValueError(f"architecture {architecture!r} is not one of {', '.join(known)}.")
    return known[architecture]


def output_of(architecture: str) -> Output:
    """Return the output kind of an architecture."""
    return OUTPUTS[KINDS[kinds_of(architecture)[1]].output]


def kind_of_space(space: dict) -> Kind:
    """Return the kind of a space, given as in a model's configuration (its name in lower case)."""
    return {name.lower(): kind for name, kind in KINDS.items()}[space["kind"]]
