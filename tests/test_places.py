"""Names of networks lead where they say, and a network is known by what it holds."""

import shutil

import pytest
from safetensors.torch import load_file, save_file

from uvlm_core import places
from uvlm_core.places import (
    PRETRAINED,
    adapted,
    fingerprint,
    is_file,
    resolve,
    resolve_folder,
    verify,
    write_sha256,
)


@pytest.fixture
def copies(networks, tmp_path):
    """The networks, to be spoilt."""
    shutil.copytree(networks, tmp_path / "copies")
    return tmp_path / "copies"


def refused(ask, name, message=None) -> None:
    """`name` is refused in one sentence, which says it."""
    with pytest.raises(ValueError, match=message) as error:
        ask(str(name))
    said = str(error.value)
    assert "\n" not in said and ". " not in said and said.endswith(".") and str(name) in said, said


def test_shipped_names_lead_into_the_package_and_others_stay_as_they_are(tmp_path):
    assert resolve("pretrained/tokenizer") == str(PRETRAINED / "tokenizer")
    for name in (str(tmp_path), "owner/model"):
        assert resolve(name) == name
    with pytest.raises(
        ValueError,
        match="'pretrained/clip' is not a shipped network; shipped are .*pretrained/token",
    ):
        resolve("pretrained/clip")


def test_every_shipped_network_is_what_was_shipped_within_the_size_that_was_promised():
    folders = [path for path in PRETRAINED.iterdir() if path.is_dir()]
    assert {"tokenizer", "language_model"} <= {path.name for path in folders}
    for folder in folders:
        verify(folder)
        assert (folder / "README.md").read_text().startswith("# ")
    assert (
        sum(path.stat().st_size for folder in folders for path in folder.rglob("*")) <= 30 * 2**20
    )


def test_a_changed_byte_is_detected(copies):
    folder = copies / "vq"
    write_sha256(folder)
    verify(folder)
    for name in ("model.safetensors", "config.json"):
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        with pytest.raises(ValueError, match=rf"{name} is not the file that was shipped \(.*\)\.$"):
            verify(folder)
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


def test_a_fingerprint_sees_the_vocabulary_of_an_older_tokenizer(tmp_path):
    seen = {fingerprint(str(tmp_path))}
    for number, name in enumerate(("vocab.txt", "merges.txt")):
        (tmp_path / name).write_text("a b")
        fingerprint.cache_clear()
        assert len(seen := seen | {fingerprint(str(tmp_path))}) == number + 2


def test_a_file_that_cannot_be_read_is_told_in_a_sentence(copies, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(places, "_sha256", refuse)
    fingerprint.cache_clear()
    refused(fingerprint, copies / "vq", "cannot be read .*Permission denied: .*vq")


@pytest.mark.parametrize("content", ["{", "[]", "\0"])
def test_sums_that_are_none_are_refused_by_their_file(copies, content):
    write_sha256(copies / "vq")
    (copies / "vq" / "sha256.json").write_text(content)
    refused(verify, copies / "vq", "sha256.json.* is (not|no) ")


def test_a_name_of_the_cache_leads_into_it_and_says_what_brings_it_there(cache):
    refused(resolve, "cache/smollm2", "is not in the cache .*; `make smollm2` brings it there")
    (cache / "smollm2").mkdir(parents=True)
    assert resolve("cache/smollm2") == str(cache / "smollm2")


@pytest.mark.parametrize(
    "name, file", [("owner/model", False), ("owner/model/vq.pt", True), ("pretrained/vq", False)]
)
def test_a_name_of_the_hub_is_a_file_by_its_suffix(name, file):
    assert is_file(name) == file


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "vq.pt").write_text("")
    assert is_file(str(tmp_path / "vq.pt"))
    refused(
        lambda name: resolve_folder(name, "a tokenizer"),
        tmp_path / "vq.pt",
        "is a file, and a tokenizer is a folder or a hub id",
    )


@pytest.mark.parametrize("config", ["[]", "{}", '{"base_model_name_or_path": 3}'])
def test_an_adapter_that_names_no_model_is_refused(config, tmp_path):
    assert adapted(str(tmp_path)) is None
    (tmp_path / "adapter_config.json").write_text(config)
    refused(adapted, tmp_path, "is an adapter, and its adapter_config.json names no model")
