"""The paper profile in miniature: its values and classes, with tiny random networks in files like
its own."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

from uvlm_core.data.conversations import make_conversations
from uvlm_core.data.smart_watch import render_batch, sample_watches
from uvlm_core.environment import cache_folder
from uvlm_core.files import read_json
from uvlm_core.models.decoding import answer, generate_images
from uvlm_core.models.unified import load_language_model
from uvlm_core.places import fingerprint
from uvlm_core.runs.carry_out import train_and_score
from uvlm_core.runs.trained import trained_models
from uvlm_core.training.networks import load_model
from uvlm_core.training.profiles import profile
from uvlm_core.training.spec import ARCHITECTURES, RunSpec

ROOT = Path(__file__).resolve().parents[2]
TOWER = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2)


@pytest.fixture(scope="module")
def paper(tmp_path_factory, networks):
    """The paper's spec with few rows and tiny networks: Vicuna's files are pickles of weights, its
    tokenizer knows no images, its tables are two; SigLIP comes as a whole model of 224 px; the two
    encoders want images of two sizes."""
    folder = tmp_path_factory.mktemp("paper")
    torch.manual_seed(0)
    words = Tokenizer(
        models.BPE(
            {"<unk>": 0, "<s>": 1, "</s>": 2, **{chr(k): k - 29 for k in range(32, 127)}},
            [],
            unk_token="<unk>",
        )
    )
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.save_pretrained(folder / "vicuna")
    vicuna = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    vicuna.config.save_pretrained(folder / "vicuna")
    torch.save(vicuna.half().state_dict(), folder / "vicuna" / "pytorch_model.bin")
    SiglipModel(
        SiglipConfig(
            text_config=TOWER | {"vocab_size": 20},
            vision_config=TOWER | {"image_size": 224, "patch_size": 56},
        )
    ).save_pretrained(folder / "siglip")
    return profile("paper").spec.vary(
        images=24,
        vqa_examples=12,
        caption_examples=12,
        generation_examples=12,
        batch_size=18,
        fractions=(1.0,),
        test_watches=6,
        generated_watches=6,
        lora_rank=4,
        lora_alpha=8,
        threads=1,
        language_model=str(folder / "vicuna"),
        tokenizer=str(folder / "vicuna"),
        semantic_encoder=str(folder / "siglip"),
        vq_tokenizer=str(networks / "vq"),
    )


@pytest.fixture(scope="module")
def kept(paper, tmp_path_factory):
    """By architecture: the model that was kept, and the one in its folder; trained once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UVLM_CACHE", str(tmp_path_factory.mktemp("kept")))
        models = trained_models([paper.vary(architecture=name) for name in ARCHITECTURES])
        folders = [path.parent for path in cache_folder().glob("models/*/model.safetensors")]
        named = {
            RunSpec.from_dict(read_json(folder / "spec.json")).model.architecture: folder
            for folder in folders
        }
        return {
            name: (model, load_model(named[name]))
            for name, model in zip(ARCHITECTURES, models, strict=True)
        }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_architecture_trains_saves_loads_answers_and_draws(
    paper, kept, architecture, tmp_path
):
    spec = paper.vary(architecture=architecture)
    assert spec.steps == 2 and spec.training.precision == "bf16" and spec.training.tuning == "lora"
    result, _ = train_and_score(spec, tmp_path)
    metrics = {row["metric"] for row in result["scores"]}
    assert metrics >= {"partial", "triggered", "alignment_cka"}
    assert np.isfinite(result["samples"]["losses"]["loss"]).all()
    assert all(row["value"] is not None for row in result["scores"])
    watches = sample_watches(0, 3, "test")
    talks = {task: make_conversations(watches, task, 0, turns=2) for task in ("vqa", "generation")}
    said, drawn = [], []
    for model, processor, understanding, generation in kept[architecture]:
        images = understanding.encode(render_batch(watches, spec.data.image_size))
        said.append(answer(model, processor, talks["vqa"], images, limit=8))
        drawn.append(generate_images(model, processor, talks["generation"]).tokens)
        assert drawn[-1].shape[:2] == (3, generation.tokens)
    assert said[0] == said[1]
    np.testing.assert_array_equal(*drawn)
    base = kept[architecture][1][0].get_base_model()
    assert (
        base.language_model.model.layers[0].self_attn.q_proj.base_layer.weight.dtype
        == torch.bfloat16
    )
    assert base.config.shared_adapter == (architecture in ("VQ-VQ", "SigLIP-SigLIP"))


def test_vicunas_pickles_of_weights_are_read_and_code_in_them_is_not_run(paper, tmp_path):
    name = paper.model.language_model
    assert load_language_model(name, 0).get_input_embeddings().num_embeddings == 98
    for path in Path(name).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert fingerprint(str(tmp_path)) == fingerprint(name)
    whole = (tmp_path / "pytorch_model.bin").read_bytes()
    (tmp_path / "pytorch_model.bin").write_bytes(whole[:-5000])
    with pytest.raises(ValueError, match="is not a language model that can be loaded"):
        load_language_model(str(tmp_path), 0)
    (tmp_path / "pytorch_model.bin").write_bytes(
        pickle.dumps(Harmful(tmp_path / "harm"), protocol=2)
    )
    with pytest.raises(ValueError, match="is not a language model that can be loaded"):
        load_language_model(str(tmp_path), 0)
    assert not (tmp_path / "harm").exists()
    state = torch.load(Path(name) / "pytorch_model.bin", weights_only=True)
    torch.save(
        {key: value for key, value in state.items() if "layers.1" not in key},
        tmp_path / "pytorch_model.bin",
    )
    with pytest.raises(
        ValueError,
        match="does not hold the weights that its configuration asks for: model.layers.1",
    ):
        load_language_model(str(tmp_path), 0)


class Harmful:
    """A pickle that would make a file if it were opened as one."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_the_shipped_configuration_of_deepspeed_is_whole():
    config = load_config_from_file(str(ROOT / "uvlm_core" / "accelerate" / "zero2.yaml"))
    assert config.distributed_type.value == "DEEPSPEED"
    settings = json.loads((ROOT / config.deepspeed_config["deepspeed_config_file"]).read_text())
    assert settings["zero_optimization"] == {"stage": 2} and not settings["bf16"]["enabled"]
    spec = profile("paper").spec
    assert (
        spec.training.batch_size,
        spec.training.lora_rank,
        spec.training.lora_alpha,
        spec.training.learning_rate,
        spec.training.adapter_learning_rate,
    ) == (393, 128, 256, 2e-4, 1e-4)
    assert re.search(
        r"num_processes: 3\n", (ROOT / "uvlm_core" / "accelerate" / "zero2.yaml").read_text()
    )
