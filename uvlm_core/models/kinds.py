"""The kinds of image spaces and what differs between them, as values (paper section 3, figure 2).

An architecture such as "SigLIP-VQ" names two kinds: that of the images a model reads and that of
the images it writes. Nothing else takes the name apart. This module imports no torch.

A new kind of encoder is an entry in `KINDS` and its class in `encoders.ENCODERS`. A new kind of
output is an entry in `OUTPUTS`, its head in `heads.HEADS` and its scores in the two evaluations.
"""

from dataclasses import dataclass

FEATURE_LOSSES = ("cosine", "mse")


@dataclass(frozen=True)
class Kind:
    """One kind of image space."""

    network: str  # the field of a run that names its frozen network
    adapter: str  # form of its adapter: "linear" or "mlp"
    output: str  # what a model writes in it, one of OUTPUTS


@dataclass(frozen=True)
class Output:
    """One kind of what models write."""

    weight: str  # the field of a run with alpha, the weight of the image loss
    settings: tuple[str, ...]  # the fields of a run that only models with this output see
    scorers: tuple[str, ...]  # the fields of a run that name the networks which score it
    read_back: str  # the metric of attributes read back from generated watches
    retrieval: str  # the metric of drawn pictures found among the real ones


KINDS = {  # the position of a kind is part of the random stream of initial weights
    "VQ": Kind("vq_tokenizer", "linear", "codes"),
    "SigLIP": Kind("semantic_encoder", "mlp", "features"),
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
}


def kinds_of(architecture: str) -> tuple[str, str]:
    """The kinds of an architecture: (understanding, generation). ValueError for an unknown one."""
    known = {f"{one}-{other}": (one, other) for other in KINDS for one in reversed(KINDS)}
    if architecture not in known:
        raise ValueError(f"architecture {architecture!r} is not one of {', '.join(known)}.")
    return known[architecture]


def output_of(architecture: str) -> Output:
    """What models of an architecture write."""
    return OUTPUTS[KINDS[kinds_of(architecture)[1]].output]


def kind_of_space(space: dict) -> Kind:
    """The kind of a space as a model's configuration describes it: its name there is in lower
    case.
    """
    return {name.lower(): kind for name, kind in KINDS.items()}[space["kind"]]
