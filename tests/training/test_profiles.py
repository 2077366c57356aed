"""The named scales: what each changes in the paper's values."""

import pytest

from uvlm_core.training.profiles import PROFILES, profile
from uvlm_core.training.spec import RunSpec


def test_profiles_are_found_by_name_and_come_back_from_json():
    assert list(PROFILES) == ["smoke", "laptop", "smollm", "paper"]
    for name, some in PROFILES.items():
        assert profile(name) is some and some.name == name
        assert RunSpec.from_dict(some.spec.to_dict()) == some.spec


def test_the_papers_profile_deviates_in_nothing():
    assert profile("paper").spec == RunSpec()


def test_the_laptops_profile_says_its_deviations():
    """The values that its records were made with: another one renames them all."""
    values = profile("laptop").spec.to_dict()
    assert values["data"] == {
        "image_size": 64,
        "images": 14_000,
        "vqa_examples": 9400,
        "caption_examples": 600,
        "generation_examples": 14_000,
        "turns": 5,
        "fewest_turns": 0,
        "mention_rate": 0.8,
    }
    assert values["model"] == {
        "language_model": "pretrained/language_model",
        "tokenizer": "pretrained/tokenizer",
        "semantic_encoder": "pretrained/siglip",
        "vq_tokenizer": "pretrained/vq",
        "adapter_positions": True,
    }
    assert values["training"] == {
        "tuning": "full",
        "precision": "fp32",
        "activation_checkpointing": False,
        "optimizer": "muon",
        "learning_rate": 0.01,
        "adapter_learning_rate": 0.002,
        "image_loss_weight": 1.0,
        "feature_loss_weight": 5.0,
        "feature_dropout": 0.5,
        "batch_size": 8,
        "batch_counts": "understanding",
        "threads": 1,
    }
    assert values["scoring"] == {
        "fractions": [0.02, 0.035, 0.06, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0],
        "test_watches": 500,
        "reader": "pretrained/reader",
        "feature_reader": "pretrained/siglip_reader",
        "feature_decoder": "pretrained/siglip_decoder",
    }


def test_the_smoke_profile_is_the_laptops_in_small():
    laptop, smoke = (profile(name).spec.flat() for name in ("laptop", "smoke"))
    assert {name for name in laptop if laptop[name] != smoke[name]} == {
        "images",
        "vqa_examples",
        "caption_examples",
        "generation_examples",
        "fractions",
        "test_watches",
        "generated_watches",
    }


@pytest.mark.parametrize("name", ["desktop", "", "LAPTOP", None])
def test_an_unknown_profile_is_refused_with_those_that_exist(name):
    with pytest.raises(ValueError, match=f"profile {name!r} is not one of smoke, laptop"):
        profile(name)
