"""Files of networks: whole, of the right model, and what they were when they were shipped; or one sentence."""

import json
import pickle
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from uvlm_core import weights
from uvlm_core.reader import AttributeReader
from uvlm_core.text_pretraining import SHAPE
from uvlm_core.vision import SiglipEncoder, VQEncoder
from uvlm_core.weights import cache_folder, fingerprint, load_state, resolve, verify, write_sha256

LOADERS = {"vq": VQEncoder.load, "siglip": SiglipEncoder.load, "reader": AttributeReader.load}


@pytest.fixture
def copies(networks, tmp_path):
    """The networks, to be spoilt."""
    shutil.copytree(networks, tmp_path / "copies")
    return tmp_path / "copies"


def one_sentence(error) -> bool:
    return "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("left", [0.0, 0.2, 0.9])
def test_a_truncated_weights_file_is_refused_by_its_name(copies, name, left):
    path = copies / name / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])
    with pytest.raises(ValueError, match=re.escape(f"{path} is not a whole safetensors file")) as error:
        LOADERS[name](str(copies / name))
    assert one_sentence(error)


@pytest.mark.parametrize("name", LOADERS)
def test_a_pickle_is_refused_and_not_opened(copies, name, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    path = copies / name / "model.safetensors"
    for write in (lambda: path.write_bytes(pickle.dumps(Trap())), lambda: torch.save({"a": torch.ones(3)}, path)):
        write()
        with pytest.raises(ValueError, match=re.escape(f"{path} is not a whole safetensors file")) as error:
            LOADERS[name](str(copies / name))
        assert one_sentence(error)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", LOADERS)
def test_a_missing_weights_file_is_named(copies, name):
    (copies / name / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="There is no weights file model.safetensors in ") as error:
        LOADERS[name](str(copies / name))
    assert str(copies / name) in str(error.value) and one_sentence(error)


@pytest.mark.parametrize("name", LOADERS)
def test_the_weights_of_another_model_are_refused(copies, name):
    other = {"vq": "siglip", "siglip": "reader", "reader": "vq"}[name]
    shutil.copy(copies / other / "model.safetensors", copies / name / "model.safetensors")
    with pytest.raises(ValueError, match=re.escape(f"{copies / name} holds the weights of another model")) as error:
        LOADERS[name](str(copies / name))
    assert one_sentence(error)


@pytest.mark.parametrize("spoil", [
    lambda state, key: state.pop(key), lambda state, key: state.update({key: state[key][..., :1].clone()}),
    lambda state, key: state.update({"extra.weight": torch.ones(2)})])
def test_one_tensor_too_few_too_many_or_of_another_shape_is_named(copies, spoil):
    path = copies / "vq" / "model.safetensors"
    state, key = load_file(path), "decoder.conv_out.weight"
    spoil(state, key)
    save_file(state, path)
    with pytest.raises(ValueError, match=r"for (decoder.conv_out.weight|extra.weight) it has .* but JanusVQVAE has "):
        VQEncoder.load(str(copies / "vq"))


def test_a_loaded_network_has_the_tensors_of_its_file_and_is_frozen(networks):
    reader = AttributeReader.load(str(networks / "reader"))
    stored = load_state(networks / "reader" / "model.safetensors")
    state = reader.state_dict()
    assert stored.keys() == state.keys() and all(torch.equal(state[name], stored[name]) for name in stored)
    assert not reader.training and not any(p.requires_grad for p in reader.parameters())


def test_shipped_names_lead_into_the_package_and_others_stay_as_they_are(tmp_path):
    assert resolve("pretrained/tokenizer") == str(weights.PRETRAINED / "tokenizer")
    for name in (str(tmp_path), "owner/model"):
        assert resolve(name) == name
    with pytest.raises(ValueError, match="'pretrained/clip' is not a shipped network; shipped are .*pretrained/token"):
        resolve("pretrained/clip")


def test_every_shipped_network_is_what_was_shipped_within_the_size_that_was_promised():
    folders = [path for path in weights.PRETRAINED.iterdir() if path.is_dir()]
    assert {"tokenizer", "language_model"} <= {path.name for path in folders}
    for folder in folders:
        verify(folder)
        assert (folder / "README.md").read_text().startswith("# ")
    assert sum(path.stat().st_size for folder in folders for path in folder.rglob("*")) <= 30 * 2**20


def test_the_shipped_language_model_has_the_shape_that_its_builder_names():
    config = json.loads((weights.PRETRAINED / "language_model" / "config.json").read_text())
    assert {name: config[name] for name in SHAPE} == SHAPE


def test_a_changed_byte_is_detected(copies):
    folder = copies / "vq"
    write_sha256(folder)
    verify(folder)
    for name in ("model.safetensors", "config.json"):
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        with pytest.raises(ValueError, match=f"{name} is not the file that was shipped") as error:
            verify(folder)
        assert one_sentence(error)
        path.write_bytes(whole)
        verify(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="model.safetensors is not the file that was shipped"):
        verify(folder)


def test_a_fingerprint_follows_the_content_and_not_the_place(copies, networks):
    assert fingerprint(str(copies / "vq")) == fingerprint(str(networks / "vq"))
    path = copies / "siglip" / "model.safetensors"
    state = load_file(path)
    first = next(iter(state))
    state[first] = state[first] + 1e-3
    save_file(state, path)
    assert fingerprint(str(copies / "siglip")) != fingerprint(str(networks / "siglip"))
    config = copies / "reader" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert fingerprint(str(copies / "reader")) != fingerprint(str(networks / "reader"))
    (copies / "tokenizer" / "README.md").write_text("a card says nothing about what is computed")
    assert fingerprint(str(copies / "tokenizer")) == fingerprint(str(networks / "tokenizer"))
    assert fingerprint("owner/a") != fingerprint("owner/b")


def test_the_cache_is_where_the_environment_says(cache, monkeypatch):
    assert cache_folder() == cache
    monkeypatch.delenv("UVLM_CACHE")
    assert cache_folder() == weights.ROOT / ".cache"
