"""Files of networks: whole and of the right model, or refused in one sentence."""

import json
import pickle
import re
import shutil
from functools import partial

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from uvlm_core.data.tokens import Processor
from uvlm_core.models.encoders import FeatureDecoder, SiglipEncoder, VQEncoder
from uvlm_core.models.language_models import SHIPPED_LM, shape_of
from uvlm_core.models.readers import AttributeReader, FeatureReader
from uvlm_core.models.unified import load_language_model
from uvlm_core.models.weights import load_state
from uvlm_core.places import PRETRAINED, fingerprint, resolve

LOADERS = {
    "vq": VQEncoder.load,
    "siglip": SiglipEncoder.load,
    "reader": AttributeReader.load,
    "language_model": partial(load_language_model, vocabulary=0),
}
FOLDERS = LOADERS | {"tokenizer": partial(Processor.load, tokens_in=1, tokens_out=1)}
FROM_HUB = [name for name in FOLDERS if name != "reader"]


@pytest.fixture
def copies(networks, tmp_path):
    """The networks, to be spoilt."""
    shutil.copytree(networks, tmp_path / "copies")
    return tmp_path / "copies"


def one_sentence(error) -> bool:
    said = str(error.value)
    return "\n" not in said and ". " not in said and said.endswith(".")


def refused(load, name, message=None) -> str:
    """The one sentence by which `name` is refused, which says it."""
    with pytest.raises(ValueError, match=message) as error:
        load(str(name))
    assert one_sentence(error) and str(name) in str(error.value), error.value
    return str(error.value)


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("left", [0.0, 0.2, 0.9])
def test_a_truncated_weights_file_is_refused_by_its_name(copies, name, left):
    path = copies / name / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])
    refused(
        LOADERS[name],
        copies / name,
        r"\(.*Error while deserializing header|is not a whole "
        r"safetensors file \(",
    )


@pytest.mark.parametrize("name", LOADERS)
def test_a_pickle_is_refused_and_not_opened(copies, name, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    path = copies / name / "model.safetensors"
    for write in (
        lambda: path.write_bytes(pickle.dumps(Trap())),
        lambda: torch.save({"a": torch.ones(3)}, path),
    ):
        write()
        refused(LOADERS[name], copies / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", LOADERS)
def test_a_missing_weights_file_is_named(copies, name):
    (copies / name / "model.safetensors").unlink()
    refused(
        LOADERS[name],
        copies / name,
        "(There is no weights file|Error no file named) model.safetensors",
    )


@pytest.mark.parametrize("name", LOADERS)
def test_the_weights_of_another_model_are_refused(copies, name):
    other = {"vq": "siglip", "siglip": "reader", "reader": "vq", "language_model": "siglip"}[name]
    shutil.copy(copies / other / "model.safetensors", copies / name / "model.safetensors")
    refused(
        LOADERS[name],
        copies / name,
        "holds the weights of another model|does not hold the weights that its conf",
    )


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("vq", "decoder.conv_out.weight"),
        ("siglip", "embeddings.patch_embedding.weight"),
        ("language_model", "model.layers.1.mlp.up_proj.weight"),
        ("reader", "heads.hour.weight"),
    ],
)
@pytest.mark.parametrize(
    ("spoil", "said", "of_ours"),
    [
        (lambda state, key: state.pop(key), "{key} is missing", "for {key} it has nothing"),
        (
            lambda state, key: state.update({key: state[key][:1].clone()}),
            r"{key} is of the shape \(1,",
            r"for {key} it has \(",
        ),
        (
            lambda state, key: state.update({"odd.weight": torch.ones(2)}),
            "odd.weight is unknown",
            r"odd.weight it has \(2,\)",
        ),
    ],
)
def test_one_tensor_too_few_too_many_or_of_another_shape_is_named(
    copies, name, key, spoil, said, of_ours
):
    path = copies / name / "model.safetensors"
    state = load_file(path)
    spoil(state, key)
    save_file(state, path)
    refused(
        LOADERS[name],
        copies / name,
        (of_ours if name == "reader" else said).format(key=re.escape(key)),
    )


# --- where a name leads ---


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/data/vicuna",
        "./vicuna",
        "../vicuna",
        "~/no/such/folder",
        "~nobody_at_all/vicuna",
        "owner/model/",
        "a b",
        "models/vq.pt",
        "weights.pth",
        "a/b/c",
        "a//b",
        "-/model",
        "nul\0l",
        "x" * 5000 + "/",
        "/" + "x" * 5000,
    ],
)
def test_a_path_that_is_not_there_is_never_taken_for_a_hub_id(name):
    for ask in (resolve, fingerprint, *FOLDERS.values()):
        with pytest.raises(
            ValueError, match="is neither an existing folder or file nor a hub id"
        ) as error:
            ask(name)
        assert one_sentence(error) and repr(name) in str(error.value)


def test_the_home_folder_has_its_short_name(copies, monkeypatch):
    monkeypatch.setenv("HOME", str(copies))
    assert resolve("~/vq") == str(copies / "vq")
    assert fingerprint("~/vq") == fingerprint(str(copies / "vq"))
    assert VQEncoder.load("~/vq").codes == 24


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_where_a_folder_is_wanted_is_refused(copies, name):
    for file in ("notes", "weights.bin"):
        (copies / file).write_text("no network")
        refused(FOLDERS[name], copies / file)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_without_the_network_is_refused(copies, name):
    (copies / "empty").mkdir()
    refused(FOLDERS[name], copies / "empty")
    shutil.copytree(copies / name, copies / "garbled")
    for path in (copies / "garbled").iterdir():
        for content in (b"{", b"[1]", b"\xff\xfe", b'{"width": {}}'):
            before = path.read_bytes()
            if path.name not in ("generation_config.json", "tokenizer_config.json", "sha256.json"):
                path.write_bytes(content)
                refused(FOLDERS[name], copies / "garbled")
            path.write_bytes(before)


@pytest.mark.parametrize("name", FROM_HUB)
def test_a_hub_that_cannot_be_reached_is_told_in_a_sentence(name, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = "'{}' is neither a folder here nor a .* that the hub has \\("
    refused(FOLDERS[name], "owner/no-such-model", said.format("owner/no-such-model"))
    refused(FOLDERS[name], "no-such-model", said.format("no-such-model"))


def test_a_file_of_the_hub_is_asked_for_by_its_place_in_the_repository(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("owner/model/vq.pt", "owner/model/some/folder/vq.safetensors"):
        refused(
            VQEncoder.load, name, "is neither a folder here nor a VQ tokenizer that the hub has"
        )
        for ask in (SiglipEncoder.load, FOLDERS["language_model"], FOLDERS["tokenizer"]):
            refused(ask, name, "is a file, and a .* is a folder or a hub id")


def test_a_tokenizer_whose_files_are_missing_is_refused(tmp_path):
    """transformers makes one of three tokens, to which every text is the same."""
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    refused(FOLDERS["tokenizer"], tmp_path, "has no vocabulary, only special tokens")


@pytest.mark.parametrize("kind", [FeatureReader, FeatureDecoder])
@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[1]",
        '{"width": 24}',
        '{"width": "a", "tokens": 16, "size": 64}',
        '{"width": 24, "tokens": -1, "size": 64}',
    ],
)
def test_a_network_of_features_without_its_configuration_is_refused(
    kind, config, networks, tmp_path
):
    of = str(networks / "siglip")
    (tmp_path / "config.json").write_text(config.replace("}", f', "of": "{fingerprint(of)}"}}'))
    refused(partial(kind.load, encoder=of), tmp_path)


def test_a_loaded_network_has_the_tensors_of_its_file_and_is_frozen(networks):
    reader = AttributeReader.load(str(networks / "reader"))
    stored = load_state(networks / "reader" / "model.safetensors")
    state = reader.state_dict()
    assert stored.keys() == state.keys() and all(
        torch.equal(state[name], stored[name]) for name in stored
    )
    assert not reader.training and not any(p.requires_grad for p in reader.parameters())


def test_the_shipped_language_model_has_the_shape_that_its_size_names():
    config = json.loads((PRETRAINED / "language_model" / "config.json").read_text())
    shape = shape_of(SHIPPED_LM)
    assert {name: config[name] for name in shape} == shape
