"""Kinds of encoders and heads: architectures are named in one place, and a new kind needs no other
line changed."""

import numpy as np
import pytest
import torch

from uvlm_core.models.encoders import ENCODERS
from uvlm_core.models.heads import HEADS
from uvlm_core.models.kinds import KINDS, OUTPUTS, Kind, kinds_of, output_of
from uvlm_core.runs.carry_out import train_and_score
from uvlm_core.scoring.evaluation import DRAWN_WATCHES
from uvlm_core.scoring.picture_evaluation import DRAWN_PICTURES
from uvlm_core.training.spec import ARCHITECTURES, PART_OF, RunSpec


class MeanEncoder:
    """The mean colours of patches as features: a toy."""

    kind, codes, tokens, width, side = "mean", 0, 16, 3, 4

    def __init__(self, name: str):
        self.name = name

    @classmethod
    def load(cls, name: str) -> "MeanEncoder":
        return cls(name)

    def encode(self, images: np.ndarray) -> np.ndarray:
        count, height, width, _ = images.shape
        patches = images.reshape(
            count, self.side, height // self.side, self.side, width // self.side, 3
        )
        return (patches.mean((2, 4)).reshape(count, self.tokens, 3) / 255).astype(np.float32)


@pytest.fixture
def mean_kind(monkeypatch):
    monkeypatch.setitem(KINDS, "Mean", Kind("semantic_encoder", "mlp", "features"))
    monkeypatch.setitem(ENCODERS, "Mean", MeanEncoder)


@pytest.fixture
def short(spec) -> RunSpec:
    """A run of two steps."""
    return spec.vary(
        images=16,
        vqa_examples=12,
        caption_examples=4,
        generation_examples=16,
        fractions=(1.0,),
        test_watches=4,
        generated_watches=4,
        feature_reader="",
        feature_decoder="",
    )


@pytest.mark.parametrize("architecture", ["Mean-Mean", "Mean-VQ", "SigLIP-Mean"])
def test_a_new_kind_of_encoder_is_trained_answers_and_draws(
    architecture, mean_kind, short, tmp_path
):
    spec = short.vary(architecture=architecture)
    body, _ = train_and_score(spec, tmp_path / "run")
    metrics = {row["metric"] for row in body["scores"]}
    drawn = "read_back" if architecture == "Mean-VQ" else "feature_cosine_forced"
    assert body["counts"]["steps"] == 2 and metrics >= {
        "partial",
        "triggered",
        "alignment_cka",
        drawn,
    }
    assert RunSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize("architecture", ["VQ-Latent", "SigLIP-Latent", "VQ-SigLIP"])
@pytest.mark.parametrize("loss", ["flow", "mse"])
def test_what_is_continuous_is_sampled_or_regressed_and_scored(architecture, loss, short, tmp_path):
    spec = short.vary(architecture=architecture, feature_loss=loss, regime="generation")
    body, _ = train_and_score(spec, tmp_path / "run")
    metrics = {row["metric"] for row in body["scores"]}
    latents = architecture.endswith("Latent")
    assert ("read_back" in metrics) == latents == ("feature_cosine" not in metrics)
    assert spec.canonical().training.feature_loss == loss
    assert spec.canonical().model.vq_tokenizer == (
        spec.model.vq_tokenizer if latents else RunSpec().model.vq_tokenizer
    )


def test_every_kind_has_what_its_entry_promises():
    assert set(ENCODERS) == set(KINDS) and set(HEADS) == set(OUTPUTS) == set(DRAWN_WATCHES) == set(
        DRAWN_PICTURES
    )
    names = PART_OF
    assert all(kind.network in names and kind.output in OUTPUTS for kind in KINDS.values())
    for output in OUTPUTS.values():
        assert {output.weight, *output.settings, *output.scorers} <= set(names)


def test_an_architecture_is_two_kinds():
    assert [kinds_of(name) for name in ARCHITECTURES] == [
        ("SigLIP", "VQ"),
        ("VQ", "VQ"),
        ("SigLIP", "SigLIP"),
        ("VQ", "SigLIP"),
    ]
    assert (
        output_of("SigLIP-VQ") is OUTPUTS["codes"] and output_of("VQ-SigLIP") is OUTPUTS["features"]
    )
    for name in ("VQ", "VQ-", "vq-VQ", "VQ-VQ-VQ", "Mean-VQ"):
        with pytest.raises(
            ValueError,
            match=f"architecture '{name}' is not one of .*SigLIP-VQ, VQ-VQ, .*SigLIP-SigLIP",
        ):
            kinds_of(name)


def test_features_are_decoded_as_they_are_predicted_at_every_temperature():
    hidden, network = torch.randn(3, 5), torch.nn.Linear(5, 4)
    found = HEADS["features"].choose(network, hidden, 1.0, torch.rand(3))
    assert torch.equal(found, network(hidden))
