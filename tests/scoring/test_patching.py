"""Activation patching: the same watch changes nothing, all of another one gives its answer, pairs
differ in one."""

import numpy as np
import pytest
import torch

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.conversations import IMAGE
from uvlm_core.data.smart_watch import render_batch, sample_watches
from uvlm_core.scoring.patching import GROUPS, _groups, pairs_of, patch_effects

WATCHES = sample_watches(12, 6)


def encoded(encoder, pairs):
    return [encoder.encode(render_batch([pair[side] for pair in pairs])) for side in (0, 1)]


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_a_pair_differs_in_its_attribute_alone(attribute):
    for recipient, donor in pairs_of(sample_watches(13, 40), attribute):
        others = [name for name in ATTRIBUTES if name != attribute]
        assert ATTRIBUTES[attribute].truth(recipient) != ATTRIBUTES[attribute].truth(donor)
        assert all(
            ATTRIBUTES[name].truth(recipient) == ATTRIBUTES[name].truth(donor) for name in others
        )
        assert recipient.colour == donor.colour
        if attribute == "battery":
            assert abs(recipient.battery - donor.battery) >= 30
    assert pairs_of(WATCHES, attribute) == pairs_of(WATCHES, attribute)


@pytest.mark.parametrize("architecture", ["VQ-VQ", "SigLIP-VQ"])
def test_patching_everything_gives_the_donors_answer_and_later_layers_lose_what_was_read(
    architecture, new_model, processor, encoders
):
    model = new_model(architecture).eval()
    pairs = pairs_of(WATCHES, "weather")
    table = patch_effects(
        model, processor, pairs, "weather", encoded(encoders[architecture.split("-")[0]], pairs)
    )
    effects = table.set_index(["layer", "group"])["effect"]
    assert len(table) == 3 * len(GROUPS) and set(table["samples"]) == {6}
    for layer in range(3):
        assert effects[layer, "all"] == pytest.approx(1, abs=1e-4)
    # the question is the same: all that differs comes in here
    assert effects[0, "image"] == pytest.approx(1, abs=1e-4)
    assert effects[0, "question"] == pytest.approx(0, abs=1e-4)
    # after the last block nothing else is looked at
    assert effects[2, "last"] == pytest.approx(1, abs=1e-4)
    assert effects[2, "image"] == pytest.approx(0, abs=1e-4)
    everything = table[table["group"] == "all"]
    assert table["gap"].nunique() == 1 and (everything["flipped"] == table["told"].iloc[0]).all()
    assert np.allclose(everything[["low", "high"]], 1, atol=1e-4)  # whichever pairs are drawn
    between = table[(table["layer"] == 1) & (table["group"] == "image")].iloc[0]
    assert between["low"] < between["effect"] < between["high"]
    (one,) = (
        patch_effects(
            model,
            processor,
            pairs[:1],
            "weather",
            encoded(encoders[architecture.split("-")[0]], pairs[:1]),
            ["all"],
        )[["low", "high"]]
        .isna()
        .all(axis=1)
        .unique()
    )
    assert one  # a single pair has no interval


def test_patching_a_watch_with_itself_changes_nothing(new_model, processor, encoders):
    model, pairs = new_model("VQ-VQ").eval(), pairs_of(WATCHES, "battery")
    recipients, donors = encoded(encoders["VQ"], pairs)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    table = patch_effects(model, processor, pairs, "battery", [recipients, recipients])
    # nothing of a difference that is none
    assert table[["effect", "low", "high"]].isna().all(axis=None)
    assert (table[["flipped", "gap", "told"]] == 0).all(axis=None)
    assert all(np.array_equal(tensor, model.state_dict()[name]) for name, tensor in kept.items())
    assert not any(block._forward_hooks for block in model.language_model.model.layers)


def test_gap_and_told_are_of_the_answers_that_the_model_gives_without_a_patch(
    new_model, processor, encoders
):
    model, pairs = new_model("SigLIP-VQ").eval(), pairs_of(sample_watches(14, 12), "weather")
    images = encoded(encoders["SigLIP"], pairs)
    table = patch_effects(model, processor, pairs, "weather", images, ["last"])
    ids = torch.tensor(
        [[processor.bos, *processor.human_ids(f"{IMAGE}\n{ATTRIBUTES['weather'].questions[0]}")]]
    )
    differences = []  # (pairs, 2): the logit of the donor's answer minus that of the recipient's
    for number, pair in enumerate(pairs):
        # its first token tells
        recipient, donor = (processor.answer_ids(watch.weather)[0] for watch in pair)
        with torch.inference_mode():
            logits = [
                model.language_model.lm_head(
                    model.hidden_states(
                        model.embed(ids, torch.from_numpy(side[number : number + 1])),
                        use_cache=False,
                    )[0, -1]
                )
                for side in images
            ]
        differences.append([float(some[donor] - some[recipient]) for some in logits])
    first, second = np.array(differences).T
    assert table["gap"].to_numpy() == pytest.approx((second - first).mean(), abs=1e-4)
    told = ((first < 0) & (second > 0)).mean()
    assert (table["told"] == told).all() and 0 < told < 1


def test_the_groups_of_tokens_do_not_overlap_and_leave_out_what_stands_before_the_image(processor):
    ids = torch.tensor([processor.bos, 7, *[processor.image_in] * 4, 8, 9, 10])
    masks = {name: mask.tolist() for name, mask in _groups(ids, processor.image_in).items()}
    assert masks == {
        "image": [k in range(2, 6) for k in range(9)],
        "question": [k in (6, 7) for k in range(9)],
        "last": [k == 8 for k in range(9)],
        "all": [True] * 9,
    }


@pytest.mark.parametrize(
    ("pairs", "attribute", "groups", "words"),
    [
        (
            [(WATCHES[0], WATCHES[0])],
            "weather",
            GROUPS,
            "Both watches of pair 0 have weather '[a-z]+'; they must differ",
        ),
        ([], "weather", GROUPS, "There are no pairs of watches"),
        (
            pairs_of(WATCHES, "time"),
            "corners",
            GROUPS,
            "attribute 'corners' is not one of time, weather",
        ),
        (
            pairs_of(WATCHES, "time"),
            "time",
            ("images",),
            "group 'images' is not one of image, question, last, all",
        ),
    ],
)
def test_what_cannot_be_patched_is_refused(
    pairs, attribute, groups, words, new_model, processor, encoders
):
    images = encoded(encoders["VQ"], pairs or pairs_of(WATCHES, "time"))
    with pytest.raises(ValueError, match=words):
        patch_effects(new_model("VQ-VQ"), processor, pairs, attribute, images, groups)
    if attribute == "corners":
        with pytest.raises(ValueError, match=words):
            pairs_of(WATCHES, attribute)
