"""A run as a value: JSON and back, every bad value refused by name, nothing that changes a result left out."""

import json
import math
from dataclasses import FrozenInstanceError, fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uvlm_core.conversations import TASKS, AttributeBias
from uvlm_core.distortion import PLACES, SIDES, Distortion
from uvlm_core.profiles import ARCHITECTURES, OPTIMIZERS, PRECISIONS, PROFILES, REGIMES, TUNINGS, RunSpec, profile
from uvlm_core.runs import record_key
from uvlm_core.smart_watch import ATTRIBUTES

repeatably = settings(max_examples=60, deadline=None, derandomize=True)
RATES = st.floats(0, 10, exclude_min=True)
BIASES = st.lists(st.builds(
    AttributeBias, attribute=st.sampled_from(ATTRIBUTES), rate=st.floats(0, 1),
    tasks=st.lists(st.sampled_from(TASKS), min_size=1, unique=True).map(tuple)), max_size=3).map(tuple)
DISTORTIONS = st.tuples(*(st.builds(
    Distortion, family=st.sampled_from(("rotation", "affine", "warp")), dose=st.floats(0, 1), side=st.just(side),
    place=st.sampled_from(PLACES)) for side in SIDES)).flatmap(lambda both: st.sampled_from(
        ((), both[:1], both[1:], both)))
VALUES = {
    "architecture": st.sampled_from(ARCHITECTURES), "regime": st.sampled_from(REGIMES), "seed": st.integers(0, 2**31),
    "image_size": st.integers(32, 1024), "images": st.integers(1000, 10**6), "vqa_examples": st.integers(1, 1000),
    "caption_examples": st.integers(0, 1000), "generation_examples": st.integers(1, 1000), "turns": st.integers(1, 5),
    "fewest_turns": st.integers(0, 1), "inception": st.text(), "precision": st.sampled_from(PRECISIONS),
    "activation_checkpointing": st.booleans(), "biases": BIASES, "distortions": DISTORTIONS,
    "pictures": st.just(""), "picture_folder": st.text(), "sam_pictures": st.booleans(),
    "shuffled_requests": st.booleans(), "language_model": st.text(), "tokenizer": st.text(),
    "semantic_encoder": st.text(), "vq_tokenizer": st.text(), "reader": st.text(), "shared_adapter": st.booleans(),
    "adapter_positions": st.booleans(), "tuning": st.sampled_from(TUNINGS), "lora_rank": st.integers(1, 512),
    "lora_alpha": st.integers(1, 512), "optimizer": st.sampled_from(OPTIMIZERS), "learning_rate": RATES,
    "adapter_learning_rate": RATES, "momentum": st.floats(0, 1, exclude_max=True), "mention_rate": st.floats(0, 1),
    "weight_decay": st.floats(0, 1, exclude_max=True), "warmup": st.floats(0, 1, exclude_max=True),
    "image_loss_weight": RATES, "batch_size": st.integers(1, 512), "threads": st.integers(1, 64),
    "fractions": st.lists(st.floats(0.001, 0.999), unique=True).map(lambda values: (*sorted(values), 1.0)),
    "hours": st.sampled_from((12, 13)), "padding_image": st.booleans(),
    "feature_loss": st.sampled_from(("cosine", "mse")), "batch_counts": st.just("understanding"),
    "feature_loss_weight": st.one_of(st.just(1.0), RATES),
    "feature_dropout": st.one_of(st.just(0.0), st.floats(0, 1, exclude_max=True)),
    "feature_reader": st.text(), "feature_decoder": st.text(), "test_watches": st.integers(100, 5000),
    "generated_watches": st.integers(2, 5000), "probe_watches": st.one_of(st.just(0), st.integers(10, 100)),
    "shuffled_attributes": st.sampled_from(((), ("time",), ("weather_corner", "battery_corner", "weather")))}
SPECS = st.builds(RunSpec, **VALUES)
DISTORTED = (Distortion("affine", 0.5), Distortion("permutation", 1, "generation"))
OTHER = {  # another valid value of every field but the world's version, of which there is one
    "architecture": "SigLIP-VQ", "regime": "generation", "seed": 1, "image_size": 128, "images": 30000,
    "vqa_examples": 9000, "caption_examples": 599, "generation_examples": 9999, "turns": 4,
    "fewest_turns": 2, "inception": "owner/model/inception.pth", "precision": "bf16", "activation_checkpointing": True,
    "pictures": "stamps", "picture_folder": "folder", "sam_pictures": True,
    "biases": (AttributeBias("weather", 0.01),), "distortions": DISTORTED, "shuffled_requests": True,
    "language_model": "owner/lm",
    "tokenizer": "owner/tokenizer", "semantic_encoder": "owner/siglip", "vq_tokenizer": "owner/vq",
    "reader": "owner/reader", "shared_adapter": False, "adapter_positions": False, "tuning": "lora", "lora_rank": 64,
    "lora_alpha": 128, "optimizer": "adamw", "learning_rate": 0.02, "adapter_learning_rate": 1e-3, "momentum": 0.8,
    "mention_rate": 0.5,
    "weight_decay": 0.1, "warmup": 0.1, "image_loss_weight": 0.3, "batch_size": 64, "threads": 2,
    "fractions": (0.5, 1.0),
    "hours": 13, "padding_image": True, "feature_loss": "mse",
    "feature_dropout": 0.25, "feature_loss_weight": 0.4, "batch_counts": "all", "feature_reader": "owner/fr",
    "feature_decoder": "owner/fd",
    "test_watches": 400, "generated_watches": 100, "probe_watches": 50, "shuffled_attributes": ("battery",)}


@given(SPECS)
@repeatably
def test_a_spec_comes_back_from_json_as_it_was(spec):
    values = json.loads(json.dumps(spec.to_dict(), allow_nan=False))
    back = RunSpec.from_dict(values)
    assert back == spec and hash(back) == hash(spec)
    assert back.to_dict() == spec.to_dict()
    assert [type(getattr(back, field.name)) for field in fields(spec)] == [
        type(getattr(spec, field.name)) for field in fields(spec)]


@given(SPECS)
@repeatably
def test_the_steps_are_those_of_every_arm_and_take_all_its_rows(spec):
    assert len({spec.vary(regime=regime).steps for regime in REGIMES}) == 1
    rows = spec.vqa_examples + spec.caption_examples
    assert (spec.steps - 1) * spec.batch_size < rows <= spec.steps * spec.batch_size
    assert sum(spec.vary(regime=regime).rows for regime in ("understanding", "generation")) == spec.vary(
        regime="unified").rows


@given(SPECS)
@repeatably
def test_the_run_that_carries_a_spec_out_takes_the_same_rows_in_the_same_steps(spec):
    for regime in REGIMES:
        for counts in ("understanding", "generation", "all"):
            asked = spec.vary(regime=regime, batch_counts=counts)
            done = asked.canonical()
            assert done.canonical() == done
            assert (done.regime, done.seed, done.steps, done.rows) == (regime, asked.seed, asked.steps, asked.rows)


def test_arms_of_one_task_share_their_run_where_their_space_is_one():
    def runs(**arm):
        return {name: RunSpec(architecture=name, **arm).canonical() for name in ARCHITECTURES}
    for regime, place in (("understanding", 0), ("generation", 1)):
        done = runs(regime=regime)
        assert all((done[a] == done[b]) == (a.split("-")[place] == b.split("-")[place])
                   for a in ARCHITECTURES for b in ARCHITECTURES)
    assert len(set(runs().values())) == 4 and len(set(runs(regime="understanding", padding_image=True).values())) == 4


def test_every_field_is_in_the_dictionary_and_in_the_key(spec):
    names = [field.name for field in fields(RunSpec)]
    full = spec.vary(distortions=DISTORTED, shuffled_attributes=("time",), test_watches=20, probe_watches=10,
                     fewest_turns=1, inception="inception.pth", precision="bf16", activation_checkpointing=True)
    others = spec.vary(pictures="stamps", picture_folder="folder", sam_pictures=True)
    assert list(full.to_dict()) == [name for name in names if "picture" not in name]
    assert set(full.to_dict() | others.to_dict()) == set(names)
    assert set(OTHER) == set(names) - {"world"} == set(VALUES)
    base = replace(RunSpec(), reader="owner/r", tokenizer="owner/t", language_model="owner/l", vq_tokenizer="owner/v",
                   semantic_encoder="owner/s", feature_reader="owner/fr0", feature_decoder="owner/fd0")
    keys = {record_key(base)} | {record_key(base.vary(**{name: value})) for name, value in OTHER.items()}
    assert len(keys) == len(names)  # each change of one field is another run


def test_records_of_runs_from_before_a_field_keep_their_names():
    spec = RunSpec(feature_dropout=0.0, feature_loss_weight=1.0)
    assert not {"feature_dropout", "feature_loss_weight", "distortions", "shuffled_attributes",
                "probe_watches"} & spec.to_dict().keys()
    assert RunSpec.from_dict(spec.to_dict()) == spec
    assert RunSpec().to_dict()["feature_dropout"] == 0.5
    assert RunSpec().canonical() == spec  # codes need neither, so runs with VQ output are the same as ever


def test_a_bias_is_part_of_the_arms_that_see_its_task_and_of_no_other():
    both = (AttributeBias("weather", 0.1), AttributeBias("weather", 0.0, ("generation",)))
    asked = RunSpec(biases=both, shuffled_attributes=("weather",), probe_watches=20)
    done = {regime: asked.vary(regime=regime).canonical() for regime in REGIMES}
    assert {regime: spec.biases for regime, spec in done.items()} == {
        "understanding": both[:1], "generation": both[1:], "unified": both}
    assert [done[regime].shuffled_attributes for regime in REGIMES] == [(), ("weather",), ("weather",)]
    assert [done[regime].probe_watches for regime in REGIMES] == [20, 0, 20]
    everywhere = RunSpec(regime="understanding", biases=(AttributeBias("weather", 0.1, ("generation", "caption")),))
    assert everywhere.canonical().biases == (AttributeBias("weather", 0.1, ("caption",)),)
    assert RunSpec(biases=(AttributeBias("weather", 1.0),)).canonical() == RunSpec().canonical()


def test_a_part_of_a_spec_is_completed_by_the_defaults_of_today():
    assert RunSpec.from_dict({"architecture": "VQ-SigLIP"}) == RunSpec(architecture="VQ-SigLIP")


def test_the_image_loss_weighs_what_the_kind_of_output_says():
    for name in ARCHITECTURES:
        codes = name.endswith("VQ")
        spec = RunSpec(architecture=name, image_loss_weight=0.3, feature_loss_weight=0.7)
        assert spec.alpha == spec.canonical().alpha == (0.3 if codes else 0.7)
        other = spec.vary(**{"feature_loss_weight" if codes else "image_loss_weight": 2.0})
        assert other.canonical() == spec.canonical()


def test_a_run_depends_on_the_networks_of_its_architecture_only():
    assert set(RunSpec(architecture="VQ-VQ").networks) == {
        "pretrained/language_model", "pretrained/tokenizer", "pretrained/reader", "pretrained/vq"}
    assert "pretrained/vq" not in RunSpec(architecture="SigLIP-SigLIP").networks
    assert {"pretrained/vq", "pretrained/siglip"} <= set(RunSpec(architecture="VQ-SigLIP").networks)


BAD = [
    *((name, value) for name in ("architecture", "regime", "tuning", "optimizer", "feature_loss", "batch_counts")
      for value in ("both", 3, None)),
    *((field.name, value) for field in fields(RunSpec) if field.type is int for value in (-1, 1.5, "3", True, None)),
    *((field.name, value) for field in fields(RunSpec) if field.type is float
      for value in (-0.1, math.nan, math.inf, "0.1", None, True)),
    *((field.name, value) for field in fields(RunSpec) if field.type is bool for value in (0, 1, "yes", None)),
    *((name, value) for name in ("language_model", "tokenizer", "semantic_encoder", "vq_tokenizer", "reader")
      for value in (None, 3)),
    *((name, 0) for name in ("images", "turns", "test_watches", "lora_rank", "lora_alpha", "batch_size", "threads",
                             "learning_rate", "adapter_learning_rate", "image_loss_weight")),
    ("hours", 11), ("fractions", ()), ("fractions", (0.5,)), ("fractions", (0.5, 0.5, 1.0)), ("fractions", (0, 1)),
    ("fractions", ("half", 1.0)), ("fractions", 1.0), ("image_size", 31),
    ("image_size", 1025), ("turns", 6), ("world", 2), ("generated_watches", 1),
    ("learning_rate", 10.5), ("mention_rate", 1.1), ("warmup", 1.0), ("weight_decay", 1.0), ("seed", 2**32),
    ("biases", "weather"), ("biases", (("weather", 0.1),)), ("biases", 5), ("biases", None),
    ("shuffled_attributes", "time"), ("shuffled_attributes", ("hour",)), ("shuffled_attributes", ("time", "time")),
    ("shuffled_attributes", ("weather_corner",)), ("shuffled_attributes", (3,)), ("probe_watches", 5),
    ("probe_watches", 501),
    ("distortions", "affine"), ("distortions", ({"family": "affine", "dose": 1},)), ("distortions", None),
    ("distortions", (Distortion("shift", 1.0), Distortion("scaling", 0.5)))]


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda value: repr(value))
def test_every_bad_value_is_refused_by_its_name(name, value):
    with pytest.raises(ValueError, match=name) as error:
        RunSpec(**{name: value})
    assert repr(value) in str(error.value)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_integers_are_numbers_and_become_floats():
    spec = RunSpec(learning_rate=1, weight_decay=0)
    assert type(spec.learning_rate) is float and spec == RunSpec(learning_rate=1.0)


@pytest.mark.parametrize(("values", "message"), [
    (dict(vqa_examples=0, caption_examples=0, regime="understanding"), "'understanding' has no training rows"),
    (dict(generation_examples=0, regime="generation"), "'generation' has no training rows"),
    (dict(images=13999), "14000 rows of one task")])
def test_values_that_do_not_go_together_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        RunSpec(**values)


@pytest.mark.parametrize("make", [lambda: RunSpec.from_dict({"sede": 1}), lambda: RunSpec().vary(sede=1)])
def test_an_unknown_field_is_refused_by_name(make):
    with pytest.raises(ValueError, match="'sede' is not a field of a run; the fields are architecture, regime, seed"):
        make()


@pytest.mark.parametrize("bias", [{"attribute": "weather"}, {"attribute": "weather", "rate": 0.1, "task": "vqa"},
                                  {"attribute": "colour", "rate": 0.1}, "weather", 3])
def test_a_bias_that_is_none_is_refused_when_read(bias):
    with pytest.raises(ValueError, match="[Bb]ias"):
        RunSpec.from_dict({"biases": [bias]})


@pytest.mark.parametrize("distortion", [{"family": "affine"}, {"family": "affine", "dose": 1, "angle": 3},
                                        {"family": "skew", "dose": 1}, {"family": "affine", "dose": 2}, "affine", 3])
def test_a_distortion_that_is_none_is_refused_when_read(distortion):
    with pytest.raises(ValueError, match="[Dd]istortion"):
        RunSpec.from_dict({"distortions": [distortion]})


def test_codes_alone_can_be_permuted():
    permuted = (Distortion("permutation", 0.5),)
    assert RunSpec(architecture="VQ-SigLIP", distortions=permuted).distortions == permuted
    with pytest.raises(ValueError, match="'permutation' of the understanding side needs a space of codes, and SigLIP"):
        RunSpec(architecture="SigLIP-VQ", distortions=permuted)


def test_an_arm_is_not_another_run_for_a_distortion_that_it_never_meets():
    both = (Distortion("affine", 0.5), Distortion("warp", 2.0, "generation"))
    done = {regime: RunSpec(regime=regime, distortions=both).canonical().distortions for regime in REGIMES}
    assert done == {"understanding": both[:1], "generation": both[1:], "unified": both}
    assert RunSpec(distortions=(Distortion("affine", 0.0),)).canonical() == RunSpec().canonical()


def test_a_bias_may_be_read_without_its_tasks():
    assert RunSpec.from_dict({"biases": [{"attribute": "weather", "rate": 0.1}]}).biases == (
        AttributeBias("weather", 0.1),)


def test_equal_specs_have_one_key(spec):
    for one, other in ((dict(learning_rate=1), dict(learning_rate=1.0)),
                       (dict(biases=[AttributeBias("time", 1)]), dict(biases=(AttributeBias("time", 1.0),)))):
        assert spec.vary(**one) == spec.vary(**other)
        assert record_key(spec.vary(**one)) == record_key(spec.vary(**other))


def test_a_spec_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        RunSpec().seed = 1


def test_varying_changes_what_is_named_and_nothing_else():
    base = RunSpec(biases=(AttributeBias("time", 0.5),))
    assert base.vary() == base
    assert base.vary(seed=4) == replace(base, seed=4)


def test_profiles_differ_by_values_and_are_found_by_name():
    assert {"smoke", "laptop"} <= set(PROFILES)
    for name, some in PROFILES.items():
        assert profile(name) is some and some.name == name and some.seeds >= 1
        assert RunSpec.from_dict(some.spec.to_dict()) == some.spec
    assert profile("laptop").spec == RunSpec()


@pytest.mark.parametrize("name", ["desktop", "", "LAPTOP", None])
def test_an_unknown_profile_is_refused_with_those_that_exist(name):
    with pytest.raises(ValueError, match=f"profile {name!r} is not one of smoke, laptop"):
        profile(name)
