"""The plan of a run: counts that are those of the real thing, without weights and without a hub."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from uvlm_core import plan
from uvlm_core.models.encoders import LatentEncoder, describe
from uvlm_core.models.unified import UnifiedVLM
from uvlm_core.scoring.alignment import representations
from uvlm_core.scoring.evaluation import Evaluation
from uvlm_core.studies import studies
from uvlm_core.training import sizes
from uvlm_core.training.loop import prepare
from uvlm_core.training.profiles import PROFILES, profile


def numbers(table) -> dict:
    return table.set_index(["part", "quantity"])["value"].to_dict()


@pytest.fixture(scope="module")
def paper() -> dict:
    return numbers(plan.plan(profile("paper")))


def test_vicuna_has_the_parameters_that_its_card_says(paper):
    assert paper["parameters", "language model"] == 6_738_415_616


def test_the_plan_of_the_paper_trains_these_weights(paper):
    assert paper["parameters", "LoRA"] == 319_815_680


def test_the_lora_share_is_what_peft_counts(paper):
    spec = profile("paper").spec.vary(architecture="SigLIP-VQ")
    model = sizes.tuned_model(spec)
    assert isinstance(model, PeftModel) and isinstance(model.get_base_model(), UnifiedVLM)
    trained, every = model.get_nb_trainable_parameters()
    assert (paper["parameters", "trained"], paper["parameters", "all"]) == (trained, every)
    assert paper["parameters", "share trained"] == 100 * trained / every
    widths = (
        [(4096, 4096)] * 4 + [(4096, 11008)] * 2 + [(11008, 4096)]
    )  # q, k, v, o; gate, up; down
    assert paper["parameters", "LoRA"] == 32 * 128 * sum(map(sum, widths))
    assert paper["parameters", "trigger's rows"] == 2 * 4096
    assert paper["parameters", "adapters"] == (768 + 1) * 4096 + (4096 + 1) * 4096 + (8 + 1) * 4096
    assert paper["parameters", "generation head"] == (4096 + 1) * 16384
    assert trained == sum(
        paper["parameters", name]
        for name in ("LoRA", "trigger's rows", "adapters", "generation head")
    )
    assert next(model.parameters()).is_meta


@pytest.mark.parametrize("architecture", ["VQ-VQ", "SigLIP-SigLIP", "VQ-SigLIP"])
def test_every_architecture_of_the_paper_stands_in_full_size_without_weights(architecture):
    model = sizes.tuned_model(
        profile("paper").spec.vary(architecture=architecture)
    ).get_base_model()
    assert all(parameter.is_meta for parameter in model.parameters())
    kinds = [
        space["kind"] for space in (model.config.understanding_space, model.config.generation_space)
    ]
    assert [{"vq": "VQ", "siglip": "SigLIP"}[kind] for kind in kinds] == architecture.split("-")
    assert model.config.shared_adapter == (kinds[0] == kinds[1])


def test_the_published_networks_stand_in_full_size():
    with torch.device("meta"):
        vicuna = AutoModelForCausalLM.from_config(sizes.PUBLISHED["lmsys/vicuna-7b-v1.5"].config)
        vq = JanusVQVAE(sizes.PUBLISHED["FoundationVision/LlamaGen/vq_ds16_c2i.pt"].config)
        smollm = AutoModelForCausalLM.from_config(sizes.PUBLISHED["cache/smollm2"].config)
    assert len(vicuna.model.layers) == 32
    assert sum(weight.numel() for weight in vq.parameters()) == 71_883_403
    assert smollm.num_parameters() == 134_515_008
    assert sizes.spaces(profile("paper").spec) == {
        "SigLIP": {"kind": "siglip", "tokens": 196, "width": 768, "codes": 0},
        "VQ": {"kind": "vq", "tokens": 256, "width": 8, "codes": 16384},
        "Latent": {"kind": "latent", "tokens": 256, "width": 8, "codes": 0},
    }


@pytest.mark.parametrize("tuning", ["full", "lora", "frozen"])
def test_a_plan_counts_what_the_run_itself_counts(spec, encoders, tuning):
    spec = spec.vary(architecture="SigLIP-VQ", tuning=tuning)
    real, planned = prepare(spec)[0], sizes.tuned_model(spec)
    every = encoders | {"Latent": LatentEncoder.load(spec.model.vq_tokenizer)}
    assert sizes.spaces(spec) == {kind: describe(encoder) for kind, encoder in every.items()}
    for count in (
        lambda some: sum(p.numel() for p in some.parameters()),
        lambda some: sum(p.numel() for p in some.parameters() if p.requires_grad),
    ):
        assert count(real) == count(planned)
    assert sorted(real.state_dict()) == sorted(planned.state_dict())


def test_more_gpus_need_less_memory_each_and_less_time(paper):
    for name in ("gradients", "Adam's moments", "activations", "logits"):
        each = [
            paper[f"memory of each of {gpus} GPU{'s' * (gpus > 1)}", name] for gpus in (1, 3, 8)
        ]
        assert each[0] / 3 == pytest.approx(each[1]) and each[0] / 8 == pytest.approx(each[2])
    assert paper["a run", "hours on 1 A100"] == pytest.approx(8 * paper["a run", "hours on 8 A100"])
    assert (
        numbers(plan.plan(profile("paper"), "H100"))["a run", "hours on 1 H100"]
        < paper["a run", "hours on 1 A100"]
    )
    assert paper["a run", "steps"] == -(-180_000 // 393)


def test_a_plan_says_what_pictures_take_in_memory_and_on_disk_whatever_their_number(paper):
    assert paper["pictures", "rows"] == 2700 + 2700
    assert paper["pictures", "opened to score"] == 200 + 100  # at most 100 are drawn
    assert paper["pictures", "memory of these"] == pytest.approx(300 * 224 * 224 * 3 / 1e9)
    assert paper["pictures", "memory of 100,000 captions"] == pytest.approx(0.165)
    sizes = {
        "SigLIP for pictures of 2,700 rows": 2700 * 196 * 768 * 4,
        "VQ for pictures of 2,700 rows": 2700 * 256 * 2,
        "VQ for 180,000 images": 180_000 * 256 * 2,
    }
    for name, size in sizes.items():
        assert paper["disk", f"outputs of {name}"] == pytest.approx(size / 1e9)


def test_a_plan_says_what_scoring_holds(paper, spec, processor, encoders):
    sizes = {
        "400 images": 400 * 224 * 224 * 3,
        "outputs of the encoders": 200 * (196 * 768 + 256) * 4,
        "states of 100 images": 100 * 2 * 64 * 33 * 4096 * 4,
    }
    for name, size in sizes.items():
        assert paper["memory of scoring", name] == pytest.approx(size / 1e9)
    spec = spec.vary(architecture="SigLIP-VQ", test_watches=7, generated_watches=5)
    model, *_ = prepare(spec)
    scored = Evaluation(spec, processor, encoders["SigLIP"], encoders["VQ"])
    planned = {quantity: round(value * 1e9) for _, quantity, value, *_ in plan._scoring(spec)}
    held = scored.images_in.nbytes + scored.drawn.real.nbytes
    assert planned["outputs of the encoders"] == held
    sides = (scored.questions, scored.images_in), (scored.requests, scored.drawn.real)
    held = [
        array.nbytes
        for talks, images in sides
        for array in representations(model, processor, talks[:5], images).values()
    ]
    assert planned["states of 5 images"] == sum(held)
    assert planned["12 images"] == (7 + 5) * 64 * 64 * 3


def test_every_profile_has_a_plan_with_the_runs_of_every_study(paper):
    plans = {name: numbers(plan.plan(profile(name))) for name in PROFILES if name != "paper"}
    for name, found in (plans | {"paper": paper}).items():
        assert all(value >= 0 for value in found.values())
        asked = {quantity for part, quantity in found if part == "runs"}
        assert asked == {
            f"{study.number:02d} {study.name.replace('_', ' ')}"
            for study in studies()
            if name in study.scales
        }
    laptop = plans["laptop"]
    counts = {"02 learning curves": 34, "02 mutual benefit": 128, "04 affine alignment": 120}
    assert {study: laptop["runs", study] for study in counts} == counts
    assert any(part == "measured" for part, _ in laptop)


def test_what_nothing_is_known_of_is_refused_in_one_sentence(capsys):
    assert plan.main(["--profile", "paper", "--gpu", "TPU"]) == 2
    assert capsys.readouterr().err == "gpu 'TPU' is not one of A100, H100, L40S, RTX4090.\n"
    assert plan.main(["--profile", "nature"]) == 2
    assert "'nature' is not one of smoke, laptop, smollm, paper" in capsys.readouterr().err
    with pytest.raises(
        ValueError,
        match="Nothing is known of 'owner/model' without a hub; a plan knows local folders",
    ):
        sizes.tuned_model(profile("paper").spec.vary(language_model="owner/model"))


def test_a_plan_refuses_a_folder_without_a_configuration_in_one_sentence(spec, tmp_path):
    for name in ("language_model", "semantic_encoder", "vq_tokenizer", "tokenizer"):
        changed = spec.vary(**{"architecture": "SigLIP-VQ", name: str(tmp_path)})
        with pytest.raises(ValueError, match=f"'{tmp_path}' is not .* that can be loaded") as error:
            sizes.tuned_model(changed)
        assert "\n" not in str(error.value)


def test_a_single_file_is_taken_for_llamagens_tokenizer(tmp_path):
    (tmp_path / "vq.pth").touch()
    config = sizes.network_config(str(tmp_path / "vq.pth"), JanusVQVAEConfig)
    assert (config.num_patches, config.num_embeddings) == (16, 16384)
