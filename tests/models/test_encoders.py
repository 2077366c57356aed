"""Frozen encoders: outputs that no batch changes, and a cache that is right, whole, or says why
not."""

import argparse
import errno
import io
import itertools
import json
import os
import pickle
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import SiglipConfig, SiglipModel

from uvlm_core.data.smart_watch import render_batch
from uvlm_core.models import encoders as vision
from uvlm_core.models.encoders import (
    LatentEncoder,
    SiglipEncoder,
    VQEncoder,
    cached_features,
    describe,
    load_encoder,
    load_llamagen,
    resized,
    to_pixels,
)
from uvlm_core.places import fingerprint


def test_codes_do_not_depend_on_the_batch(encoders, images, monkeypatch):
    together = encoders["VQ"].encode(images)
    monkeypatch.setattr(vision, "IMAGES_A_CALL", 5)
    np.testing.assert_array_equal(encoders["VQ"].encode(images), together)
    np.testing.assert_array_equal(
        np.concatenate([encoders["VQ"].encode(images[i : i + 1]) for i in range(12)]), together[:12]
    )
    assert len(np.unique(together, axis=0)) > 40  # images differ


def test_features_do_not_depend_on_the_batch(encoders, images):
    together = encoders["SigLIP"].encode(images)
    alone = np.concatenate([encoders["SigLIP"].encode(images[i : i + 1]) for i in range(8)])
    np.testing.assert_allclose(alone, together[:8], rtol=1e-4, atol=1e-5)


def test_codes_are_the_nearest_rows_of_a_codebook_of_unit_rows(encoders, images):
    encoder = encoders["VQ"]
    torch.testing.assert_close(encoder.codebook.norm(dim=1), torch.ones(encoder.codes))
    with torch.no_grad():
        # 4 x 4 pixels become channels
        pixels = torch.nn.functional.pixel_unshuffle(to_pixels(images[:2]), 4)
        latent = encoder.network.quant_conv(encoder.network.encoder(pixels))
    codes = encoder.encode(images[:2])
    for image, row, column in itertools.product(range(2), range(4), range(4)):
        unit = latent[image, :, row, column] / latent[image, :, row, column].norm()
        distances = (encoder.codebook - unit).norm(dim=1)
        assert codes[image, 4 * row + column] == distances.argmin()  # row by row


def test_latents_are_what_is_rounded_to_codes_and_are_decoded_as_these(networks, encoders, images):
    encoder, plain = LatentEncoder.load(str(networks / "vq")), encoders["VQ"]
    latents, codes = encoder.encode(images), plain.encode(images)
    assert latents.shape == (len(images), encoder.tokens, encoder.width) and not encoder.codes
    np.testing.assert_allclose(np.linalg.norm(latents, axis=-1), 1, rtol=1e-5)
    nearest = (torch.from_numpy(latents) @ plain.codebook.cpu().T).argmax(-1).numpy()
    np.testing.assert_array_equal(nearest, codes)
    np.testing.assert_array_equal(encoder.decode(latents), plain.decode(codes))
    np.testing.assert_array_equal(encoder.decode(3 * latents), plain.decode(codes))  # any length
    wrong = f"Latents are of shape .images, {encoder.tokens}, {encoder.width}., not"
    with pytest.raises(ValueError, match=wrong):
        encoder.decode(codes)


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
    alone = np.concatenate(
        [encoders["VQ"].decode(codes[i : i + 1].astype(np.uint16)) for i in range(5)]
    )
    assert np.abs(alone.astype(int) - together).max() <= 1  # rounding of a value between two levels
    np.testing.assert_array_equal(encoders["VQ"].decode(torch.from_numpy(codes)), together)


def test_features_are_the_penultimate_layers(encoders, images):
    found = encoders["SigLIP"].encode(images[:2])
    with torch.no_grad():
        states = (
            encoders["SigLIP"]
            .network(to_pixels(images[:2]), output_hidden_states=True)
            .hidden_states
        )
    # of 3 layers: embeddings, 1, 2, 3
    np.testing.assert_allclose(found, states[2].numpy(), rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda i: i.astype(np.float32),
            r"Images are a uint8 array .*, not float32 \(2, 64, 64, 3\)",
        ),
        (lambda i: i[0], r"not uint8 \(64, 64, 3\)"),
        (lambda i: i.transpose(0, 3, 1, 2), r"not uint8 \(2, 3, 64, 64\)"),
        (lambda i: i.tolist(), "not list"),
    ],
)
def test_what_is_no_image_is_refused(encoders, images, change, message):
    for encoder in encoders.values():
        with pytest.raises(ValueError, match=message):
            encoder.encode(change(images[:2]))


def test_images_of_another_size_are_resized_and_those_of_the_encoders_are_left_alone(
    encoders, watches, images
):
    assert resized(images, 64) is images
    large = render_batch(watches[:6], 224)
    for encoder in encoders.values():
        np.testing.assert_array_equal(encoder.encode(large), encoder.encode(resized(large, 64)))
    # Pillow's has antialiasing
    small = np.array(Image.fromarray(large[0]).resize((64, 64), Image.Resampling.BICUBIC))
    # it rounds between its two passes
    assert np.abs(resized(large[:1], 64)[0].astype(int) - small).mean() < 0.2
    with pytest.raises(ValueError, match="takes images of 64 x 64 px, not 224 x 224"):
        to_pixels(large, 64)


# --- LlamaGen's checkpoint ---


@pytest.fixture(scope="module")
def llamagen() -> dict[str, torch.Tensor]:
    """Random weights under LlamaGen's names, in its VQ-16's full size."""
    made, generator = {}, torch.Generator().manual_seed(0)

    def conv(name, inputs, outputs, kernel=3):
        made[f"{name}.weight"] = torch.randn(
            outputs, inputs, kernel, kernel, generator=generator
        ) * ((inputs * kernel**2) ** -0.5)
        made[f"{name}.bias"] = torch.randn(outputs, generator=generator) * 0.1

    def norm(name, width):
        made[f"{name}.weight"] = 1 + torch.randn(width, generator=generator) * 0.1
        made[f"{name}.bias"] = torch.randn(width, generator=generator) * 0.1

    def residual(name, inputs, outputs):
        for number, (before, after) in enumerate(((inputs, outputs), (outputs, outputs)), 1):
            norm(f"{name}.norm{number}", before)
            conv(f"{name}.conv{number}", before, after)
        if inputs != outputs:
            conv(f"{name}.nin_shortcut", inputs, outputs, 1)

    def attention(name, width):
        norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", width, width, 1)

    def half(name, widths, blocks, sampling):
        for level, (before, width) in enumerate(itertools.pairwise(widths)):
            for block in range(blocks):
                residual(
                    f"{name}.conv_blocks.{level}.res.{block}", width if block else before, width
                )
                if width == 512:
                    attention(f"{name}.conv_blocks.{level}.attn.{block}", width)
            if level < 4:
                conv(f"{name}.conv_blocks.{level}.{sampling}.conv", width, width)
        residual(f"{name}.mid.0", 512, 512)
        attention(f"{name}.mid.1", 512)
        residual(f"{name}.mid.2", 512, 512)
        norm(f"{name}.norm_out", widths[-1])

    half("encoder", (128, 128, 128, 256, 256, 512), 2, "downsample")
    half("decoder", (512, 512, 256, 256, 128, 128), 3, "upsample")
    for name, inputs, outputs, kernel in (
        ("encoder.conv_in", 3, 128, 3),
        ("encoder.conv_out", 512, 256, 3),
        ("decoder.conv_in", 256, 512, 3),
        ("decoder.conv_out", 128, 3, 3),
        ("quant_conv", 256, 8, 1),
        ("post_quant_conv", 8, 256, 1),
    ):
        conv(name, inputs, outputs, kernel)
    # rows of any length
    made["quantize.embedding.weight"] = torch.randn(16384, 8, generator=generator)
    made["quantize.codebook_used"] = torch.zeros(65536)
    return made


def as_llamagen_computes(weights, images):
    """Codes and reconstructions of the network that LlamaGen's names describe, straight from its
    weights."""

    def conv(x, name, **options):
        kernel = weights[f"{name}.weight"].shape[-1]
        return functional.conv2d(
            x,
            weights[f"{name}.weight"],
            weights[f"{name}.bias"],
            **({"padding": kernel // 2} | options),
        )

    def norm(x, name):
        return functional.group_norm(
            x, 32, weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6
        )

    def residual(x, name):
        y = conv(functional.silu(norm(x, f"{name}.norm1")), f"{name}.conv1")
        y = conv(functional.silu(norm(y, f"{name}.norm2")), f"{name}.conv2")
        return y + (
            conv(x, f"{name}.nin_shortcut") if f"{name}.nin_shortcut.weight" in weights else x
        )

    def attention(x, name):
        y = norm(x, f"{name}.norm")
        q, k, v = (conv(y, f"{name}.{part}").flatten(2).transpose(1, 2) for part in "qkv")
        y = functional.scaled_dot_product_attention(q, k, v)
        return x + conv(y.transpose(1, 2).unflatten(2, x.shape[2:]), f"{name}.proj_out")

    def levels(x, name, blocks, change):
        for level in range(5):
            for block in range(blocks):
                x = residual(x, f"{name}.conv_blocks.{level}.res.{block}")
                if f"{name}.conv_blocks.{level}.attn.{block}.q.weight" in weights:
                    x = attention(x, f"{name}.conv_blocks.{level}.attn.{block}")
            x = change(x, f"{name}.conv_blocks.{level}") if level < 4 else x
        return x

    def middle(x, name):
        return residual(attention(residual(x, f"{name}.mid.0"), f"{name}.mid.1"), f"{name}.mid.2")

    def end(x, name):
        return conv(functional.silu(norm(x, f"{name}.norm_out")), f"{name}.conv_out")

    x = levels(
        conv(to_pixels(images), "encoder.conv_in"),
        "encoder",
        2,
        lambda x, name: conv(
            functional.pad(x, (0, 1, 0, 1)), f"{name}.downsample.conv", stride=2, padding=0
        ),
    )
    # (images, 16, 16, 8)
    latent = conv(end(middle(x, "encoder"), "encoder"), "quant_conv").permute(0, 2, 3, 1)
    codebook = functional.normalize(weights["quantize.embedding.weight"], dim=-1)
    # unit rows: the nearest is the most alike
    codes = (functional.normalize(latent, dim=-1) @ codebook.T).argmax(-1)
    x = conv(conv(codebook[codes].permute(0, 3, 1, 2), "post_quant_conv"), "decoder.conv_in")
    x = levels(
        middle(x, "decoder"),
        "decoder",
        3,
        lambda x, name: conv(
            functional.interpolate(x, scale_factor=2, mode="nearest"), f"{name}.upsample.conv"
        ),
    )
    return codes.flatten(1), end(x, "decoder").permute(0, 2, 3, 1)


def test_llamagens_checkpoint_gives_the_codes_and_reconstructions_of_its_network(
    llamagen, watches, tmp_path
):
    torch.save(
        {"ema": llamagen, "steps": 1, "args": argparse.Namespace(lr=1e-4)}, tmp_path / "vq.pt"
    )
    encoder, images = VQEncoder.load(str(tmp_path / "vq.pt")), render_batch(watches[:1], 256)
    assert (
        describe(encoder) == {"kind": "vq", "tokens": 256, "width": 8, "codes": 16384}
        and encoder.size == 256
    )
    codes = encoder.encode(images)
    with torch.no_grad():
        wanted, drawn = as_llamagen_computes(llamagen, images)
    # two codes of 16384 may be as near as float32 can tell
    assert (codes == wanted.numpy()).mean() > 0.98
    assert len(np.unique(codes)) > 20
    same = encoder.decode(wanted.numpy())[0]
    assert np.abs(same.astype(int) - (drawn[0].clamp(-1, 1).numpy() + 1) * 127.5).max() <= 1
    assert same.std() > 1
    assert len(fingerprint(str(tmp_path / "vq.pt"))) == 64


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_llamagens_weights_are_found_under_each_of_their_names(llamagen, tmp_path, key):
    torch.save({key: llamagen}, tmp_path / "vq.pt")
    network = load_llamagen(tmp_path / "vq.pt")
    torch.testing.assert_close(network.quantize.embedding.weight.norm(dim=1), torch.ones(16384))
    assert not any(weight.requires_grad for weight in network.parameters())


@pytest.mark.parametrize("name", ["vq.pth", "vq.bin", "vq.safetensors", "half.safetensors"])
def test_llamagens_weights_are_read_from_each_form_of_file(llamagen, tmp_path, name):
    weights = (
        {key: weight.half() for key, weight in llamagen.items()}
        if name.startswith("half")
        else llamagen
    )
    save = (
        save_file
        if name.endswith("safetensors")
        else lambda some, path: torch.save({"model": some}, path)
    )
    save(weights, tmp_path / name)
    network = VQEncoder.load(str(tmp_path / name)).network.cpu()
    wanted = weights["encoder.mid.1.q.weight"].float()
    torch.testing.assert_close(network.encoder.mid.attn_1.q.weight, wanted, rtol=0, atol=0)
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


def test_a_safetensors_file_of_another_model_is_refused(tmp_path):
    path = tmp_path / "vq.safetensors"
    save_file({"odd": torch.zeros(1)}, path)
    with pytest.raises(
        ValueError,
        match=f"{path} holds the weights of another model: for encoder.conv_in.weight it",
    ):
        VQEncoder.load(str(path))
    path.write_bytes(bytes(64))
    with pytest.raises(ValueError, match=f"{path} is not a whole safetensors file"):
        VQEncoder.load(str(path))


def test_what_is_no_checkpoint_of_llamagens_is_refused_in_one_sentence(llamagen, tmp_path):
    path = tmp_path / "vq.pt"

    def refused(message, **held):
        if held:
            torch.save(held, path)
        with pytest.raises(ValueError, match=message) as refusal:
            VQEncoder.load(str(path))
        assert str(refusal.value).count(". ") == 0 and str(refusal.value).endswith(".")

    refused("is neither an existing folder or file nor a hub id")
    refused(
        r"codebook of \(8192, 8\) .* has \(16384, 8\)",
        model=llamagen | {"quantize.embedding.weight": torch.zeros(8192, 8)},
    )
    refused(
        "holds the weights of another model: for decoder.conv_out.bias it has nothing",
        model={
            name: weight for name, weight in llamagen.items() if name != "decoder.conv_out.bias"
        },
    )
    refused(
        "holds the weights of another model: for odd it has",
        model=llamagen | {"odd": torch.zeros(1)},
    )
    refused(
        "has none of 'ema', 'model' and 'state_dict' with weights in it; there are 'weights'",
        weights=llamagen,
    )
    refused(
        "has none of 'ema', 'model' and 'state_dict' with weights in it; there are 'model'",
        model={"a": 1},
    )
    refused("holds the weights of another model", model={0: torch.zeros(1)})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("is not a complete file of nothing but weights")
    path.write_bytes(pickle.dumps({"model": Harmful()}, protocol=2))
    refused("other pickles are refused")
    assert not (tmp_path / "harm").exists()


class Harmful:
    """A pickle that would write a file if it were opened as one."""

    def __reduce__(self):
        return os.system, ("touch harm",)


@pytest.mark.parametrize(
    "codes",
    [
        np.full((1, 16), 24),
        np.full((1, 16), -1),
        np.zeros((1, 15), int),
        np.zeros(16, int),
        np.zeros((1, 16, 8)),
    ],
)
def test_what_are_no_codes_of_an_image_is_not_drawn(encoders, codes):
    with pytest.raises(
        ValueError,
        match=r"Codes are integers from 0 to 23 of shape \(images, "
        r"16\)",
    ):
        encoders["VQ"].decode(codes)


# --- folders as transformers and other people write them ---


def renamed(state, old, new):
    return {re.sub(old, new, name): weight for name, weight in state.items()}


def whole_siglip(tower, config):
    """A whole SigLIP with this tower."""
    torch.manual_seed(2)
    model = SiglipModel(
        SiglipConfig(
            vision_config=config,
            text_config={
                "hidden_size": 24,
                "intermediate_size": 48,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "vocab_size": 40,
            },
        )
    )
    model.load_state_dict(renamed(tower, "^", "vision_model."), strict=False)
    return model


def in_parts(folder, state):
    """Weights in two files with an index, as large models have them."""
    names, index = sorted(state), {}
    for number, some in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: state[name] for name in some}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(some, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )


def as_pickle(folder, state):
    torch.save(state, folder / "pytorch_model.bin")


def as_file(folder, state):
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


WRITTEN = {
    "in parts": in_parts,
    "as a pickle": as_pickle,
    "of half precision": lambda folder, state: as_file(
        folder, {name: weight.half() for name, weight in state.items()}
    ),
}


@pytest.mark.parametrize("how", ["old names", *WRITTEN])
@pytest.mark.parametrize("what", ["tower", "whole model"])
def test_a_siglip_is_read_in_every_form_that_transformers_reads(
    how, what, networks, tables, images, tmp_path
):
    state = load_file(networks / "siglip" / "model.safetensors")
    if what == "whole model":
        model = whole_siglip(state, json.loads((networks / "siglip" / "config.json").read_text()))
        model.config.save_pretrained(tmp_path)
        state = model.state_dict()
    else:
        shutil.copy(networks / "siglip" / "config.json", tmp_path)
        if how == "old names":  # of transformers 4; those of its whole models have not changed
            state = renamed(state, "^", "vision_model.")
    WRITTEN.get(how, as_file)(tmp_path, state)
    encoder = SiglipEncoder.load(str(tmp_path))
    assert encoder.network.dtype == torch.float32
    close = {"rtol": 0.01, "atol": 0.01} if "half" in how else {"rtol": 0, "atol": 0}
    np.testing.assert_allclose(encoder.encode(images[:4]), tables["SigLIP"][:4], **close)


@pytest.mark.parametrize("how", WRITTEN)
def test_a_vq_tokenizer_is_read_in_every_form_that_transformers_reads(
    how, networks, tables, images, tmp_path
):
    state = load_file(networks / "vq" / "model.safetensors")
    shutil.copy(networks / "vq" / "config.json", tmp_path)
    WRITTEN[how](tmp_path, state)
    encoder = VQEncoder.load(str(tmp_path))
    assert encoder.network.dtype == torch.float32
    same = (encoder.encode(images[:8]) == tables["VQ"][:8]).mean()
    assert same == 1 if "half" not in how else same > 0.9


def test_weights_beside_those_of_a_tower_are_refused_unless_a_whole_siglip_has_them(
    networks, tmp_path
):
    state = load_file(networks / "siglip" / "model.safetensors")
    shutil.copy(networks / "siglip" / "config.json", tmp_path)
    as_file(tmp_path, state | {"logit_scale": torch.ones(1), "text_model.odd": torch.ones(1)})
    SiglipEncoder.load(str(tmp_path))
    for name in ("classifier.weight", "my_text_model.odd", "logit_scale.odd"):
        as_file(tmp_path, state | {name: torch.ones(1)})
        with pytest.raises(
            ValueError, match=f"weights that its configuration asks for: {name} is unknown"
        ):
            SiglipEncoder.load(str(tmp_path))


@pytest.mark.parametrize(("load", "name"), [(SiglipEncoder.load, "siglip"), (VQEncoder.load, "vq")])
def test_weights_without_a_configuration_are_refused(load, name, networks, tmp_path):
    """transformers would take its defaults, whose number of heads no weight can contradict."""
    shutil.copy(networks / name / "model.safetensors", tmp_path)
    with pytest.raises(ValueError, match=f"'{tmp_path}' is not a .*: it has no config.json."):
        load(str(tmp_path))


def test_a_part_that_is_missing_is_refused(networks, tmp_path):
    shutil.copy(networks / "siglip" / "config.json", tmp_path)
    in_parts(tmp_path, load_file(networks / "siglip" / "model.safetensors"))
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        ValueError, match="is not a SigLIP vision tower that can be loaded"
    ) as error:
        SiglipEncoder.load(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("load", [SiglipEncoder.load, VQEncoder.load])
def test_an_adapter_of_an_encoder_is_refused(load, networks, tmp_path):
    shutil.copytree(networks / ("vq" if load is VQEncoder.load else "siglip"), tmp_path / "adapter")
    (tmp_path / "adapter" / "model.safetensors").unlink()
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "owner/model"})
    )
    with pytest.raises(
        ValueError, match="is an adapter of another model, which only a language model may be"
    ):
        load(str(tmp_path / "adapter"))


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
    assert [path.suffix for path in (cache / "features").iterdir() if path.suffix != ".lock"] == [
        ".npy"
    ]


def test_features_of_many_chunks_are_put_together_in_order(encoders, images, tables, tmp_path):
    vision._compute_features(
        encoders["VQ"],
        tmp_path / "a.npy",
        (48, 16),
        np.uint16,
        lambda a, b: images[a:b],
        chunk=7,
    )
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), tables["VQ"])


def test_other_images_another_count_and_another_encoder_have_files_of_their_own(
    counted, networks, tmp_path, cache
):
    features, calls = counted
    state = load_file(networks / "vq" / "model.safetensors")
    state["quantize.embedding.weight"] = state["quantize.embedding.weight"].flip(0)
    (tmp_path / "vq").mkdir()
    save_file(state, tmp_path / "vq" / "model.safetensors")
    (tmp_path / "vq" / "config.json").write_text((networks / "vq" / "config.json").read_text())
    other = VQEncoder.load(str(tmp_path / "vq"))
    first = features()
    # its own codes, not the cached ones
    np.testing.assert_array_equal(features(encoder=other), 23 - first.astype(int))
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
    with pytest.raises(
        ValueError,
        match=r"holds uint16 \(20, 9\), but this encoder gives uint16 "
        r"\(20, 16\); delete",
    ):
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


@pytest.mark.parametrize(
    "content",
    [
        b"no array",
        b"PK\x03\x04no zip",
        b"\x93NUMPY\x01\x00\x76\x00{'descr': ",
        b"\x93NUMPY\x09\x00",
        bytes(5000),
        None,
    ],
    ids=str,
)
def test_a_cache_of_something_else_is_refused_by_its_name(counted, cache, content):
    features, _ = counted
    features()
    path = only_file(cache)
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path.name} is not a whole feature cache; delete it"):
        features()


def test_a_disk_with_too_little_room_is_told_before_anything_is_encoded(
    counted, cache, monkeypatch
):
    features, calls = counted
    monkeypatch.setattr(vision.shutil, "disk_usage", lambda folder: SimpleNamespace(free=500))
    with pytest.raises(
        ValueError,
        match=r"features cannot be written \(6.4e-07 GB are needed and "
        r"5e-07 GB are free\)",
    ):
        features()
    assert not calls and {path.suffix for path in (cache / "features").iterdir()} <= {".lock"}


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
        with pytest.raises(
            ValueError,
            match=r"The feature cache .*features cannot be written \(No "
            r"space left on device\); free space there or set "
            r"UVLM_CACHE",
        ):
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
    assert not list((cache / "features").glob("*.npy")) and not list(
        (cache / "features").glob("*.partial")
    )
