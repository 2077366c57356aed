"""Weights of networks: read from files, checked, and put into modules (no section of the paper).

Belongs here: every way from a file to weights, refusing files that are not whole or of another
model. Not here: where a network's name leads (`places.py`), what networks compute (`encoders.py`,
`readers.py`).
"""

import argparse
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from uvlm_core.files import read_json
from uvlm_core.places import adapted, fingerprint, refusing, resolve, resolve_network


def load_network(
    kind: type,
    name: str,
    what: str,
    beside: str = "",
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """Load a network of transformers' by shipped name, local folder or hub id, as transformers
    loads it.

    So weights may be in parts, of half precision, under the names of older versions, and pickles
    where there is no safetensors file; of a pickle nothing but weights is read. ValueError for
    whatever cannot be loaded, and for weights that the configuration does not ask for or asks for
    in vain.

    Args:
        kind: a class with `from_pretrained`.
        what: what the network is, for messages ("a language model").
        beside: a pattern of weights that may be there unread, those of a larger model which this
        one is a part of.
    """
    if adapted(name) is not None:
        raise ValueError(
            f"{name!r} is an adapter of another model, which only a language model "
            "may be; merge the two and give the folder of what comes out."
        )
    folder = resolve_network(name, what)
    with refusing(name, what):
        network, report = kind.from_pretrained(
            folder,
            dtype=dtype,
            weights_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # for they are refused here, by name
    odd = [(key, "missing") for key in sorted(report["missing_keys"])]
    odd += [
        (key, f"of the shape {tuple(found)}, not {tuple(wanted)}")
        for key, found, wanted in sorted(report["mismatched_keys"])
    ]
    odd += [
        (key, "unknown")
        for key in sorted(report["unexpected_keys"])
        if not (beside and re.match(beside, key))
    ]
    if odd:
        raise ValueError(
            f"{name!r} does not hold the weights that its configuration asks for: "
            f"{odd[0][0]} is {odd[0][1]}."
        )
    return network


def load_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file; a missing, truncated or other file (a pickle, say) is refused in one
    sentence."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no weights file {path.name} in {path.parent}.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); "
            "pickles and truncated files are refused."
        ) from None


def load_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint in torch's own format, weights alone; code in it, a cut or another file is
    refused."""
    if not Path(path).is_file():
        raise ValueError(f"There is no checkpoint {path}.")
    try:
        # settings of a training: names and plain values
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the zip reader and the unpickler raise whatever they like
        raise ValueError(
            f"{path} is not a whole file of weights alone ({type(error).__name__}); "
            "truncated files and other pickles are refused."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}, not a dictionary of weights.")
    return found


def load_into(module: torch.nn.Module, folder: str | Path) -> torch.nn.Module:
    """Load `folder/model.safetensors` into `module`; weights of another model are refused by the
    first odd name."""
    return take(module, load_state(Path(folder) / "model.safetensors"), folder)


def take(
    module: torch.nn.Module, state: dict[str, torch.Tensor], source: str | Path
) -> torch.nn.Module:
    """Give `module` the weights of `state`, which came from `source`, and freeze it; the same
    refusal."""
    own = module.state_dict()
    for name in [*own, *state]:
        if name not in state or name not in own or own[name].shape != state[name].shape:
            found = tuple(state[name].shape) if name in state else "nothing"
            wanted = tuple(own[name].shape) if name in own else "nothing"
            raise ValueError(
                f"{source} holds the weights of another model: for {name} it has "
                f"{found}, but {type(module).__name__} has {wanted}."
            )
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


def companion_config(name: str, encoder: str) -> dict:
    """The configuration of a network that takes one encoder's features; that of another encoder's
    is refused."""
    config = folder_config(name)
    if config.pop("of", None) != fingerprint(encoder):
        raise ValueError(
            f"{name!r} was not trained on the features of {encoder!r}; "
            "train one for it, or name none (an empty text)."
        )
    return config


def folder_config(name: str) -> dict:
    """The configuration of a network of this project's own: its `config.json`, an empty one where
    there is none."""
    path = Path(resolve(name)) / "config.json"
    config = read_json(path) if path.is_file() else {}
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not the configuration of a network.")
    return config
