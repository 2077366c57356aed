"""The adapter for lmms-eval, with and without it: what is asked reaches the model as it is, the
rest is refused.

`tests/benchmarks.py` is something else: it measures this project's own speed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from uvlm_core import lmms as benchmarks
from uvlm_core.data.conversations import IMAGE, Conversation, Turn
from uvlm_core.data.pictures import fit_picture
from uvlm_core.lmms import UVLM, _cut
from uvlm_core.models.decoding import answer, log_likelihoods
from uvlm_core.training.networks import networks as start
from uvlm_core.training.profiles import profile

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = [
    "what time is it?",
    "where is the battery?",
    "describe the watch.",
    "name the weather, please.",
    "so?",
]
CHOICES = ["sunny", "top left", "57%", "cloudy"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, spec) -> Path:
    """A model that nothing was taught, kept as a trained one is."""
    folder = tmp_path_factory.mktemp("model")
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in start(spec)[0].state_dict().items()},
        folder / "model.safetensors",
    )
    (folder / "spec.json").write_text(json.dumps(spec.to_dict()))
    return folder


@pytest.fixture(scope="module")
def rows(images) -> list[dict]:
    return [
        {"image": Image.fromarray(image), "question": question, "choices": CHOICES}
        for image, question in zip(images, QUESTIONS, strict=False)
    ]


@pytest.fixture
def asked(folder, rows):
    """Makes the model of the folder, with the rows as its task; in float64, so that no rounding
    decides."""

    def build(**settings) -> UVLM:
        model = UVLM(weights=str(folder), **settings)
        model.model.double()
        model.task_dict = {"watches": {"test": rows}}
        return model

    return build


def request(
    question: str, second, number: int, visual=lambda row: [row["image"]]
) -> SimpleNamespace:
    """What lmms-eval asks, as far as a model reads it."""
    return SimpleNamespace(args=(question, second, visual, number, "watches", "test"))


def conversations(told: list[str], questions=QUESTIONS) -> list[Conversation]:
    return [
        Conversation("vqa", i, (Turn(f"{IMAGE}\n{question}", text),))
        for i, (question, text) in enumerate(zip(questions, told, strict=True))
    ]


def test_a_watch_of_the_encoders_size_reaches_it_as_it_is(images):
    np.testing.assert_array_equal(fit_picture(Image.fromarray(images[0]), 64), images[0])


def test_a_wide_image_keeps_its_aspect_between_white_bands():
    image = fit_picture(Image.new("RGB", (200, 100), (10, 20, 30)), 64)
    assert (image[:16] == 255).all() and (image[48:] == 255).all()
    assert (image[16:48] == (10, 20, 30)).all()


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16"]),
    st.sampled_from([32, 64, 100]),
)
def test_an_image_of_any_size_and_mode_fits(width, height, mode, size):
    image = fit_picture(Image.new(mode, (width, height)), size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8


@pytest.mark.parametrize("batch_size", [1, 2, "3", 64])
def test_answers_are_those_of_the_model_to_the_same_images(batch_size, asked, encoders, images):
    model = asked(batch_size=batch_size)
    codes = encoders["VQ"].encode(images[:5])
    expected = answer(model.model, model.processor, conversations(["?"] * 5), codes, limit=6)
    assert len({text for (text,) in expected}) > 2
    found = model.generate_until(
        [request(question, {"max_new_tokens": 6}, i) for i, question in enumerate(QUESTIONS)]
    )
    assert found == [text for (text,) in expected]


def test_each_answer_is_as_long_as_its_own_task_wants(asked):
    model = asked()
    (seven,) = model.processor.ids_of("7")
    head = torch.nn.Linear(32, model.model.language_model.lm_head.out_features).double()
    torch.nn.init.zeros_(head.weight)
    head.bias.data = torch.eye(head.out_features, dtype=torch.double)[seven]  # it says 7 for ever
    model.model.language_model.lm_head = head
    settings = [
        {"max_new_tokens": 3},
        {},
        {"max_new_tokens": 1, "do_sample": False, "num_beams": 1},
        {"max_new_tokens": 3, "temperature": 0.2, "until": ["no such text"]},
        {"max_new_tokens": 9, "until": "77"},
    ]
    found = model.generate_until(
        [request(QUESTIONS[i], each, i) for i, each in enumerate(settings)]
    )
    assert found == ["777", "7" * 128, "7", "777", ""]


@pytest.mark.parametrize(
    ("until", "text"),
    [
        (None, "yes, it is\nUSER: so?"),
        ("", "yes, it is\nUSER: so?"),
        (["ASSISTANT:", "\n\n"], "yes, it is\nUSER: so?"),
        ("USER:", "yes, it is"),
        (["so", ","], "yes"),
        ([",", "so"], "yes"),
    ],
)
def test_an_answer_is_cut_at_the_first_text_that_ends_it(until, text):
    assert _cut("yes, it is\nUSER: so?", until) == text


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_choice_is_valued_by_minus_its_log_likelihood_and_a_rows_own_text_by_it(
    batch_size, asked, encoders, images
):
    model = asked(batch_size=batch_size)
    told = ["sunny", "top left", "57%", "cloudy", "ten past four"]
    expected = log_likelihoods(
        model.model, model.processor, conversations(told), encoders["VQ"].encode(images[:5])
    )
    choices = [
        request(*asked)
        for asked in zip(QUESTIONS, [f" {text}" for text in told], range(5), strict=True)
    ]
    own = [
        request(question, lambda row: told[QUESTIONS.index(row["question"])], i)
        for i, question in enumerate(QUESTIONS)
    ]
    # with lmms-eval the pairs are wrapped
    choices, own = (
        [getattr(each, "text", each) for each in model.loglikelihood(some)]
        for some in (choices, own)
    )
    np.testing.assert_allclose(
        [value for value, _ in own], [value for value, _ in expected], rtol=1e-12
    )
    np.testing.assert_allclose(
        [value for value, _ in choices], [-value for value, _ in expected], rtol=1e-12
    )
    assert (
        [greedy for _, greedy in own]
        == [greedy for _, greedy in choices]
        == [greedy for _, greedy in expected]
    )
    assert all(value < 0 for value, _ in own)


def test_a_profile_with_fields_of_a_run_names_that_runs_model(spec, monkeypatch):
    asked_for = []

    def trained(specs):
        asked_for.extend(specs)
        return [start(spec)]

    monkeypatch.setattr(benchmarks, "trained_models", trained)
    model = UVLM(profile="smoke", architecture="SigLIP-VQ", regime="understanding", seed=3)
    assert asked_for == [
        profile("smoke").spec.vary(architecture="SigLIP-VQ", regime="understanding", seed=3)
    ]
    assert model.encoder.name == spec.model.vq_tokenizer


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "not by profile '', weights '' and the fields {}"),
        ({"profile": "laptop", "weights": "here"}, "not by profile 'laptop', weights 'here'"),
        ({"weights": "here", "seed": 1}, "and the fields {'seed': 1}"),
        ({"profile": "desktop"}, "profile 'desktop' is not one of smoke, laptop"),
        ({"profile": "laptop", "pretrained": "x"}, "'pretrained' is not a field of a run"),
        (
            {"profile": "laptop", "batch_size": "auto"},
            "batch_size 'auto' is not an integer from 1 up",
        ),
        ({"profile": "laptop", "batch_size": 0}, "batch_size 0 is not an integer from 1 up"),
        ({"weights": "nowhere"}, "nowhere/spec.json cannot be read"),
    ],
)
def test_a_model_that_cannot_be_found_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        UVLM(**names)


@pytest.mark.parametrize(
    ("visual", "found"),
    [
        (lambda row: [], "no image"),
        (lambda row: None, "no image"),
        (lambda row: ["film.mp4"], "str"),
        (lambda row: [row["image"], row["image"]], "Image, Image"),
    ],
)
def test_a_question_without_one_image_is_refused(visual, found, asked):
    for ask, second in (("generate_until", {}), ("loglikelihood", "sunny")):
        with pytest.raises(
            ValueError,
            match=f"question 'so\\?' comes with {found}, but this model reads exactly one",
        ):
            getattr(asked(), ask)([request("so?", second, 0, visual)])


def test_an_image_that_cannot_be_read_is_refused_with_its_question(asked):
    message = (
        "^The image of the question 'so\\?' is not a whole picture that can be read: its "
        "pixels are of Pillow's kind 'F', which has no known range\\.$"
    )
    with pytest.raises(ValueError, match=message):
        asked().generate_until([request("so?", {}, 0, lambda row: [Image.new("F", (8, 8))])])


def test_what_this_model_cannot_do_is_refused(asked):
    model = asked()
    for settings, message in (
        ({"do_sample": True}, "do_sample True, but this model answers greedily, with False"),
        ({"num_beams": 5}, "num_beams 5, but this model answers greedily, with 1"),
        ({"max_new_tokens": 0}, "max_new_tokens 0 is not an integer from 1 up"),
        ({"max_new_tokens": "9"}, "max_new_tokens '9' is not an integer"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate_until([request("so?", settings, 0)])
    # mutual information asks for the choice alone
    with pytest.raises(ValueError, match="comes with no image"):
        model.loglikelihood([SimpleNamespace(args=("", "sunny"))])
    with pytest.raises(ValueError, match="needs <image> once"):
        model.generate_until([request("is <image> a watch?", {}, 0)])
    with pytest.raises(NotImplementedError, match="choose a task of one round"):
        model.generate_until_multi_round([])


def test_the_command_refuses_a_model_that_is_not_there_in_one_sentence(tmp_path, capsys):
    with pytest.raises(ValueError, match="spec.json cannot be read"):
        UVLM(weights=str(tmp_path / "nowhere"))
    for names in (
        {"weights": str(tmp_path / "nowhere")},
        {"profile": "smoke", "vq_tokenizer": "/data/llamagen"},
    ):
        with pytest.raises(SystemExit) as left:
            benchmarks.Command(**names)
        said = capsys.readouterr().err
        assert left.value.code == 2 and said.count("\n") == 1 and list(names.values())[-1] in said


def test_without_lmms_eval_the_command_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(benchmarks, "lmms", object)
    with pytest.raises(SystemExit, match="2"):
        benchmarks.main()
    assert "pip install -r requirements-benchmarks.txt" in capsys.readouterr().err


TASK = """task: {name}
dataset_path: {data}
dataset_kwargs:
  load_from_disk: true
test_split: test
doc_to_visual: image
doc_to_text: question
{rest}"""
ANSWERED = """output_type: generate_until
doc_to_target: answer
generation_kwargs: {max_new_tokens: 6}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
CHOSEN = """output_type: multiple_choice
doc_to_choice: choices
doc_to_target: likeliest
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
TOLD = """output_type: loglikelihood
doc_to_target: told
process_results: !function utils.value
metric_list: [{metric: value, aggregation: mean, higher_is_better: true}]
"""
VALUE = """def value(row, results):
    return {"value": results[0][0]}
"""
NO_NETWORK = """import os, socket
def refuse(*ignored, **names):
    os._exit(9)
socket.socket.connect = socket.getaddrinfo = refuse
"""


def test_lmms_eval_asks_the_model_about_rows_on_this_disk(folder, rows, images, encoders, tmp_path):
    """Its own command in a process of its own, which ends at once with status 9 if it looks for a
    network."""
    pytest.importorskip("lmms_eval", reason="requirements-benchmarks.txt is not installed")
    import datasets

    model = UVLM(weights=str(folder))
    model.task_dict = {"watches": {"test": rows}}
    answers = model.generate_until(
        [request(q, {"max_new_tokens": 6}, i) for i, q in enumerate(QUESTIONS)]
    )
    codes = encoders["VQ"].encode(images[:5])
    choices = [CHOICES[i % 4 :] + CHOICES[: i % 4] for i in range(5)]
    values = np.array(
        [
            [
                value
                for value, _ in log_likelihoods(
                    model.model, model.processor, conversations(told), codes
                )
            ]
            for told in zip(*choices, strict=True)
        ]
    ).T  # (rows, choices)
    likeliest = values.argmax(1)
    likeliest[4] = values[4].argmin()  # one that the model does not choose
    assert len(set(likeliest.tolist())) > 2
    table = {
        "image": [row["image"] for row in rows],
        "question": QUESTIONS,
        "choices": choices,
        "answer": answers[:3] + ["never"] * 2,
        "likeliest": likeliest.tolist(),
        "told": [each[1] for each in choices],
    }
    data = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())
    datasets.DatasetDict({"test": data}).save_to_disk(tmp_path / "data")
    (tmp_path / "tasks").mkdir()
    for name, rest in (("answered", ANSWERED), ("chosen", CHOSEN), ("told", TOLD)):
        (tmp_path / "tasks" / f"{name}.yaml").write_text(
            TASK.format(name=f"watches_{name}", data=tmp_path / "data", rest=rest)
        )
    (tmp_path / "tasks" / "utils.py").write_text(VALUE)
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "uvlm_core.lmms",
            "--model",
            "uvlm",
            "--model_args",
            f"weights={folder}",
            "--tasks",
            "watches_answered,watches_chosen,watches_told",
            "--include_path",
            str(tmp_path / "tasks"),
            "--batch_size",
            "2",
            "--output_path",
            str(tmp_path / "results"),
        ],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env=os.environ
        | {"PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
    )
    assert "Error during evaluation" not in done.stdout and done.returncode == 0, (
        done.stdout + done.stderr
    )
    (path,) = tmp_path.glob("results/**/*results.json")
    results = json.loads(path.read_text())["results"]
    assert results["watches_answered"]["exact_match,none"] == 3 / 5
    assert results["watches_chosen"]["acc,none"] == 4 / 5
    assert results["watches_told"]["value,none"] == pytest.approx(values[:, 1].mean(), rel=1e-5)
