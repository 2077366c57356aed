"""Frozen encoders: outputs that no batch changes, and a cache that is right, whole, or says why not."""

import errno
import io
import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from uvlm_core import vision
from uvlm_core.vision import SiglipEncoder, VQEncoder, cached_features, describe, load_encoder, to_pixels


def test_codes_do_not_depend_on_the_batch(encoders, images, monkeypatch):
    together = encoders["VQ"].encode(images)
    monkeypatch.setattr(vision, "BATCH", 5)
    np.testing.assert_array_equal(encoders["VQ"].encode(images), together)
    np.testing.assert_array_equal(np.concatenate([encoders["VQ"].encode(images[i : i + 1]) for i in range(12)]),
                                  together[:12])
    assert len(np.unique(together, axis=0)) > 40  # images differ


def test_features_do_not_depend_on_the_batch(encoders, images):
    together = encoders["SigLIP"].encode(images)
    alone = np.concatenate([encoders["SigLIP"].encode(images[i : i + 1]) for i in range(8)])
    np.testing.assert_allclose(alone, together[:8], rtol=1e-4, atol=1e-5)


def test_codes_are_the_nearest_rows_of_a_codebook_of_unit_rows(encoders, images):
    encoder = encoders["VQ"]
    torch.testing.assert_close(encoder.codebook.norm(dim=1), torch.ones(encoder.codes))
    with torch.no_grad():
        pixels = torch.nn.functional.pixel_unshuffle(to_pixels(images[:2]), 4)  # 4 x 4 pixels become channels
        latent = encoder.network.quant_conv(encoder.network.encoder(pixels))
    codes = encoder.encode(images[:2])
    for image, row, column in itertools.product(range(2), range(4), range(4)):
        unit = latent[image, :, row, column] / latent[image, :, row, column].norm()
        distances = (encoder.codebook - unit).norm(dim=1)
        assert codes[image, 4 * row + column] == distances.argmin()  # row by row


def test_shapes_and_types_are_as_the_encoder_says(encoders, images):
    vq, siglip = encoders["VQ"], encoders["SigLIP"]
    assert describe(vq) == {"kind": "vq", "tokens": 16, "width": 8, "codes": 24}
    assert describe(siglip) == {"kind": "siglip", "tokens": 16, "width": 24, "codes": 0}
    codes, features = vq.encode(images[:3]), siglip.encode(images[:3])
    assert codes.shape == (3, 16) and codes.dtype == np.int32 and codes.max() < 24
    assert features.shape == (3, 16, 24) and features.dtype == np.float32
    drawn = vq.decode(codes)
    assert drawn.shape == (3, 64, 64, 3) and drawn.dtype == np.uint8
    assert drawn.std() > 1


def test_decoding_does_not_depend_on_the_batch_or_the_integer_type(encoders, tables):
    codes = tables["VQ"][:5]
    together = encoders["VQ"].decode(codes)
    alone = np.concatenate([encoders["VQ"].decode(codes[i : i + 1].astype(np.uint16)) for i in range(5)])
    assert np.abs(alone.astype(int) - together).max() <= 1  # rounding of a value between two levels
    np.testing.assert_array_equal(encoders["VQ"].decode(torch.from_numpy(codes)), together)


def test_features_are_the_penultimate_layers(encoders, images):
    found = encoders["SigLIP"].encode(images[:2])
    with torch.no_grad():
        states = encoders["SigLIP"].network(to_pixels(images[:2]), output_hidden_states=True).hidden_states
    np.testing.assert_allclose(found, states[2].numpy(), rtol=1e-5, atol=1e-6)  # of 3 layers: embeddings, 1, 2, 3


def test_encoders_are_frozen(encoders, images):
    for encoder in encoders.values():
        assert not encoder.network.training
        assert not any(p.requires_grad for p in encoder.network.parameters())


def test_pixels_run_from_minus_one_to_one_with_channels_first():
    image = np.zeros((1, 2, 2, 3), np.uint8)
    image[0, 0, 1] = (255, 51, 0)
    pixels = to_pixels(image)
    assert pixels.shape == (1, 3, 2, 2) and pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[0, :, 0, 1], torch.tensor([1.0, -0.6, -1.0]))


@pytest.mark.parametrize(("change", "message"), [
    (lambda i: i.astype(np.float32), r"Images are a uint8 array .*, not float32 \(2, 64, 64, 3\)"),
    (lambda i: i[0], r"not uint8 \(64, 64, 3\)"), (lambda i: i.transpose(0, 3, 1, 2), r"not uint8 \(2, 3, 64, 64\)"),
    (lambda i: i.tolist(), "not list"), (lambda i: i[:, :32, :32].copy(), "takes images of 64 x 64 px, not 32 x 32")])
def test_what_is_no_image_of_the_encoders_size_is_refused(encoders, images, change, message):
    for encoder in encoders.values():
        with pytest.raises(ValueError, match=message):
            encoder.encode(change(images[:2]))


@pytest.mark.parametrize("codes", [np.full((1, 16), 24), np.full((1, 16), -1), np.zeros((1, 15), int),
                                   np.zeros(16, int), np.zeros((1, 16, 8))])
def test_what_are_no_codes_of_an_image_is_not_drawn(encoders, codes):
    with pytest.raises(ValueError, match=r"Codes are integers from 0 to 23 of shape \(images, 16\)"):
        encoders["VQ"].decode(codes)


def test_each_half_of_an_architecture_loads_its_encoder(spec):
    assert isinstance(load_encoder("VQ", spec), VQEncoder)
    assert isinstance(load_encoder("SigLIP", spec), SiglipEncoder)


# --- the cache ---


@pytest.fixture
def counted(encoders, images):
    """(cached features of an encoder, calls to its encode)."""
    calls = []

    def features(kind="VQ", name="some", count=20, encoder=None):
        encoder = encoder or encoders[kind]

        class Counting:
            def __getattr__(self, attribute):
                return getattr(encoder, attribute)

            def encode(self, images):
                calls.append(len(images))
                return encoder.encode(images)
        return cached_features(Counting(), name, count, lambda start, stop: images[start:stop])
    return features, calls


@pytest.mark.parametrize(("kind", "dtype"), [("VQ", np.uint16), ("SigLIP", np.float32)])
def test_features_are_computed_once_and_memory_mapped(counted, tables, kind, dtype, cache):
    features, calls = counted
    for _ in range(3):
        found = features(kind)
        assert isinstance(found, np.memmap) and found.dtype == dtype and not found.flags.writeable
        np.testing.assert_allclose(found, tables[kind][:20], rtol=1e-4, atol=1e-5)
    assert sum(calls) == 20
    assert [path.suffix for path in (cache / "features").iterdir() if path.suffix != ".lock"] == [".npy"]


def test_features_of_many_chunks_are_put_together_in_order(encoders, images, tables, tmp_path):
    vision._compute_features(encoders["VQ"], tmp_path / "a.npy", (48, 16), np.uint16, lambda a, b: images[a:b], False,
                             chunk=7)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), tables["VQ"])


def test_other_images_another_count_and_another_encoder_have_files_of_their_own(counted, networks, tmp_path, cache):
    features, calls = counted
    state = load_file(networks / "vq" / "model.safetensors")
    state["quantize.embedding.weight"] = state["quantize.embedding.weight"].flip(0)
    (tmp_path / "vq").mkdir()
    save_file(state, tmp_path / "vq" / "model.safetensors")
    (tmp_path / "vq" / "config.json").write_text((networks / "vq" / "config.json").read_text())
    other = VQEncoder.load(str(tmp_path / "vq"))
    first = features()
    np.testing.assert_array_equal(features(encoder=other), 23 - first.astype(int))  # its own codes, not the cached ones
    features(name="others")
    features(count=10)
    features("SigLIP")
    assert calls == [20, 20, 20, 10, 20]
    assert len(list((cache / "features").glob("*.npy"))) == 5


def only_file(cache):
    (path,) = (cache / "features").glob("*.npy")
    return path


def test_a_cache_of_another_shape_is_refused(counted, cache):
    features, _ = counted
    features()
    np.save(only_file(cache), np.zeros((20, 9), np.uint16))
    with pytest.raises(ValueError, match=r"holds uint16 \(20, 9\), but this encoder gives uint16 \(20, 16\); delete"):
        features()
    np.save(only_file(cache), np.zeros((20, 16), np.float32))
    with pytest.raises(ValueError, match=r"holds float32 \(20, 16\)"):
        features()


@pytest.mark.parametrize("left", [0.0, 0.1, 0.6])
def test_a_truncated_cache_is_refused_by_its_name(counted, cache, left):
    features, _ = counted
    features()
    path = only_file(cache)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])
    with pytest.raises(ValueError, match=f"{path.name} is not a whole feature cache; delete it"):
        features()
    path.unlink()
    features()


def test_a_full_disk_is_told_in_a_sentence_and_leaves_nothing(counted, cache, monkeypatch):
    features, calls = counted

    class Full(io.FileIO):
        """A file on a disk that is full after 400 bytes."""

        def write(self, content):
            if self.tell() + len(content) > 400:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(content)

    with monkeypatch.context() as patch:
        patch.setattr(vision, "open", Full, raising=False)
        with pytest.raises(ValueError, match=r"The feature cache .*features cannot be written \(No space left on device"
                                             r"\); free space there or set UVLM_CACHE"):
            features()
    assert calls and not [path for path in (cache / "features").iterdir() if path.suffix != ".lock"]
    assert len(features()) == 20  # with room again


def test_a_cache_folder_that_is_a_file_is_told_in_a_sentence(counted, cache):
    features, calls = counted
    cache.write_text("in the way")
    with pytest.raises(ValueError, match="The feature cache .* cannot be written .*set UVLM_CACHE"):
        features()
    assert not calls


def test_a_computation_that_was_cut_off_leaves_no_features(encoders, images, cache):
    def cut(start, stop):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        cached_features(encoders["VQ"], "some", 20, cut)
    assert not list((cache / "features").glob("*.npy")) and not list((cache / "features").glob("*.partial"))
