"""A run as a value: JSON and back, every bad value refused by name, what an arm cannot see left out
of its key."""

import json
import math
from dataclasses import FrozenInstanceError, dataclass, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.conversations import TASKS, AttributeBias
from uvlm_core.environment import ROOT
from uvlm_core.models.distortion import PLACES, SIDES, Distortion
from uvlm_core.models.kinds import Kind
from uvlm_core.runs.store import record_key
from uvlm_core.training import spec as specs
from uvlm_core.training.profiles import PROFILES
from uvlm_core.training.spec import (
    ARCHITECTURES,
    DEFAULTS,
    OPTIMIZERS,
    PART_OF,
    PRECISIONS,
    REGIMES,
    TUNINGS,
    DataSpec,
    ModelSpec,
    RunSpec,
    ScoringSpec,
    TrainingSpec,
)
from uvlm_core.training.stages import Stage

LAPTOP = PROFILES["laptop"].spec
repeatably = settings(max_examples=60, deadline=None, derandomize=True)
RATES = st.floats(0, 10, exclude_min=True)
BIASES = st.lists(
    st.builds(
        AttributeBias,
        attribute=st.sampled_from(list(ATTRIBUTES)),
        rate=st.floats(0, 1),
        tasks=st.lists(st.sampled_from(TASKS), min_size=1, unique=True).map(tuple),
    ),
    max_size=3,
).map(tuple)
DISTORTIONS = st.tuples(
    *(
        st.builds(
            Distortion,
            family=st.sampled_from(("rotation", "affine", "warp")),
            dose=st.floats(0, 1),
            side=st.just(side),
            place=st.sampled_from(PLACES),
        )
        for side in SIDES
    )
).flatmap(lambda both: st.sampled_from(((), both[:1], both[1:], both)))
VALUES = {
    "architecture": st.sampled_from(ARCHITECTURES),
    "regime": st.sampled_from(REGIMES),
    "seed": st.integers(0, 2**31),
    "image_size": st.integers(32, 1024),
    "images": st.integers(1000, 10**6),
    "vqa_examples": st.integers(1, 1000),
    "caption_examples": st.integers(0, 1000),
    "generation_examples": st.integers(1, 1000),
    # `test_stages.py` varies these two
    "text_examples": st.just(0),
    "stages": st.just(()),
    "turns": st.integers(1, 5),
    "fewest_turns": st.integers(0, 1),
    "inception": st.text(),
    "precision": st.sampled_from(PRECISIONS),
    "activation_checkpointing": st.booleans(),
    "biases": BIASES,
    "distortions": DISTORTIONS,
    "pictures": st.just(""),
    "picture_folder": st.text(),
    "sam_pictures": st.booleans(),
    "shuffled_requests": st.booleans(),
    "wordless_requests": st.booleans(),
    "edit_requests": st.just(False),
    "language_model": st.text(),
    "random_language_model": st.just(False),  # needs a tuning
    "tokenizer": st.text(),
    "semantic_encoder": st.text(),
    "vq_tokenizer": st.text(),
    "reader": st.text(),
    "shared_adapter": st.booleans(),
    "adapter_positions": st.booleans(),
    "tuning": st.sampled_from(TUNINGS),
    "lora_rank": st.integers(1, 512),
    "lora_alpha": st.integers(1, 512),
    "optimizer": st.sampled_from(OPTIMIZERS),
    "learning_rate": RATES,
    "adapter_learning_rate": RATES,
    "momentum": st.floats(0, 1, exclude_max=True),
    "mention_rate": st.floats(0, 1),
    "weight_decay": st.floats(0, 1, exclude_max=True),
    "warmup": st.floats(0, 1, exclude_max=True),
    "image_loss_weight": RATES,
    "batch_size": st.integers(1, 512),
    "threads": st.integers(1, 64),
    "fractions": st.lists(st.floats(0.001, 0.999), unique=True).map(
        lambda values: (*sorted(values), 1.0)
    ),
    "hours": st.sampled_from((12, 13)),
    "padding_image": st.booleans(),
    "feature_loss": st.sampled_from(("cosine", "mse")),
    "batch_counts": st.just("understanding"),
    "feature_loss_weight": st.one_of(st.just(1.0), RATES),
    "feature_dropout": st.one_of(st.just(0.0), st.floats(0, 1, exclude_max=True)),
    "feature_reader": st.text(),
    "feature_decoder": st.text(),
    "test_watches": st.integers(100, 5000),
    "generated_watches": st.integers(2, 5000),
    "probe_watches": st.one_of(st.just(0), st.integers(10, 100)),
    "shown_watches": st.integers(0, 2),
    "gradient_rows": st.just(0),  # needs both tasks
    "world": st.just(1),
    "shuffled_attributes": st.sampled_from(
        ((), ("time",), ("weather_corner", "battery_corner", "weather"))
    ),
}
SPECS = st.fixed_dictionaries(VALUES).map(lambda values: RunSpec().vary(**values))
DISTORTED = (Distortion("affine", 0.5), Distortion("permutation", 1, "generation"))
OTHER = {  # another valid value of every field but the world's version, of which there is one
    "architecture": "SigLIP-VQ",
    "regime": "generation",
    "seed": 1,
    "image_size": 128,
    "images": 30000,
    "vqa_examples": 9000,
    "caption_examples": 599,
    "generation_examples": 9999,
    "text_examples": 7,
    "stages": (Stage(understanding=2),),
    "turns": 4,
    "fewest_turns": 2,
    "inception": "inception.pth",
    "precision": "bf16",
    "activation_checkpointing": True,
    "pictures": "stamps",
    "picture_folder": "folder",
    "sam_pictures": True,
    "biases": (AttributeBias("weather", 0.01),),
    "distortions": DISTORTED,
    "shuffled_requests": True,
    "wordless_requests": True,
    "edit_requests": True,
    "language_model": "owner/lm",
    "random_language_model": True,
    "tokenizer": "owner/tokenizer",
    "semantic_encoder": "owner/siglip",
    "vq_tokenizer": "owner/vq",
    "reader": "owner/reader",
    "shared_adapter": False,
    "adapter_positions": False,
    "tuning": "frozen",
    "lora_rank": 64,
    "lora_alpha": 128,
    "optimizer": "adamw",
    "learning_rate": 0.02,
    "adapter_learning_rate": 1e-3,
    "momentum": 0.8,
    "mention_rate": 0.5,
    "weight_decay": 0.1,
    "warmup": 0.1,
    "image_loss_weight": 0.3,
    "batch_size": 64,
    "threads": 2,
    "fractions": (0.5, 1.0),
    "hours": 13,
    "padding_image": True,
    "feature_loss": "mse",
    "feature_dropout": 0.25,
    "feature_loss_weight": 0.4,
    "batch_counts": "all",
    "feature_reader": "owner/fr",
    "feature_decoder": "owner/fd",
    "test_watches": 400,
    "generated_watches": 100,
    "probe_watches": 50,
    "shown_watches": 5,
    "gradient_rows": 16,
    "shuffled_attributes": ("battery",),
}


@given(SPECS)
@repeatably
def test_a_spec_comes_back_from_json_as_it_was(spec):
    values = json.loads(json.dumps(spec.to_dict(), allow_nan=False))
    back = RunSpec.from_dict(values)
    assert back == spec and hash(back) == hash(spec)
    assert back.to_dict() == spec.to_dict()
    assert [type(value) for value in back.flat().values()] == [
        type(value) for value in spec.flat().values()
    ]


@given(SPECS)
@repeatably
def test_the_steps_are_those_of_every_arm_and_take_all_its_rows(spec):
    assert len({spec.vary(regime=regime).steps for regime in REGIMES}) == 1
    rows = spec.data.vqa_examples + spec.data.caption_examples
    assert spec.steps == math.ceil(rows / spec.training.batch_size)
    assert (
        sum(spec.vary(regime=regime).rows for regime in ("understanding", "generation"))
        == spec.vary(regime="unified").rows
    )


@given(SPECS)
@repeatably
def test_the_run_that_carries_a_spec_out_takes_the_same_rows_in_the_same_steps(spec):
    for regime in REGIMES:
        for counts in ("understanding", "generation", "all"):
            asked = spec.vary(regime=regime, batch_counts=counts)
            done = asked.canonical()
            assert done.canonical() == done and set(done.networks) <= set(asked.networks)
            assert (done.training.regime, done.training.seed) == (regime, asked.training.seed)
            assert (done.steps, done.rows) == (asked.steps, asked.rows)


def test_arms_of_one_task_share_their_run_where_their_space_is_one():
    def runs(**arm):
        return {name: LAPTOP.vary(architecture=name, **arm).canonical() for name in ARCHITECTURES}

    for regime, place in (("understanding", 0), ("generation", 1)):
        done = runs(regime=regime)
        assert all(
            (done[a] == done[b]) == (a.split("-")[place] == b.split("-")[place])
            for a in ARCHITECTURES
            for b in ARCHITECTURES
        )
    assert (
        len(set(runs().values())) == 4
        and len(set(runs(regime="understanding", padding_image=True).values())) == 4
    )


def test_every_field_has_one_name_and_the_papers_value():
    """Section 3 and the appendix: what an empty spec means, field by field."""
    assert sum(
        len(fields(part)) for part in (DataSpec, ModelSpec, TrainingSpec, ScoringSpec)
    ) == len(PART_OF)
    assert RunSpec().to_dict() == {} and RunSpec.from_dict({}) == RunSpec()
    assert RunSpec().flat() == DEFAULTS
    assert DEFAULTS == {
        "world": 1,
        "image_size": 224,
        "images": 180_000,
        "vqa_examples": 60_000,
        "caption_examples": 60_000,
        "generation_examples": 60_000,
        "text_examples": 0,
        "turns": 4,
        "fewest_turns": 1,
        "mention_rate": 0.5,
        "hours": 12,
        "biases": (),
        "shuffled_requests": False,
        "wordless_requests": False,
        "edit_requests": False,
        "shuffled_attributes": (),
        "pictures": "",
        "picture_folder": "",
        "sam_pictures": False,
        "architecture": "VQ-VQ",
        "language_model": "lmsys/vicuna-7b-v1.5",
        "random_language_model": False,
        "tokenizer": "lmsys/vicuna-7b-v1.5",
        "semantic_encoder": "google/siglip-base-patch16-224",
        "vq_tokenizer": "FoundationVision/LlamaGen/vq_ds16_c2i.pt",
        "shared_adapter": True,
        "adapter_positions": False,
        "distortions": (),
        "regime": "unified",
        "seed": 0,
        "tuning": "lora",
        "precision": "bf16",
        "activation_checkpointing": True,
        "lora_rank": 128,
        "lora_alpha": 256,
        "optimizer": "adamw",
        "learning_rate": 2e-4,
        "momentum": 0.9,
        "adapter_learning_rate": 1e-4,
        "weight_decay": 0.0,
        "warmup": 0.03,
        "image_loss_weight": 0.2,
        "feature_loss_weight": 1.0,
        "feature_loss": "cosine",
        "feature_dropout": 0.0,
        "padding_image": False,
        "stages": (),
        "batch_size": 393,
        "batch_counts": "all",
        "threads": 8,
        "fractions": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        "test_watches": 200,
        "generated_watches": 200,
        "probe_watches": 0,
        "shown_watches": 0,
        "gradient_rows": 0,
        "reader": "",
        "feature_reader": "",
        "feature_decoder": "",
        "inception": "",
    }


def test_a_dictionary_says_the_deviations_from_the_paper_alone():
    spec = RunSpec().vary(seed=3, turns=2, distortions=DISTORTED[:1])
    assert spec.to_dict() == {
        "data": {"turns": 2},
        "training": {"seed": 3},
        "model": {
            "distortions": [
                {"family": "affine", "dose": 0.5, "side": "understanding", "place": "before"}
            ]
        },
    }


def test_every_field_reaches_the_key_of_a_run_that_sees_it(spec):
    """Each change of one field is another run, in an arm that sees the field; the fields that this
    arm does not see are in no key of its."""
    names = {
        name: getattr(spec.model, name)
        for name in ("language_model", "tokenizer", "semantic_encoder", "vq_tokenizer")
    }
    base = LAPTOP.vary(
        **names,
        tuning="lora",
        reader="owner/r",
        feature_reader="owner/fr0",
        feature_decoder="owner/fd0",
    )
    arms = (
        {name: base for name in OTHER}
        | {
            name: base.vary(architecture="VQ-SigLIP")
            for name in (
                "feature_loss",
                "feature_loss_weight",
                "feature_dropout",
                "feature_reader",
                "feature_decoder",
                "semantic_encoder",
            )
        }
        | {name: base.vary(pictures="watches") for name in ("picture_folder", "sam_pictures")}
        | {"random_language_model": base.vary(tuning="full")}
    )
    assert OTHER.keys() == PART_OF.keys() - {"world"} and VALUES.keys() == PART_OF.keys()
    for name, value in OTHER.items():
        arm = arms[name]
        before, after = arm.canonical(), arm.vary(**{name: value}).canonical()
        assert before != after, name
        assert json.dumps(before.to_dict()) != json.dumps(after.to_dict()), name
    keys = {record_key(LAPTOP.vary(**change)) for change in ({}, {"seed": 1}, {"threads": 2})}
    assert len(keys) == 3


UNSEEN = [  # an arm, and a change that it does not see
    (
        dict(regime="understanding"),
        dict(
            feature_dropout=0.3,
            image_loss_weight=3.0,
            reader="owner/r",
            inception="i.pth",
            shown_watches=9,
            shuffled_requests=True,
            shuffled_attributes=("time",),
            feature_reader="owner/fr",
        ),
    ),
    (dict(regime="generation"), dict(turns=3, fewest_turns=2, probe_watches=20)),
    (
        dict(),
        dict(
            semantic_encoder="owner/s",
            feature_loss="mse",
            feature_loss_weight=2.0,
            feature_decoder="owner/d",
        ),
    ),
    (
        dict(architecture="SigLIP-SigLIP"),
        dict(vq_tokenizer="owner/v", image_loss_weight=0.5, reader="owner/r"),
    ),
    (dict(tuning="full"), dict(lora_rank=4, lora_alpha=8)),
    (dict(optimizer="adamw"), dict(momentum=0.5)),
    (dict(), dict(picture_folder="folder", sam_pictures=True)),
]


@pytest.mark.parametrize(("arm", "change"), UNSEEN, ids=str)
def test_what_an_arm_cannot_see_is_left_out_of_its_key(arm, change):
    spec = LAPTOP.vary(**arm)
    done = spec.canonical()
    assert spec.vary(**change).canonical() == done
    assert record_key(spec.vary(**change)) == record_key(spec)
    assert not {name for values in done.to_dict().values() for name in values} & change.keys()


def test_a_stage_of_unknown_fields_is_told_which_there_are():
    with pytest.raises(
        ValueError, match=r"is not Stage as a dictionary of understanding, .*freeze\.$"
    ):
        LAPTOP.vary(stages=[{"epochs": 2}])


def test_a_random_language_model_is_another_run_and_no_earlier_run_has_another_name():
    paths = sorted((ROOT / "figures" / "runs" / "laptop").glob("*.json"))
    found = ((json.loads(path.read_text())["spec"], path.stem) for path in paths)
    earlier, key = next(each for each in found if "measurement" not in each[0])
    earlier = RunSpec.from_dict(earlier)
    assert record_key(earlier) == key
    assert record_key(earlier.vary(random_language_model=True)) != key


def test_a_field_that_comes_later_renames_no_earlier_run(monkeypatch):
    """As a later edition would have it: one more field, whose default leaves earlier runs as they
    were."""

    @dataclass(frozen=True)
    class LaterTraining(TrainingSpec):
        label_smoothing: float = 0.0

    @dataclass(frozen=True)
    class LaterRun(RunSpec):
        training: LaterTraining = LaterTraining()

    values = LAPTOP.vary(architecture="SigLIP-VQ", seed=3).canonical().to_dict()
    before = record_key(RunSpec.from_dict(values))
    monkeypatch.setitem(specs.PART_OF, "label_smoothing", "training")
    later = LaterRun.from_dict(values)
    assert later.to_dict() == later.canonical().to_dict() == values
    assert record_key(later) == before
    assert record_key(later.vary(label_smoothing=0.1)) != record_key(later)


def test_another_kind_of_space_needs_an_entry_alone(monkeypatch):
    monkeypatch.setitem(specs.KINDS, "Toy", Kind("vq_tokenizer", "linear", "codes"))
    spec = LAPTOP.vary(architecture="SigLIP-Toy", image_loss_weight=0.7)
    assert (spec.model.understanding, spec.model.generation, spec.alpha) == ("SigLIP", "Toy", 0.7)
    assert spec.vary(regime="generation").canonical().model.architecture == "Toy-Toy"
    assert spec.vary(feature_dropout=0.9).canonical() == spec.canonical()


def test_a_bias_is_part_of_the_arms_that_see_its_task_and_of_no_other():
    both = (AttributeBias("weather", 0.1), AttributeBias("weather", 0.0, ("generation",)))
    asked = LAPTOP.vary(biases=both, shuffled_attributes=("weather",), probe_watches=20)
    done = {regime: asked.vary(regime=regime).canonical() for regime in REGIMES}
    assert {regime: spec.data.biases for regime, spec in done.items()} == {
        "understanding": both[:1],
        "generation": both[1:],
        "unified": both,
    }
    assert [done[regime].data.shuffled_attributes for regime in REGIMES] == [
        (),
        ("weather",),
        ("weather",),
    ]
    assert [done[regime].scoring.probe_watches for regime in REGIMES] == [20, 0, 20]
    everywhere = LAPTOP.vary(
        regime="understanding", biases=[AttributeBias("weather", 0.1, ("generation", "caption"))]
    )
    assert everywhere.canonical().data.biases == (AttributeBias("weather", 0.1, ("caption",)),)
    assert LAPTOP.vary(biases=(AttributeBias("weather", 1.0),)).canonical() == LAPTOP.canonical()


def test_the_image_loss_weighs_what_the_kind_of_output_says():
    for name in ARCHITECTURES:
        codes = name.endswith("VQ")
        spec = LAPTOP.vary(architecture=name, image_loss_weight=0.3, feature_loss_weight=0.7)
        assert spec.alpha == spec.canonical().alpha == (0.3 if codes else 0.7)
        other = spec.vary(**{"feature_loss_weight" if codes else "image_loss_weight": 2.0})
        assert other.canonical() == spec.canonical()


def test_a_run_depends_on_the_networks_of_its_arm_only():
    def networks(**arm):
        return set(LAPTOP.vary(**arm).networks) - {
            "pretrained/language_model",
            "pretrained/tokenizer",
        }

    assert networks(architecture="VQ-VQ") == {"pretrained/reader", "pretrained/vq"}
    assert networks(architecture="SigLIP-SigLIP") == {
        "pretrained/siglip",
        "pretrained/siglip_reader",
        "pretrained/siglip_decoder",
    }
    assert networks(architecture="SigLIP-VQ", regime="understanding") == {
        "pretrained/vq",
        "pretrained/siglip",
    }
    assert networks(architecture="SigLIP-VQ", regime="unified") == {
        "pretrained/vq",
        "pretrained/siglip",
        "pretrained/reader",
    }
    assert "i.pth" in networks(architecture="VQ-VQ", inception="i.pth")
    assert "i.pth" not in networks(architecture="VQ-SigLIP", inception="i.pth")
    assert RunSpec().networks[:2] == ("lmsys/vicuna-7b-v1.5", "lmsys/vicuna-7b-v1.5")


TYPES = {each.name: each.type for part in fields(RunSpec) for each in fields(part.type)}
BAD = [
    *(
        (name, value)
        for name in (
            "architecture",
            "regime",
            "tuning",
            "optimizer",
            "feature_loss",
            "batch_counts",
        )
        for value in ("both", 3, None)
    ),
    *(
        (name, value)
        for name, kind in TYPES.items()
        if kind is int
        for value in (-1, 1.5, "3", True, None)
    ),
    *(
        (name, value)
        for name, kind in TYPES.items()
        if kind is float
        for value in (-0.1, math.nan, math.inf, "0.1", None, True)
    ),
    *(
        (name, value)
        for name, kind in TYPES.items()
        if kind is bool
        for value in (0, 1, "yes", None)
    ),
    *(
        (name, value)
        for name in ("language_model", "tokenizer", "semantic_encoder", "vq_tokenizer", "reader")
        for value in (None, 3)
    ),
    *(
        (name, 0)
        for name in (
            "images",
            "turns",
            "test_watches",
            "lora_rank",
            "lora_alpha",
            "batch_size",
            "threads",
            "learning_rate",
            "adapter_learning_rate",
            "image_loss_weight",
        )
    ),
    ("hours", 11),
    ("fractions", ()),
    ("fractions", (0.5,)),
    ("fractions", (0.5, 0.5, 1.0)),
    ("fractions", (0, 1)),
    ("fractions", ("half", 1.0)),
    ("fractions", 1.0),
    ("image_size", 31),
    ("image_size", 1025),
    ("turns", 6),
    ("world", 2),
    ("generated_watches", 1),
    ("architecture", "VQ"),
    ("architecture", "VQ-"),
    ("architecture", "VQ-VQ-VQ"),
    ("shown_watches", 201),
    ("learning_rate", 10.5),
    ("mention_rate", 1.1),
    ("warmup", 1.0),
    ("weight_decay", 1.0),
    ("seed", 2**32),
    ("biases", "weather"),
    ("biases", (("weather", 0.1),)),
    ("biases", 5),
    ("biases", None),
    ("shuffled_attributes", "time"),
    ("shuffled_attributes", ("hour",)),
    ("shuffled_attributes", ("time", "time")),
    ("shuffled_attributes", ("weather_corner",)),
    ("shuffled_attributes", (3,)),
    ("probe_watches", 5),
    ("probe_watches", 501),
    ("distortions", "affine"),
    ("distortions", None),
    ("distortions", (Distortion("shift", 1.0), Distortion("scaling", 0.5))),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda value: repr(value))
def test_every_bad_value_is_refused_by_its_name(name, value):
    with pytest.raises(ValueError, match=name) as error:
        LAPTOP.vary(**{name: value})
    assert repr(value) in str(error.value)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_integers_are_numbers_and_become_floats():
    spec = RunSpec().vary(learning_rate=1, weight_decay=0)
    assert type(spec.training.learning_rate) is float and spec == RunSpec().vary(learning_rate=1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            dict(vqa_examples=0, caption_examples=0, regime="understanding"),
            "'understanding' has no training rows",
        ),
        (dict(generation_examples=0, regime="generation"), "'generation' has no training rows"),
        (dict(images=13999), "14000 rows of one task"),
        (dict(edit_requests=True, regime="generation"), "which regime 'generation' does not"),
        (dict(edit_requests=True, wordless_requests=True), "edit_requests True is of watches only"),
        (
            dict(pictures="stamps", probe_watches=20),
            "'stamps' have no known attributes: probe_watches 20",
        ),
        (
            dict(pictures="stamps", shuffled_attributes=("time",)),
            "'stamps' have no known attributes: biases and",
        ),
        (dict(fewest_turns=3, turns=2), "fewest_turns 3 is above turns, 2"),
        *(
            (
                dict(random_language_model=True, tuning=tuning),
                f"^random_language_model True needs tuning 'full', .*; tuning is '{tuning}'.$",
            )
            for tuning in ("lora", "frozen")
        ),
        (
            dict(gradient_rows=16, regime="understanding"),
            r"^gradient_rows 16 needs regime 'unified', not 'understanding'\.$",
        ),
        (
            dict(gradient_rows=16, pictures="stamps"),
            r"^gradient_rows 16 needs watches, not the pictures 'stamps'\.$",
        ),
        (
            dict(gradient_rows=16, tuning="frozen"),
            r"^gradient_rows 16 needs a language model that learns, not tuning 'frozen'\.$",
        ),
        (
            dict(gradient_rows=16, stages=(Stage(0, 1, freeze=True), Stage(1))),
            "^gradient_rows 16 needs a language model that learns, not a stage with freeze True",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        LAPTOP.vary(**values)


def test_an_unknown_field_is_refused_by_name():
    with pytest.raises(
        ValueError, match="'sede' is not a field of a run; the fields are world, image_size"
    ):
        RunSpec().vary(sede=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"seed": 1},
            "'seed' is not a part of a run; the parts are data, model, training, scoring",
        ),
        ({"data": {"seed": 1}}, "'seed' is not a field of data; the fields are world, image_size"),
        ({"data": 3}, "data 3 is not a dictionary of world, image_size"),
        (3, "3 is not a dictionary of the parts data"),
    ],
)
def test_a_dictionary_that_is_no_run_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        RunSpec.from_dict(values)


@pytest.mark.parametrize("part", ["data", "model", "training", "scoring"])
def test_a_part_that_is_none_is_refused(part):
    with pytest.raises(ValueError, match=f"{part} 3 is not a {part.capitalize()}Spec"):
        RunSpec(**{part: 3})


@pytest.mark.parametrize(
    "bias",
    [
        {"attribute": "weather"},
        {"attribute": "weather", "rate": 0.1, "task": "vqa"},
        {"attribute": "colour", "rate": 0.1},
        "weather",
        3,
    ],
)
def test_a_bias_that_is_none_is_refused_when_read(bias):
    with pytest.raises(ValueError, match="[Bb]ias"):
        RunSpec.from_dict({"data": {"biases": [bias]}})


@pytest.mark.parametrize(
    "distortion",
    [
        {"family": "affine"},
        {"family": "affine", "dose": 1, "angle": 3},
        {"family": "skew", "dose": 1},
        {"family": "affine", "dose": 2},
        "affine",
        3,
    ],
)
def test_a_distortion_that_is_none_is_refused_when_read(distortion):
    with pytest.raises(ValueError, match="[Dd]istortion"):
        RunSpec.from_dict({"model": {"distortions": [distortion]}})


def test_codes_alone_can_be_permuted():
    permuted = (Distortion("permutation", 0.5),)
    spec = RunSpec().vary(architecture="VQ-SigLIP", distortions=permuted)
    assert spec.model.distortions == permuted
    with pytest.raises(
        ValueError,
        match="'permutation' of the understanding side needs a space of codes, and SigLIP",
    ):
        ModelSpec(architecture="SigLIP-VQ", distortions=permuted)


def test_an_arm_is_not_another_run_for_a_distortion_that_it_never_meets():
    both = (Distortion("affine", 0.5), Distortion("warp", 2.0, "generation"))
    done = {
        regime: LAPTOP.vary(regime=regime, distortions=both).canonical().model.distortions
        for regime in REGIMES
    }
    assert done == {"understanding": both[:1], "generation": both[1:], "unified": both}
    assert LAPTOP.vary(distortions=(Distortion("affine", 0.0),)).canonical() == LAPTOP.canonical()


def test_a_bias_may_be_read_without_its_tasks():
    assert RunSpec.from_dict(
        {"data": {"biases": [{"attribute": "weather", "rate": 0.1}]}}
    ).data.biases == (AttributeBias("weather", 0.1),)


def test_equal_specs_have_one_key(spec):
    for one, other in (
        (dict(learning_rate=1), dict(learning_rate=1.0)),
        (dict(biases=[AttributeBias("time", 1)]), dict(biases=(AttributeBias("time", 1.0),))),
    ):
        assert spec.vary(**one) == spec.vary(**other)
        assert record_key(spec.vary(**one)) == record_key(spec.vary(**other))


def test_a_spec_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        RunSpec().training.seed = 1


def test_varying_changes_what_is_named_and_nothing_else():
    base = LAPTOP.vary(biases=(AttributeBias("time", 0.5),))
    assert base.vary() == base
    changed = base.vary(seed=4, architecture="SigLIP-VQ")
    assert changed.flat() == base.flat() | {"seed": 4, "architecture": "SigLIP-VQ"}
