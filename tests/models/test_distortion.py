"""Distortions: the identity at dose 0, their inverses, doses that mean what they say, and the side
they touch."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uvlm_core.data.conversations import make_conversations
from uvlm_core.data.tokens import collate
from uvlm_core.models.decoding import answer, generate_images
from uvlm_core.models.distort import (
    Distort,
    angle,
    condition_number,
    displacement,
    partial_rotation,
    random_rotation,
    strength,
)
from uvlm_core.models.distortion import FAMILIES, SIDES, Distortion
from uvlm_core.models.unified import UnifiedVLM
from uvlm_core.runs.carry_out import train_and_score
from uvlm_core.training.loop import prepare, train
from uvlm_core.training.networks import tune

WIDTH, LENGTH = 8, 3.0
DOSES = {
    "rotation": 0.4,
    "scaling": 1.2,
    "shift": 2.0,
    "affine": 0.7,
    "authors": 0.3,
    "residual": 0.8,
    "warp": 4.0,
    "permutation": 0.5,
    "width": 0.625,
}  # of every family one that does something


def drawn(family: str, dose: float, width: int = WIDTH, seed: int = 1, codes: int = 24) -> Distort:
    return Distort(Distortion(family, dose), width, codes).double().draw(seed, some_tokens(width))


def some_tokens(width: int = WIDTH) -> torch.Tensor:
    """Float64 (200, width) of mean length `LENGTH`."""
    found = torch.randn(200, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return found * LENGTH / found.norm(dim=-1).mean()


@pytest.fixture
def tokens():
    """Float64 (50, width) of a mean length of about `LENGTH`."""
    return some_tokens()[:50]


@pytest.mark.parametrize("family", FAMILIES)
def test_dose_0_is_the_identity_to_the_bit_and_holds_nothing(family, tokens):
    none = drawn(family, 0)
    codes = torch.arange(24)[None]
    assert none(tokens) is tokens and none.lookup(codes) is codes and none.inverse(tokens) is tokens
    assert none.width == WIDTH and not none.state_dict()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_changes_what_comes_in_by_its_seed_alone(family, tokens):
    one, same, other = (drawn(family, DOSES[family], seed=seed) for seed in (1, 1, 2))
    if family == "permutation":
        codes = torch.arange(24)[None]
        outputs = [some.lookup(codes) for some in (one, same, other)]
        assert not torch.equal(outputs[0], codes) and one(tokens) is tokens
    else:
        outputs = [some(tokens) for some in (one, same, other)]
        assert outputs[0].shape == (50, one.width)
        assert one.width != WIDTH or displacement(one, tokens) > 0.02
    assert torch.equal(outputs[0], outputs[1])
    assert family == "warp" or not torch.equal(outputs[0], outputs[2])  # the warp draws nothing


@pytest.mark.parametrize(
    ("family", "dose"),
    [(family, dose) for family, dose in DOSES.items() if family not in ("permutation", "width")]
    + [("width", 1.625)],
)
def test_the_inverse_undoes_it(family, dose, tokens):
    distort = drawn(family, dose)
    torch.testing.assert_close(distort.inverse(distort(tokens)), tokens, rtol=1e-9, atol=1e-9)


def test_a_projection_to_fewer_coordinates_has_no_inverse(tokens):
    distort = drawn("width", 0.625)
    with pytest.raises(ValueError, match="A projection from 8 to 5 coordinates has no inverse"):
        distort.inverse(distort(tokens))


@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_a_permutation_moves_its_share_of_the_codes_and_loses_none(share):
    places = drawn("permutation", share).places
    assert sorted(places.tolist()) == list(range(24))
    assert int((places != torch.arange(24)).sum()) == max(2, round(24 * share))
    codes = torch.randint(24, (3, 16))
    assert torch.equal(places.argsort()[drawn("permutation", share).lookup(codes)], codes)


@given(st.floats(0, 1), st.integers(2, 9), st.integers(0, 99))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_part_of_a_rotation_turns_by_that_part_of_its_angle(part, width, seed):
    full = random_rotation(np.random.default_rng(seed), width)
    some = partial_rotation(full, part)
    np.testing.assert_allclose(some @ some.T, np.eye(width), atol=1e-9)
    assert np.linalg.det(some) == pytest.approx(1) and np.linalg.det(full) == pytest.approx(1)
    assert angle(some) == pytest.approx(part * angle(full), abs=1e-5)
    np.testing.assert_allclose(partial_rotation(full, 1.0), full, atol=1e-9)


@pytest.mark.parametrize("dose", [0.1, 0.5, 1.0])
def test_angle_condition_number_and_shift_are_those_asked_for(dose):
    full = angle(drawn("rotation", 1.0).matrix.numpy())
    assert 60 < full < 150
    for family, turned, stretched, moved in (
        ("rotation", True, False, False),
        ("scaling", False, True, False),
        ("shift", False, False, True),
        ("affine", True, True, True),
    ):
        distort = drawn(family, dose)
        matrix, offset = distort.matrix.numpy(), distort.offset
        if family != "affine":  # there the rotation is drawn first, so that it is the same one
            assert angle(matrix) == pytest.approx(dose * full if turned else 0, abs=1e-5)
        assert condition_number(matrix) == pytest.approx(10**dose if stretched else 1)
        assert (matrix**2).sum() == pytest.approx(WIDTH)
        assert float(offset.norm()) == pytest.approx(dose * LENGTH if moved else 0)
    rotation, affine = (
        drawn(family, dose, seed=5).matrix.numpy() for family in ("rotation", "affine")
    )
    assert angle(affine) == pytest.approx(
        dose * angle(drawn("affine", 1.0, seed=5).matrix.numpy()), abs=1e-5
    )
    assert rotation.shape == affine.shape


@pytest.mark.parametrize("strength", [0.1, 0.2, 0.3])
def test_the_authors_recipe_is_a_full_rotation_with_scales_and_shift_of_its_strength(strength):
    for seed in range(5):
        distort = drawn("authors", strength, seed=seed)
        matrix, offset = distort.matrix.numpy(), distort.offset.numpy()
        # x A: every column a direction of the rotation, times its scale
        scales = np.linalg.norm(matrix, axis=0)
        rotation = matrix / scales
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(WIDTH), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)
        np.testing.assert_allclose(np.sort(np.linalg.svd(matrix)[1]), np.sort(scales))
        assert (abs(scales - 1) <= strength).all() and (abs(offset) <= strength).all()
        assert abs(scales - 1).max() > 0.3 * strength < abs(offset).max() + 0.2 * strength
        weak = drawn("authors", 0.01, seed=seed).matrix.numpy()
        # the rotation does not depend on the strength
        assert angle(matrix) == pytest.approx(angle(weak), abs=1)
        assert angle(rotation) > 50


def test_the_nonlinear_families_are_not_linear_and_the_warp_is_monotone(tokens):
    for family in ("residual", "warp"):
        distort = drawn(family, DOSES[family])
        assert float((distort(2 * tokens) - 2 * distort(tokens)).abs().max()) > 0.05
    line = torch.linspace(-5, 5, 101, dtype=torch.float64)[:, None].expand(-1, WIDTH)
    assert (drawn("warp", 4.0)(line).diff(dim=0) > 0).all()


@pytest.mark.parametrize(
    ("family", "doses"),
    [
        ("rotation", (0.1, 0.4, 1.0)),
        ("scaling", (0.3, 1.0, 2.0)),
        ("shift", (0.3, 1.0, 2.0)),
        ("residual", (0.2, 0.5, 0.9)),
        ("warp", (0.5, 2.0, 8.0)),
    ],
)
def test_more_of_a_dose_moves_tokens_further(family, doses, tokens):
    moved = [displacement(drawn(family, dose), tokens) for dose in doses]
    assert moved == sorted(moved) and moved[0] > 0


@pytest.mark.parametrize(
    ("family", "dose"), [("residual", 0.3), ("residual", 0.95), ("warp", 0.5), ("warp", 20)]
)
def test_bent_tokens_are_as_long_as_they_were(family, dose):
    assert strength(drawn(family, dose), some_tokens())["length"] == pytest.approx(1, abs=1e-6)


def test_a_stretched_space_keeps_its_mean_square_and_a_wider_one_that_of_a_coordinate():
    for seed in range(3):
        scales = np.linalg.svd(drawn("scaling", 2.0, seed=seed).matrix.numpy())[1]
        assert np.mean(scales**2) == pytest.approx(1)
    wide, narrow = (drawn("width", dose)(some_tokens()).square().mean() for dose in (2, 0.5))
    assert wide == pytest.approx(float(some_tokens().square().mean()))
    # what is left out is random
    assert narrow == pytest.approx(float(some_tokens().square().mean()), rel=0.3)


def test_the_strength_of_a_distortion_is_what_it_does():
    found = strength(drawn("affine", 0.5), some_tokens())
    assert found["shift"] == pytest.approx(0.5) and found["condition"] == pytest.approx(10**0.5)
    assert found["angle"] == pytest.approx(angle(drawn("affine", 0.5).matrix.numpy()))
    assert found["displacement"] == pytest.approx(displacement(drawn("affine", 0.5), some_tokens()))
    assert set(strength(drawn("width", 2), some_tokens())) == {"displacement", "length"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(family=["affine"], dose=1), r"distortion family \['affine'\] is not one of rotation"),
        (dict(family="skew", dose=1), "distortion family 'skew' is not one of rotation, scaling"),
        (
            dict(family="affine", dose=1.5),
            "distortion dose 1.5 of 'affine' is not a number from 0 to 1",
        ),
        (dict(family="affine", dose=-0.1), "distortion dose -0.1 of 'affine'"),
        (dict(family="affine", dose=float("nan")), "distortion dose nan of 'affine'"),
        (dict(family="affine", dose="1"), "distortion dose '1' of 'affine'"),
        (dict(family="affine", dose=True), "distortion dose True of 'affine'"),
        (
            dict(family="residual", dose=1),
            "distortion dose 1 of 'residual' is not a number from 0 to 0.95",
        ),
        (
            dict(family="width", dose=20),
            "distortion dose 20 of 'width' is not a number from 0 to 16",
        ),
        (
            dict(family="width", dose=4, place="after"),
            "distortion 'width' has no meaning after the adapter",
        ),
        (
            dict(family="permutation", dose=1, place="after"),
            "distortion 'permutation' has no meaning after",
        ),
        (
            dict(family="affine", dose=1, side="both"),
            "distortion side 'both' is not one of understanding, generation",
        ),
        (
            dict(family="affine", dose=1, place="within"),
            "distortion place 'within' is not one of before, after",
        ),
    ],
)
def test_bad_distortions_are_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        Distortion(**values)


@pytest.mark.parametrize("dose", [0.3, 0.01, 1.1])
def test_a_width_that_is_no_whole_number_is_refused(dose):
    with pytest.raises(
        ValueError,
        match=f"distortion dose {dose} of 'width' makes 8 coordinates .* not a whole number",
    ):
        Distort(Distortion("width", dose), 8)


def test_a_space_without_codes_has_nothing_to_permute():
    with pytest.raises(ValueError, match="'permutation' needs a space of codes"):
        Distort(Distortion("permutation", 1.0), 24, 0)


# In a model


def model_of(new_model, images, architecture, *distortions, shared=False, **settings):
    return new_model(
        architecture, shared, distortions=distortions, images=images[:8], **settings
    ).eval()


@pytest.fixture
def batch(processor, watches, tables):
    def make(architecture, *tasks):
        kinds = architecture.split("-")
        rows = [
            processor.row(talk)
            for task in tasks
            for talk in make_conversations(watches[:4], task, 0, turns=2)
        ]
        return collate(rows, tables[kinds[0]], tables[kinds[1]], processor.pad)

    return make


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("architecture", ["VQ-VQ", "SigLIP-SigLIP", "VQ-SigLIP"])
@pytest.mark.parametrize("side", SIDES)
def test_a_distortion_touches_its_own_side_alone(
    side, architecture, place, new_model, images, tables
):
    plain = model_of(new_model, images, architecture)
    model = model_of(new_model, images, architecture, Distortion("affine", 0.6, side, place))
    for each, kind in zip(SIDES, architecture.split("-"), strict=True):
        table = torch.from_numpy(tables[kind][:3])
        table = table if table.is_floating_point() else table.long()
        found, wanted = (getattr(some, f"embed_{each}")(table) for some in (model, plain))
        assert torch.equal(found, wanted) == (each != side)


@pytest.mark.parametrize(
    ("family", "place"),
    [
        (family, place)
        for family in FAMILIES
        for place in ("before", "after")
        if place == "before" or family not in ("width", "permutation")
    ],
)
def test_a_distorted_model_saved_and_loaded_answers_and_draws_alike(
    family, place, new_model, images, processor, watches, tables, tmp_path
):
    distortions = [Distortion(family, DOSES[family], side, place) for side in SIDES]
    model = model_of(new_model, images, "VQ-VQ", *distortions)
    model.save_pretrained(tmp_path)
    back = UnifiedVLM.from_pretrained(tmp_path).eval()
    assert model.state_dict().keys() == back.state_dict().keys()
    assert all(
        torch.equal(tensor, back.state_dict()[name]) for name, tensor in model.state_dict().items()
    )
    questions, requests = (
        make_conversations(watches[:4], task, 0) for task in ("vqa", "generation")
    )
    assert answer(model, processor, questions, tables["VQ"]) == answer(
        back, processor, questions, tables["VQ"]
    )
    drawn_by = [generate_images(some, processor, requests).tokens for some in (model, back)]
    np.testing.assert_array_equal(*drawn_by)
    uncached = generate_images(model, processor, requests, cached=False).tokens
    np.testing.assert_array_equal(uncached, drawn_by[0])


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("architecture", ["VQ-VQ", "SigLIP-SigLIP"])
def test_decoding_reads_what_training_reads(
    architecture, place, new_model, images, processor, watches
):
    """Pitfall 5: the authors train with a distortion of the generation side and decode without
    it."""
    model = model_of(
        new_model, images, architecture, Distortion("affine", 1.0, "generation", place)
    ).double()
    requests = make_conversations(watches[:3], "generation", 0)
    decoded = generate_images(model, processor, requests).tokens
    # the decoded images as if they were to be trained on
    for number, request in enumerate(requests):
        (bucket,) = collate([processor.row(request, number)], None, decoded, processor.pad)
        with torch.no_grad():
            images_out = bucket["images_out"]
            images_out = images_out.double() if images_out.is_floating_point() else images_out
            hidden = model.hidden_states(model.embed(bucket["input_ids"], None, images_out))[0, :-1]
            found = model.generation_head(
                hidden[bucket["input_ids"][0, 1:] == processor.image_out]
            ).numpy()
        if architecture == "VQ-VQ":
            np.testing.assert_array_equal(found.argmax(-1), decoded[number])
        else:
            np.testing.assert_allclose(found, decoded[number], atol=1e-4)


@pytest.mark.parametrize("family", ["affine", "permutation", "width"])
@pytest.mark.parametrize("side", SIDES)
def test_the_head_starts_as_without_a_distortion(side, family, new_model, images):
    plain, model = (
        model_of(new_model, images, "VQ-VQ", *some)
        for some in ((), (Distortion(family, 1.0 if family != "width" else 2.0, side),))
    )
    same = torch.equal(plain.generation_head.weight, model.generation_head.weight)
    # there the adapter reads nothing else
    assert same == (family != "width" or side == "understanding")


def test_the_two_sides_are_distorted_apart(new_model, images):
    model = model_of(
        new_model, images, "VQ-VQ", *(Distortion("affine", 1.0, side) for side in SIDES)
    )
    assert not torch.allclose(
        model.understanding_distortion.matrix, model.generation_distortion.matrix
    )


def test_lora_trains_a_distorted_model_and_leaves_the_distortion_alone(
    new_model, images, batch, spec
):
    model = model_of(new_model, images, "VQ-VQ", Distortion("affine", 0.5))
    kept = model.understanding_distortion.matrix.clone()
    tuned = tune(model, spec.vary(tuning="lora"))
    tuned(buckets=batch("VQ-VQ", "vqa", "generation")).loss.backward()
    trained = {name for name, p in tuned.named_parameters() if p.grad is not None}
    assert any("lora_A" in name for name in trained) and any(
        "understanding_adapter" in name for name in trained
    )
    assert torch.equal(model.understanding_distortion.matrix, kept)


@pytest.mark.parametrize("place", ["before", "after"])
def test_understanding_alone_never_meets_the_generation_sides_distortion(
    place, new_model, images, batch
):
    for architecture in ("VQ-VQ", "SigLIP-SigLIP"):
        for tasks, side in ((("vqa", "caption"), "generation"), (("generation",), "understanding")):
            gradients = []
            for distortions in ((), (Distortion("affine", 0.8, side, place),)):
                model = model_of(new_model, images, architecture, *distortions)
                model(buckets=batch(architecture, *tasks)).loss.backward()
                gradients.append({name: p.grad for name, p in model.named_parameters()})
            assert gradients[0].keys() == gradients[1].keys()
            for name, gradient in gradients[0].items():
                other = gradients[1][name]
                assert (gradient is None) == (other is None) and (
                    gradient is None or torch.equal(gradient, other)
                )


def test_a_width_takes_its_own_adapter_and_the_shared_one_only_where_both_sides_have_it(
    new_model, images
):
    one = Distortion("width", 0.625), Distortion("width", 0.625, "generation")
    assert (
        model_of(new_model, images, "VQ-VQ", one[0]).understanding_adapter.project.in_features == 5
    )
    assert model_of(new_model, images, "VQ-VQ", one[0], shared=True).generation_adapter is not None
    assert model_of(new_model, images, "VQ-VQ", *one, shared=True).generation_adapter is None
    assert (
        model_of(
            new_model, images, "VQ-VQ", Distortion("affine", 0.5), shared=True
        ).generation_adapter
        is None
    )


def test_the_identity_control_reproduces_the_undistorted_run(spec, tmp_path):
    runs = []
    for name, distortions in (
        ("plain", ()),
        ("control", tuple(Distortion("affine", 0, side) for side in SIDES)),
    ):
        result, _ = train_and_score(spec.vary(distortions=distortions), tmp_path / name)
        runs.append((result["scores"], result["samples"]["losses"]))
    assert runs[0][0] == runs[1][0]
    assert runs[0][1] == runs[1][1]


def test_a_distorted_run_resumes_exactly(spec, tmp_path):
    distorted = spec.vary(
        distortions=(Distortion("affine", 1.0), Distortion("residual", 0.5, "generation", "after"))
    )
    weights = []
    for name, cuts in (("whole", ()), ("cut", (4,))):
        for cut in (*cuts, None):
            model, _, steps, _, _ = prepare(distorted)

            def report(fraction, cut=cut):
                if cut is not None and round(fraction * 6) >= cut:
                    raise KeyboardInterrupt

            with contextlib.suppress(KeyboardInterrupt):
                train(model, steps, distorted, tmp_path / name, lambda *_: [], report)
        weights.append(model.state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_a_width_of_ones_own_keeps_the_architecture(spec, tmp_path):
    wide = spec.vary(
        architecture="SigLIP-VQ",
        regime="generation",
        distortions=(Distortion("width", 2, "generation"),),
    )
    assert wide.canonical().model.architecture == "SigLIP-VQ"
    warped = wide.vary(distortions=(Distortion("warp", 2, "generation"),))
    assert warped.canonical().model.architecture == "VQ-VQ"
    for asked in (wide, warped):
        states = [prepare(some)[0].state_dict() for some in (asked, asked.canonical())]
        adapters = [
            {
                name.split(".", 1)[1]: tensor
                for name, tensor in state.items()
                if name.startswith(
                    "generation_adapter."
                    if "generation_adapter.project.weight" in state
                    else "understanding_adapter."
                )
            }
            for state in states
        ]
        assert adapters[0] and all(
            torch.equal(tensor, adapters[1][name]) for name, tensor in adapters[0].items()
        )
