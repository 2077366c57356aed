"""What several test files need: tiny random networks of the shipped classes, a spec that names
them, a cache apart.

Everything here is made in seconds and from seeds, so that no test depends on the shipped networks
or on another test.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("NUMBA_OPT", "0")  # to compile UMAP for a few points takes longer than them

import copy
import gc
import json
import pickle
import socket
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from uvlm_core.data.conversations import IMAGE, TASKS, make_conversations
from uvlm_core.data.smart_watch import render_batch, sample_watches
from uvlm_core.data.tokens import Processor, train_tokenizer
from uvlm_core.environment import ROOT
from uvlm_core.models import encoders as encoders_module
from uvlm_core.models import unified as unified_module
from uvlm_core.models.encoders import FeatureDecoder, SiglipEncoder, VQEncoder, to_pixels
from uvlm_core.models.readers import AttributeReader, FeatureReader
from uvlm_core.models.unified import build_model
from uvlm_core.models.weights import load_network
from uvlm_core.places import fingerprint
from uvlm_core.runs import grid as grid_module
from uvlm_core.runs.backends import Backend
from uvlm_core.training.profiles import profile
from uvlm_core.training.spec import RunSpec

torch.set_num_threads(1)
# a training collects garbage; what was imported need not be looked at each time
gc.freeze()
VQ_SHAPE = dict(
    in_channels=48,
    out_channels=48,
    base_channels=32,
    channel_multiplier=[1, 1, 1],
    num_res_blocks=1,
    # 64 px -> 4 x 4 codes
    latent_channels=32,
    embed_dim=8,
    num_embeddings=24,
    num_patches=4,
)
SIGLIP_SHAPE = dict(
    image_size=64,
    patch_size=16,
    hidden_size=24,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=2,
)  # 64 px -> 4 x 4 features


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache of one test, thrown away with it."""
    monkeypatch.setenv("UVLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("UVLM_BACKEND", raising=False)  # grids of tests stay here
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch):
    """Networks of unchanged files are read once: most of the time of a small training was reading.

    Tests of reading itself call `weights.load_network`.
    """
    for module in (encoders_module, unified_module):
        monkeypatch.setattr(module, "load_network", _copied)
    yield
    changed = [key for key, (network, state) in _LOADED.items() if _state(network) != state]
    for key in changed:
        del _LOADED[key]
    assert not changed, f"This test changed a network that others read: {changed}"


def _state(network) -> list[tuple]:
    """What shows whether a network's weights were changed or replaced."""
    return [(id(weight), weight._version) for weight in network.state_dict(keep_vars=True).values()]


_LOADED: dict = {}


def _copied(kind, name, *arguments, **names):
    """The network that `load_network` returns: frozen ones shared, language models as copies."""
    if not os.path.isdir(name):  # shipped, of the hub, or not there
        return load_network(kind, name, *arguments, **names)
    files = [path.stat() for path in sorted(Path(name).glob("*"))]
    key = kind, name, arguments, *names.items(), *((f.st_ino, f.st_mtime_ns) for f in files)
    if key not in _LOADED:
        network = load_network(kind, name, *arguments, **names)
        _LOADED[key] = network, _state(network)
    network, _ = _LOADED[key]
    return copy.deepcopy(network) if kind is AutoModelForCausalLM else network


@pytest.fixture(scope="session")
def in_this_process():
    """Gives a kind of backend that carries out its calls in this process.

    A new process imports torch before it can begin.
    """

    def get(kind: type[Backend]) -> type[Backend]:
        class Here(kind):
            def _start(self, function, arguments):
                future = Future()
                try:
                    future.set_result(function(*arguments))
                except Exception as error:
                    future.set_exception(pickle.loads(pickle.dumps(error)))  # as from a process
                return future, lambda: None

        return Here

    return get


@pytest.fixture
def here(monkeypatch, in_this_process):
    """Grids carry out their runs in this process."""
    monkeypatch.setattr(grid_module, "open_backend", in_this_process(Backend))


@pytest.fixture
def two_processes():
    """Gives what two processes of one run of a script return and say, as if they were launched.

    `accelerate launch` itself takes as long as one of them; a test of `test_loop.py` uses it.
    """

    def get(*command, **variables) -> list[tuple[int, str, str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        both = [
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                cwd=ROOT,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ
                | {"PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                | {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
                | variables,
            )
            for rank in range(2)
        ]
        told = [process.communicate(timeout=300) for process in both]
        return [(process.returncode, *said) for process, said in zip(both, told, strict=True)]

    return get


@pytest.fixture(scope="session")
def watches():
    return sample_watches(5, 48)


@pytest.fixture(scope="session")
def images(watches):
    """Their images, uint8 (48, 64, 64, 3)."""
    return render_batch(watches)


@pytest.fixture(scope="session")
def networks(tmp_path_factory, images) -> Path:
    """A folder with small random networks, saved as the shipped ones are and under their names."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(1)
    vq = JanusVQVAE(JanusVQVAEConfig(**VQ_SHAPE)).eval()
    # a codebook out of real latents: several codes are in use, as in a trained network
    with torch.no_grad():
        latent = vq.quant_conv(vq.encoder(F.pixel_unshuffle(to_pixels(images[:16]), 4)))
        latent = F.normalize(latent.flatten(2).transpose(1, 2).flatten(0, 1), dim=-1)
        vq.quantize.embedding.weight.copy_(
            latent[torch.randperm(len(latent))[: VQ_SHAPE["num_embeddings"]]]
        )
    vq.save_pretrained(folder / "vq")
    SiglipVisionModel(SiglipVisionConfig(**SIGLIP_SHAPE)).save_pretrained(folder / "siglip")
    (folder / "reader").mkdir()
    save_file(AttributeReader(width=8).state_dict(), folder / "reader" / "model.safetensors")
    (folder / "reader" / "config.json").write_text(json.dumps({"width": 8}))
    companions = {
        "siglip_reader": FeatureReader(24, 16, 8),
        "siglip_decoder": FeatureDecoder(24, 16, 64, 8),
    }
    for name, network in companions.items():
        (folder / name).mkdir()
        save_file(network.state_dict(), folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(
            json.dumps(network.config | {"of": fingerprint(str(folder / "siglip"))})
        )
    some = sample_watches(6, 100)
    texts = [
        text.replace(IMAGE, "")
        for task in TASKS
        for talk in make_conversations(some, task, 6)
        for turn in talk.turns
        for text in (f"USER: {turn.human} ASSISTANT:", f" {turn.gpt}")
    ]
    tokenizer = train_tokenizer(texts, folder / "tokenizer", size=360)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            initializer_range=0.3,  # wide, so that logits differ clearly
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).save_pretrained(folder / "language_model")
    return folder


@pytest.fixture(scope="session")
def spec(networks) -> RunSpec:
    """A run of six steps."""
    return profile("laptop").spec.vary(
        images=48,
        vqa_examples=40,
        caption_examples=8,
        generation_examples=48,
        turns=2,
        language_model=str(networks / "language_model"),
        tokenizer=str(networks / "tokenizer"),
        semantic_encoder=str(networks / "siglip"),
        vq_tokenizer=str(networks / "vq"),
        reader=str(networks / "reader"),
        feature_reader=str(networks / "siglip_reader"),
        feature_decoder=str(networks / "siglip_decoder"),
        lora_rank=4,
        lora_alpha=8,
        batch_size=8,
        fractions=(0.5, 1.0),
        test_watches=6,
        generated_watches=6,
    )


@pytest.fixture(scope="session")
def words():
    """Gives the arguments of `uvlm_core.runs.launch` for a spec."""

    def get(spec: RunSpec) -> list[str]:
        values = [item for part in spec.to_dict().values() for item in part.items()]
        return [
            "--profile",
            "paper",
            *(word for name, value in values for word in ("-p", f"{name}={json.dumps(value)}")),
        ]

    return get


@pytest.fixture(scope="session")
def encoders(networks) -> dict:
    return {
        "VQ": VQEncoder.load(str(networks / "vq")),
        "SigLIP": SiglipEncoder.load(str(networks / "siglip")),
    }


@pytest.fixture(scope="session")
def tables(encoders, images) -> dict:
    """The encoders' outputs for all images."""
    return {kind: encoder.encode(images) for kind, encoder in encoders.items()}


@pytest.fixture(scope="session")
def processor(networks) -> Processor:
    return Processor.load(str(networks / "tokenizer"), 16, 16)


@pytest.fixture(scope="session")
def new_model(networks, encoders, processor):
    """Builds a unified model of an architecture, e.g. "VQ-VQ", the same at every call."""

    def build(
        architecture: str,
        shared: bool = False,
        positions: bool = True,
        alpha: float = 0.2,
        seed: int = 3,
        **settings,
    ):
        understanding, generation = (encoders[kind] for kind in architecture.split("-"))
        model = build_model(
            str(networks / "language_model"),
            understanding,
            generation,
            seed=seed,
            image_in_id=processor.image_in,
            image_out_id=processor.image_out,
            shared_adapter=shared,
            adapter_positions=positions,
            image_loss_weight=alpha,
            **settings,
        )
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            # zero at the start of training: here something that shows
            if name.endswith("positions"):
                torch.nn.init.normal_(parameter, std=0.3)
        return model

    return build


def pytest_collection_modifyitems(items):
    """Begin with the tests of the executed notebooks: a worker that came later would wait for them.

    Two workers share what has run, and only one of them can make it.
    """
    items.sort(key=lambda item: "ran" not in getattr(item, "fixturenames", ()))
