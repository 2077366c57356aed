"""The unified model: its two losses against loops, where gradients go, files that give the same
model back."""

import json
import pickle
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import (
    AdaptionPromptConfig,
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from uvlm_core import plan
from uvlm_core.data.conversations import make_conversations
from uvlm_core.data.tokens import IGNORED, collate
from uvlm_core.models.unified import UnifiedVLM, UnifiedVLMConfig, can_share, load_language_model
from uvlm_core.places import fingerprint
from uvlm_core.runs.store import record_key
from uvlm_core.training.loop import make_optimizer
from uvlm_core.training.networks import networks, tune, untie
from uvlm_core.training.spec import ARCHITECTURES

PAIRS = [
    (name, shared)
    for name in ARCHITECTURES
    for shared in (False, True)
    if not shared or len(set(name.split("-"))) == 1
]


@pytest.fixture(scope="module")
def rows(processor, watches):
    """Rows of understanding and of generation, of different lengths."""
    talks = {
        task: make_conversations(watches[:6], task, 0, turns=2)
        for task in ("vqa", "caption", "generation")
    }
    understanding = [processor.row(talk) for task in ("vqa", "caption") for talk in talks[task]]
    return {
        "understanding": understanding,
        "generation": [processor.row(talk) for talk in talks["generation"]],
    }


@pytest.fixture
def batch(rows, tables, processor):
    """Buckets of an architecture, of one or both regimes."""

    def make(architecture: str, *regimes: str) -> list[dict]:
        kind_in, kind_out = architecture.split("-")
        chosen = [row for regime in regimes or rows for row in rows[regime]]
        return collate(chosen, tables[kind_in], tables[kind_out], processor.pad)

    return make


def image_inputs(adapter, table, image, codebook, length=0.0):
    """LM inputs (tokens, width) of one image, token by token, each token at a length if one is
    given."""
    tokens = [
        codebook[code] if codebook.numel() else torch.from_numpy(table[image])[i]
        for i, code in enumerate(table[image])
    ]
    if length:
        tokens = [token * length / token.norm() for token in tokens]
    return torch.stack(
        [
            adapter.project(token) + position
            for token, position in zip(tokens, slot_positions(adapter, len(tokens)), strict=True)
        ]
    )


def slot_positions(adapter, tokens):
    """What each image slot adds for its place: its row's embedding plus its column's, nothing
    without any."""
    if adapter.row_positions is None:
        return [0] * tokens
    side = round(tokens**0.5)
    return [
        adapter.row_positions[slot // side] + adapter.column_positions[slot % side]
        for slot in range(tokens)
    ]


def losses_by_loops(model, rows, tables, architecture, processor):
    """Text and image loss, position by position, each row by itself, from the definition."""
    kind_in, kind_out = architecture.split("-")
    table = model.get_input_embeddings().weight
    into = model.understanding_adapter
    out = model.understanding_adapter if model.config.shared_adapter else model.generation_adapter
    text, image = [], []
    for row in rows:
        slots = {
            processor.image_in: iter(
                image_inputs(into, tables[kind_in], row.image_in, model.understanding_codebook)
            ),
            processor.image_out: iter(
                image_inputs(
                    out,
                    tables[kind_out],
                    row.image_out,
                    model.generation_codebook,
                    model.config.feature_length,
                )
            ),
        }
        inputs = torch.stack([next(slots[i]) if i in slots else table[i] for i in row.ids.tolist()])
        hidden = model.language_model.model(inputs_embeds=inputs[None]).last_hidden_state[0]
        seen = 0
        for position in range(1, len(row.ids)):
            before = hidden[position - 1]
            if row.labels[position] != IGNORED:
                text.append(
                    -model.language_model.lm_head(before).log_softmax(-1)[row.labels[position]]
                )
            if row.ids[position] == processor.image_out:
                predicted, target = (
                    model.generation_head(before),
                    tables[kind_out][row.image_out][seen],
                )
                if kind_out == "VQ":
                    image.append(-predicted.log_softmax(-1)[int(target)])
                else:
                    target = torch.from_numpy(target)
                    if model.config.feature_loss == "mse":
                        image.append(((predicted - target) ** 2).mean())
                    else:
                        image.append(1 - predicted @ target / (predicted.norm() * target.norm()))
                seen += 1
    return torch.stack(text).mean(), torch.stack(image).mean()


@pytest.mark.parametrize(("architecture", "shared"), PAIRS)
def test_the_losses_are_means_over_their_own_positions(
    architecture, shared, new_model, rows, batch, tables, processor
):
    model = new_model(architecture, shared, alpha=0.7).eval()
    with torch.no_grad():
        found = model(buckets=batch(architecture))
        text, image = losses_by_loops(
            model, rows["understanding"] + rows["generation"], tables, architecture, processor
        )
    torch.testing.assert_close(found.text_loss, text, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.image_loss, image, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.loss, text + 0.7 * image, rtol=1e-4, atol=1e-5)
    assert found.image_positions == 16 * len(rows["generation"])
    assert found.text_positions == sum(
        (row.labels != IGNORED).sum() for part in rows.values() for row in part
    )


@pytest.mark.parametrize("settings", [{"feature_loss": "mse"}, {"feature_length": 3.0}], ids=str)
@pytest.mark.parametrize(
    ("architecture", "shared"), [("VQ-SigLIP", False), ("SigLIP-SigLIP", True)]
)
def test_the_options_of_feature_output_change_the_image_loss_as_they_say(
    architecture, shared, settings, new_model, rows, batch, tables, processor
):
    model = new_model(architecture, shared, **settings).eval()
    with torch.no_grad():
        found = model(buckets=batch(architecture))
        _, image = losses_by_loops(
            model, rows["understanding"] + rows["generation"], tables, architecture, processor
        )
        plain = new_model(architecture, shared).eval()(buckets=batch(architecture))
    torch.testing.assert_close(found.image_loss, image, rtol=1e-4, atol=1e-5)
    assert not torch.isclose(found.image_loss, plain.image_loss)


@pytest.mark.parametrize("shared", [False, True])
def test_of_an_image_that_is_not_read_back_only_the_places_are_seen(
    shared, new_model, tables, batch
):
    model = new_model("SigLIP-SigLIP", shared, feature_length=3.0).eval()
    images = torch.from_numpy(tables["SigLIP"][:2])
    with torch.no_grad():
        seen = model.embed_generation(images, read_back=torch.tensor([True, False]))
        torch.testing.assert_close(seen[0], model.embed_generation(images)[0])
        torch.testing.assert_close(seen[1], model.embed_generation(torch.zeros_like(images))[1])
        bucket = batch("SigLIP-SigLIP", "generation")[0]
        none = bucket | {"read_back": torch.zeros(len(bucket["images_out"]), dtype=torch.bool)}
        other = none | {"images_out": bucket["images_out"].flip(0)}
        losses = [model(buckets=[some]).image_loss for some in (bucket, none, other)]
        hidden = [
            model.embed(some["input_ids"], None, some["images_out"], some["read_back"])
            for some in (none, other)
        ]
    torch.testing.assert_close(*hidden)  # what comes in is the same, what is wanted is not
    assert len({round(float(loss), 5) for loss in losses}) == 3


@pytest.mark.parametrize("architecture", ["VQ-VQ", "VQ-SigLIP"])
def test_a_padding_image_counts_in_the_mean_and_its_four_text_tokens_are_trained(
    architecture, new_model, batch, tables, processor
):
    model, buckets = new_model(architecture, alpha=0.5).eval(), batch(architecture)
    blank = np.zeros_like(tables[architecture.split("-")[1]][:1])
    (padding,) = collate([processor.padding_row()], None, blank, processor.pad)
    with torch.no_grad():
        without, found = model(buckets=buckets), model(buckets=buckets, padding=padding)
        four = model(
            buckets=[{name: padding[name] for name in ("input_ids", "labels", "images_out")}]
        )
    assert four.text_positions == 4 and found.text_positions == without.text_positions + 4
    n = without.text_positions
    torch.testing.assert_close(
        found.text_loss, (n * without.text_loss + 4 * four.text_loss) / (n + 4)
    )
    slots = without.image_positions
    torch.testing.assert_close(found.image_loss, without.image_loss * slots / (slots + 16))
    torch.testing.assert_close(found.loss, found.text_loss + 0.5 * found.image_loss)


@pytest.mark.parametrize("kind", ["VQ", "SigLIP"])
def test_what_a_side_starts_from_depends_on_its_own_space_alone(kind, new_model):
    other = {"VQ": "SigLIP", "SigLIP": "VQ"}[kind]
    own, mixed = new_model(f"{kind}-{kind}", shared=True), new_model(f"{kind}-{other}")
    reverse, separate = new_model(f"{other}-{kind}"), new_model(f"{kind}-{kind}")

    def same(one, two):
        one, two = (
            [p for name, p in part.named_parameters() if "positions" not in name]
            for part in (one, two)
        )
        # the fixture sets the positions
        return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))

    assert same(own.understanding_adapter, mixed.understanding_adapter)
    assert same(own.understanding_adapter, separate.understanding_adapter)
    assert same(own.understanding_adapter, reverse.generation_adapter)
    assert same(own.generation_head, reverse.generation_head)
    assert not same(separate.understanding_adapter, separate.generation_adapter)
    assert not same(
        own.understanding_adapter,
        new_model(f"{kind}-{kind}", shared=True, seed=4).understanding_adapter,
    )


def test_an_unknown_feature_loss_is_refused(new_model):
    with pytest.raises(ValueError, match="feature_loss 'l1' is not one of cosine, mse"):
        new_model("VQ-SigLIP", feature_loss="l1")


def test_understanding_alone_has_no_image_loss_and_the_text_loss_as_its_loss(new_model, batch):
    found = new_model("VQ-VQ")(buckets=batch("VQ-VQ", "understanding"))
    assert found.image_loss is None and found.image_positions == 0
    assert found.loss.item() == found.text_loss.item()


def test_rows_without_a_label_have_no_text_loss(new_model, batch):
    buckets = [
        bucket | {"labels": torch.full_like(bucket["labels"], IGNORED)}
        for bucket in batch("VQ-VQ", "generation")
    ]
    found = new_model("VQ-VQ", alpha=0.5)(buckets=buckets)
    assert found.text_loss == 0 and found.text_positions == 0
    torch.testing.assert_close(found.loss, 0.5 * found.image_loss)
    found.loss.backward()


def without_gradient(model: torch.nn.Module) -> set[str]:
    """The parts of the model that no gradient reaches."""
    parts = {name.split(".")[0] for name, _ in model.named_parameters()}
    return parts - {
        name.split(".")[0]
        for name, p in model.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_regime_trains_its_own_side_only(architecture, new_model, batch):
    for regime, untouched in (
        ("understanding", {"generation_adapter", "generation_head"}),
        ("generation", {"understanding_adapter"}),
    ):
        model = new_model(architecture)
        model(buckets=batch(architecture, regime)).loss.backward()
        assert without_gradient(model) == untouched
    model = new_model(architecture)
    model(buckets=batch(architecture)).loss.backward()
    assert without_gradient(model) == set()


def test_a_shared_adapter_is_trained_by_both_regimes(new_model, batch):
    for regime, untouched in (("understanding", {"generation_head"}), ("generation", set())):
        model = new_model("VQ-VQ", shared=True)
        assert model.generation_adapter is None
        model(buckets=batch("VQ-VQ", regime)).loss.backward()
        assert without_gradient(model) == untouched


def test_codebooks_are_the_encoders_and_get_no_gradient(new_model, encoders):
    model = new_model("VQ-SigLIP")
    torch.testing.assert_close(
        model.understanding_codebook, encoders["VQ"].codebook, rtol=0, atol=0
    )
    torch.testing.assert_close(
        model.understanding_codebook.norm(dim=1), torch.ones(encoders["VQ"].codes)
    )
    assert model.generation_codebook.numel() == 0
    assert not any("codebook" in name for name, _ in model.named_parameters())


def test_the_language_model_keeps_its_pre_trained_weights(new_model, networks):
    stored = load_file(networks / "language_model" / "model.safetensors")
    state = new_model("VQ-VQ").language_model.state_dict()
    assert stored and all(torch.equal(state[name], tensor) for name, tensor in stored.items())


# --- language models by path ---


IDS = torch.arange(6, 30)[None]


@pytest.fixture(scope="module", params=["tied", "untied"])
def base(request, networks, tmp_path_factory) -> Path:
    """A language model whose two tables are one, and one that has two."""
    if request.param == "tied":
        return networks / "language_model"
    folder = tmp_path_factory.mktemp("untied")
    model = AutoModelForCausalLM.from_pretrained(networks / "language_model")
    untie(model)
    model.save_pretrained(folder)
    return folder


def lora(**settings) -> LoraConfig:
    return LoraConfig(
        **{
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["q_proj", "v_proj"],
            "init_lora_weights": False,
            "task_type": "CAUSAL_LM",
        }
        | settings
    )


def adapter_of(base: Path, folder: Path, config) -> torch.Tensor:
    """Save an adapter with random weights; what the adapted model computes."""
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder)
    return model.eval()(IDS).logits.detach()


def refused(name, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load_language_model(str(name), 0)
    said = str(error.value)
    assert "\n" not in said and ". " not in said and said.endswith(".") and str(name) in said


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": "all-linear", "task_type": None},
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"trainable_token_indices": [7, 8]},
    ],
    ids=str,
)
def test_an_adapter_is_merged_into_the_model_that_it_names(base, settings, tmp_path):
    wanted = adapter_of(base, tmp_path, lora(**settings))
    plain, merged = load_language_model(str(base), 0), load_language_model(str(tmp_path), 0)
    torch.testing.assert_close(merged.eval()(IDS).logits, wanted, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(plain.eval()(IDS).logits, wanted, rtol=0.1, atol=0.1)
    assert type(merged) is type(plain) and not hasattr(merged, "peft_config")
    assert merged.state_dict().keys() == plain.state_dict().keys()
    same = merged.get_input_embeddings().weight is merged.get_output_embeddings().weight
    assert same == merged.config.tie_word_embeddings
    rows = len(plain.get_input_embeddings().weight)
    grown = load_language_model(str(tmp_path), rows + 4, torch.bfloat16)
    assert {weight.dtype for weight in grown.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(
        grown.eval()(IDS).logits[..., :rows].float(), wanted, rtol=0.2, atol=0.6
    )


def test_an_adapter_of_another_kind_that_can_be_merged_is_merged(base, tmp_path):
    wanted = adapter_of(
        base,
        tmp_path,
        IA3Config(
            target_modules=["k_proj", "down_proj"],
            task_type="CAUSAL_LM",
            feedforward_modules=["down_proj"],
            init_ia3_weights=False,
        ),
    )
    torch.testing.assert_close(
        load_language_model(str(tmp_path), 0).eval()(IDS).logits, wanted, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("tuning", ["full", "lora", "frozen"])
def test_an_adapter_is_there_whatever_the_tuning(tuning, spec, tmp_path):
    wanted = adapter_of(Path(spec.model.language_model), tmp_path, lora())
    spec = spec.vary(language_model=str(tmp_path), tuning=tuning)
    model = tune(networks(spec)[0], spec).eval()
    found = model.language_model(IDS).logits[..., : wanted.shape[-1]]
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    # its own
    assert sum("lora_A" in name for name in model.state_dict()) == (14 if tuning == "lora" else 0)


@pytest.mark.parametrize(
    "kind",
    [
        partial(PromptTuningConfig, num_virtual_tokens=4),
        partial(PrefixTuningConfig, num_virtual_tokens=4),
        partial(AdaptionPromptConfig, adapter_len=4, adapter_layers=2),
    ],
    ids=lambda kind: kind.func.__name__,
)
def test_an_adapter_that_cannot_be_merged_is_refused(kind, networks, tmp_path):
    config = kind(task_type="CAUSAL_LM")
    adapter_of(networks / "language_model", tmp_path, config)
    refused(
        tmp_path,
        f"is an adapter of the kind {config.peft_type.value}, which cannot be merged "
        f"into its model",
    )


@pytest.mark.parametrize(
    "tables", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]], ids=str
)
def test_an_adapter_that_parts_two_equal_tables_is_refused_and_else_merged(base, tables, tmp_path):
    wanted = adapter_of(base, tmp_path, lora(target_modules=["q_proj", *tables]))
    if base.name == "language_model":  # tied
        refused(
            tmp_path, "changes only one of the embeddings and the head, which share their weights"
        )
    else:
        merged = load_language_model(str(tmp_path), 0)
        torch.testing.assert_close(merged.eval()(IDS).logits, wanted, rtol=1e-3, atol=1e-3)


def spoil_config(**changes):
    def spoil(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def spoil_weights(change):
    def spoil(folder):
        path = folder / "adapter_model.safetensors"
        state = load_file(path)
        change(state)
        save_file(state, path)

    return spoil


def truncate(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:500])


def pickled(folder):
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Harmful(folder / "harm"), protocol=2))


class Harmful:
    """A pickle that would make a file if it were opened as one."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_config(base_model_name_or_path=None), "names no model"),
        (spoil_config(base_model_name_or_path=""), "names no model"),
        (
            spoil_config(base_model_name_or_path="/data/vicuna"),
            "cannot be found: '/data/vicuna' is neither an existing folder",
        ),
        (spoil_config(peft_type="NEWEST"), "is not an adapter of its model that can be loaded"),
        (
            spoil_config(target_modules=["no_proj"]),
            "is not an adapter of its model that can be loaded",
        ),
        (spoil_config(target_modules=["q_proj"]), r"v_proj.lora_A.* is missing or unknown"),
        (
            spoil_config(target_modules=["q_proj", "v_proj", "k_proj"]),
            r"k_proj.lora_A.* is missing or unknown",
        ),
        (spoil_config(r=8), "is not an adapter of its model that can be loaded .*RuntimeError"),
        (spoil_weights(lambda state: state.popitem()), "is missing or unknown"),
        (
            spoil_weights(lambda state: next(iter(state.values())).fill_(torch.nan)),
            "is not an adapter of finite weights",
        ),
        (
            lambda folder: (folder / "adapter_config.json").write_text("{"),
            "adapter_config.json is not JSON",
        ),
        (
            lambda folder: (folder / "adapter_model.safetensors").unlink(),
            "is not an adapter of its model that can be",
        ),
        (
            lambda folder: (folder / "model.safetensors").touch(),
            "holds an adapter and a whole model",
        ),
        (truncate, "SafetensorError"),
        (pickled, "UnpicklingError"),
    ],
)
def test_an_adapter_that_is_not_whole_or_fits_no_model_is_refused(
    spoil, message, networks, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    adapter_of(networks / "language_model", tmp_path, lora())
    spoil(tmp_path)
    refused(tmp_path, message)
    assert not (tmp_path / "harm").exists()


def test_an_adapter_with_a_larger_vocabulary_than_its_model_is_refused(networks, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(networks / "language_model")
    model.resize_token_embeddings(model.config.vocab_size + 3, mean_resizing=False)
    get_peft_model(model, lora(modules_to_save=["embed_tokens", "lm_head"])).save_pretrained(
        tmp_path
    )
    refused(tmp_path, "is not an adapter of its model that can be loaded .*RuntimeError")


def test_an_adapter_of_an_adapter_is_refused_and_a_ring_of_them_too(networks, tmp_path):
    for name, of in (("first", networks / "language_model"), ("second", tmp_path / "first")):
        adapter_of(networks / "language_model", tmp_path / name, lora())
        spoil_config(base_model_name_or_path=str(of))(tmp_path / name)
    refused(tmp_path / "second", "is an adapter of .*first', which is an adapter too")
    spoil_config(base_model_name_or_path=str(tmp_path / "first"))(tmp_path / "first")
    refused(tmp_path / "first", "which is an adapter too")


def test_an_adapters_weights_alone_are_read_from_a_pickle(networks, tmp_path):
    wanted = adapter_of(networks / "language_model", tmp_path, lora())
    torch.save(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_model.safetensors").unlink()
    found = load_language_model(str(tmp_path), 0).eval()(IDS).logits
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_a_record_knows_an_adapter_by_its_model_too(spec, tmp_path):
    shutil.copytree(spec.model.language_model, tmp_path / "base")
    adapter_of(tmp_path / "base", tmp_path / "adapter", lora())
    asked = spec.vary(language_model=str(tmp_path / "adapter"))
    keys = [record_key(asked)]
    for path, name in (
        (tmp_path / "base", "model.safetensors"),
        (tmp_path / "adapter", "adapter_model.safetensors"),
    ):
        state = load_file(path / name)
        next(iter(state.values())).add_(1e-3)
        save_file(state, path / name, metadata={"format": "pt"})
        fingerprint.cache_clear()
        keys.append(record_key(asked))
    assert len(set(keys)) == 3
    shutil.rmtree(tmp_path / "base")
    fingerprint.cache_clear()
    with pytest.raises(
        ValueError,
        match="is an adapter of a model that cannot be found: "
        ".*base' is neither an existing folder",
    ):
        record_key(asked)


def test_a_plan_of_an_adapter_is_that_of_its_model(spec, tmp_path):
    adapter_of(Path(spec.model.language_model), tmp_path, lora())
    spec = spec.vary(architecture="SigLIP-VQ")
    of_adapter = plan.tuned_model(spec.vary(language_model=str(tmp_path)))
    assert of_adapter.num_parameters() == plan.tuned_model(spec).num_parameters()


def test_a_model_with_what_older_versions_wrote_is_read(networks, tmp_path):
    """Vicuna's files have a buffer per layer that transformers no longer keeps."""
    state = load_file(networks / "language_model" / "model.safetensors")
    shutil.copy(networks / "language_model" / "config.json", tmp_path)
    torch.save(
        state
        | {
            f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(8)
            for layer in range(2)
        },
        tmp_path / "pytorch_model.bin",
    )
    found = load_language_model(str(tmp_path), 0).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in state.items())


def test_a_model_that_brings_its_own_code_is_refused_and_the_code_not_run(networks, tmp_path):
    shutil.copytree(networks / "language_model", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(
        json.dumps(
            json.loads(path.read_text())
            | {
                "model_type": "own",
                "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
            }
        )
    )
    (tmp_path / "model" / "own.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')")
    refused(tmp_path / "model", "is not a language model that can be loaded .*custom code")
    assert not (tmp_path / "harm").exists()


def test_positions_of_image_slots_change_the_inputs_and_can_be_left_out(new_model, tables):
    codes = torch.from_numpy(tables["VQ"][:2]).long()
    model, plain = new_model("VQ-VQ"), new_model("VQ-VQ", positions=False)
    added = model.embed_understanding(codes) - model.understanding_adapter.project(
        model.understanding_codebook[codes]
    )
    positions = torch.stack(slot_positions(model.understanding_adapter, 16))
    torch.testing.assert_close(added, positions.expand(2, -1, -1), atol=1e-5, rtol=1e-4)
    assert len(positions.unique(dim=0)) == 16  # no two slots share a place
    assert (
        plain.understanding_adapter.row_positions
        is plain.understanding_adapter.column_positions
        is None
    )
    # one code everywhere: without positions every slot is the same
    same = codes[:, :1].expand(-1, 16)
    assert (plain.embed_understanding(same) == plain.embed_understanding(same)[:, :1]).all()


def test_a_token_embedded_alone_at_its_place_is_the_one_embedded_in_its_image(new_model, tables):
    for architecture, kind in (("VQ-VQ", "VQ"), ("VQ-SigLIP", "SigLIP")):
        model = new_model(architecture)
        whole = torch.from_numpy(tables[kind][:3])
        whole = whole.long() if kind == "VQ" else whole
        embeds = model.embed_generation(whole)
        for place in (0, 7, 15):
            alone = model.embed_generation(whole[:, place : place + 1], start=place)
            torch.testing.assert_close(alone, embeds[:, place : place + 1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("architecture", "shared"), PAIRS)
def test_a_saved_model_comes_back_with_every_tensor_and_the_same_loss(
    architecture, shared, new_model, batch, tmp_path
):
    model = new_model(architecture, shared).eval()
    model.save_pretrained(tmp_path)
    for back in (UnifiedVLM.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        state, loaded = model.state_dict(), back.eval().state_dict()
        assert state.keys() == loaded.keys()
        assert all(torch.equal(tensor, loaded[name]) for name, tensor in state.items())
        # ties are kept
        assert sum(p.numel() for p in back.parameters()) == sum(
            p.numel() for p in model.parameters()
        )
        with torch.no_grad():
            buckets = batch(architecture)
            assert model(buckets=buckets).loss.item() == back(buckets=buckets).loss.item()
        assert back.config.to_dict()["understanding_space"] == model.config.understanding_space


@torch.no_grad()
def test_tokens_that_are_drawn_at_once_see_each_other_and_their_request_sees_none(
    new_model, batch, images
):
    model = new_model("VQ-SigLIP", feature_loss="image_flow", images=images).eval()
    plain = new_model("VQ-SigLIP").eval()
    (bucket, *_) = [one for one in batch("VQ-SigLIP") if "images_out" in one]
    ids = bucket["input_ids"]
    noise = torch.randn(*bucket["images_out"].shape[:2], 1, bucket["images_out"].shape[2] + 1)
    hidden = model.bucket_states(bucket | {"noise": noise})
    changed = noise.clone()
    changed[:, -1, :, :-1] += 1  # the last token of each image
    other = model.bucket_states(bucket | {"noise": changed})
    moved = (hidden - other).abs().amax(-1) > 1e-5  # (rows, tokens)
    for row, own in zip(moved, ids, strict=True):
        (slots,) = (own == model.config.image_out_id).nonzero(as_tuple=True)
        if len(slots):
            assert not row[: slots[0]].any() and row[slots].all()
    # the paper's heads predict a token from those before it
    shorter = bucket["images_out"].clone()
    shorter[:, -1] += 1
    first, second = (
        plain.bucket_states(bucket | {"images_out": one}) for one in (bucket["images_out"], shorter)
    )
    states = plain.drawing_states(first, ids), plain.drawing_states(second, ids)
    torch.testing.assert_close(*states)
    text = {name: bucket[name] for name in ("input_ids", "labels")}
    text["input_ids"] = text["input_ids"].clone().fill_(7)
    assert model.attention_mask(text["input_ids"]) is None


@pytest.mark.parametrize("loss", ["flow", "image_flow"])
def test_a_saved_head_that_samples_comes_back_with_its_scale(loss, new_model, images, tmp_path):
    model = new_model("VQ-SigLIP", feature_loss=loss, images=images)
    model.save_pretrained(tmp_path)
    back = UnifiedVLM.from_pretrained(tmp_path)
    assert model.generation_head.scale.min() > 0 and model.generation_head.mean.abs().max() > 0
    state, loaded = model.state_dict(), back.state_dict()
    assert state.keys() == loaded.keys()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in state.items())


def trained(model, spec, buckets, steps=2):
    """The model after some optimiser steps."""
    optimizer = make_optimizer(model, spec)
    for _ in range(steps):
        model(buckets=buckets).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("shared", [False, True])
def test_lora_trains_its_own_matrices_the_triggers_rows_the_adapters_and_the_head_only(
    new_model, spec, shared
):
    model = tune(new_model("VQ-VQ", shared), spec.vary(tuning="lora"))
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    lora = {name for name in names if "lora_" in name}
    assert len(lora) == 2 * 7 * 2  # A and B of seven matrices in two layers
    assert all(".language_model.model.layers." in name for name in lora)
    rows = {name for name in names if name.endswith("trainable_tokens_delta.default")}
    assert {name.split(".")[-4] for name in rows} == {"embed_tokens", "lm_head"}
    assert all(model.get_parameter(name).shape == (1, 32) for name in rows)
    rest = {name.split("base_model.model.")[1].split(".")[0] for name in names - lora - rows}
    assert rest == {"understanding_adapter", "generation_head"} | (
        set() if shared else {"generation_adapter"}
    )


def test_lora_starts_from_the_seed_whatever_was_drawn_before(new_model, spec):
    def start(seed: int) -> dict:
        torch.rand(seed + 1)  # the global state differs between processes and sessions
        model = tune(new_model("VQ-VQ"), spec.vary(tuning="lora", seed=seed))
        return {name: weight for name, weight in model.state_dict().items() if "lora_A" in name}

    first, again, other = start(0), start(0), start(1)
    assert first and all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_lora_changes_no_other_rows_than_the_triggers(new_model, spec, batch):
    model = tune(new_model("VQ-VQ"), spec.vary(tuning="lora"))
    before = {
        name: table.weight.detach().clone()
        for name, table in (
            ("in", new_model("VQ-VQ").get_input_embeddings()),
            ("out", new_model("VQ-VQ").language_model.lm_head),
        )
    }
    merged = trained(model, spec, batch("VQ-VQ")).merge_and_unload()
    for name, table in (
        ("in", merged.get_input_embeddings()),
        ("out", merged.language_model.lm_head),
    ):
        changed = (table.weight != before[name]).any(1).nonzero().flatten().tolist()
        assert changed == [merged.config.generate_id]


@pytest.mark.parametrize(("architecture", "shared"), [("VQ-VQ", True), ("SigLIP-VQ", False)])
def test_saved_lora_weights_on_a_fresh_base_give_the_same_loss(
    architecture, shared, new_model, spec, batch, tmp_path
):
    buckets = batch(architecture)
    model = trained(tune(new_model(architecture, shared), spec.vary(tuning="lora")), spec, buckets)
    model.save_pretrained(tmp_path)
    base = new_model(architecture, shared)
    untie(base.language_model)
    back = PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        before = model(buckets=buckets).loss
        # it has learned
        assert abs(before - new_model(architecture, shared).eval()(buckets=buckets).loss) > 1e-3
        assert back(buckets=buckets).loss == before
        merged = back.merge_and_unload()
        assert isinstance(merged, UnifiedVLM)
        torch.testing.assert_close(merged(buckets=buckets).loss, before, rtol=1e-4, atol=1e-5)


def test_a_merged_model_is_saved_and_loaded_as_any_other(new_model, spec, batch, tmp_path):
    buckets = batch("VQ-VQ")
    merged = trained(
        tune(new_model("VQ-VQ"), spec.vary(tuning="lora")), spec, buckets
    ).merge_and_unload()
    merged.save_pretrained(tmp_path)
    back = UnifiedVLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert back(buckets=buckets).loss == merged(buckets=buckets).loss


def test_a_frozen_language_model_is_bit_identical_after_training(new_model, spec, batch):
    for optimizer in ("muon", "adamw"):
        model = new_model("VQ-VQ")
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        trained(
            tune(model, spec.vary(tuning="frozen")), spec.vary(optimizer=optimizer), batch("VQ-VQ")
        )
        changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        assert changed == {name for name in before if not name.startswith("language_model.")}


def test_all_of_the_model_is_trained_in_full_tuning(new_model, spec, batch):
    model = new_model("VQ-VQ")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained(tune(model, spec), spec, batch("VQ-VQ"))
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


SPACE = {"kind": "vq", "tokens": 4, "width": 8, "codes": 24}


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        ((None, SPACE), r"understanding_space \{\} is not a dictionary of kind"),
        (
            (SPACE, SPACE | {"kind": "pixels"}),
            r"generation_space .*'pixels'.* is not a dictionary of "
            r"kind \(one of vq, s",
        ),
        (({"kind": "vq"}, SPACE), r"understanding_space \{'kind': 'vq'\} is not a dictionary"),
        ((SPACE | {"colour": 1}, SPACE), r"understanding_space .*'colour'.* is not a dictionary"),
    ],
)
def test_a_space_that_is_none_is_refused(spaces, message, networks):
    from transformers import AutoConfig

    text = AutoConfig.from_pretrained(networks / "language_model")
    with pytest.raises(ValueError, match=message):
        UnifiedVLM(
            UnifiedVLMConfig(
                text_config=text, understanding_space=spaces[0], generation_space=spaces[1]
            )
        )


def test_a_space_without_rows_and_columns_takes_no_positions(networks):
    from transformers import AutoConfig

    text, odd = AutoConfig.from_pretrained(networks / "language_model"), SPACE | {"tokens": 12}
    with pytest.raises(
        ValueError, match="generation_space has 12 tokens, which is not a square number"
    ):
        UnifiedVLM(
            UnifiedVLMConfig(
                text_config=text,
                understanding_space=SPACE,
                generation_space=odd,
                adapter_positions=True,
            )
        )
    UnifiedVLM(UnifiedVLMConfig(text_config=text, understanding_space=SPACE, generation_space=odd))


@pytest.mark.parametrize("change", [{"width": 9}, {"tokens": 9}, {"kind": "siglip", "codes": 0}])
def test_spaces_that_differ_cannot_share_an_adapter(change, networks):
    from transformers import AutoConfig

    text, other = AutoConfig.from_pretrained(networks / "language_model"), SPACE | change
    assert not can_share(SPACE, other)
    with pytest.raises(ValueError, match="An adapter can be shared only by spaces of one kind"):
        UnifiedVLM(
            UnifiedVLMConfig(
                text_config=text,
                understanding_space=SPACE,
                generation_space=other,
                shared_adapter=True,
            )
        )


def test_an_adapter_is_shared_where_it_is_asked_for_and_possible(new_model):
    assert new_model("VQ-VQ", shared=True).config.shared_adapter
    assert not new_model("VQ-VQ").config.shared_adapter
    assert not new_model("SigLIP-VQ", shared=True).config.shared_adapter


@pytest.mark.parametrize("shared", [False, True])
def test_the_head_starts_as_the_codes_own_inputs_at_the_scale_of_a_fresh_layer(new_model, shared):
    model = new_model("VQ-VQ", shared=shared)
    adapter = model.understanding_adapter if shared else model.generation_adapter
    inputs = adapter.project(model.generation_codebook)  # (codes, width)
    inputs = inputs - inputs.mean(0)
    weight = model.generation_head.weight
    assert torch.cosine_similarity(weight.flatten(), inputs.flatten(), dim=0) > 0.999
    assert weight.std().item() == pytest.approx(weight.shape[1] ** -0.5, rel=1e-3)
