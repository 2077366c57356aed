"""Trained models to look into, kept in the cache."""

import pytest
import torch

from uvlm_core.runs.trained import trained_models
from uvlm_core.training.loop import prepare, train
from uvlm_core.training.networks import load_model


def test_a_model_to_look_into_has_the_weights_of_its_recorded_run(spec, tmp_path, cache):
    model, _, steps, *_ = prepare(spec)
    train(model, steps, spec, tmp_path, lambda *_: [])
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    times = set()
    for _ in range(2):  # trained, then from the cache
        ((model, *others),) = trained_models([spec])
        assert len(others) == 3 and not model.training
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
        (path,) = cache.glob("models/*/model.safetensors")
        times.add(path.stat().st_mtime_ns)
    assert len(times) == 1
    model, *others = load_model(path.parent)
    assert len(others) == 3 and not model.training
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        trained_models([spec])
    path.unlink()
    ((model, *_),) = trained_models([spec])
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
