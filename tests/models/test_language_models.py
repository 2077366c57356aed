"""The sizes of the language models: their shapes, and their parameters without their files."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from uvlm_core.data.tokens import Processor
from uvlm_core.models.language_models import (
    LM_LAYERS,
    LM_TOKENS,
    SHIPPED_LM,
    parameters_of,
    shape_of,
)
from uvlm_core.training.profiles import profile
from uvlm_core.training.sizes import network_config, tuned_model


def test_sizes_are_in_order_and_heads_divide_the_width():
    counts = [parameters_of(name) for name in LM_LAYERS]
    assert counts == sorted(counts)
    assert counts == pytest.approx([0.2e6, 1e6, 4e6, 15e6], rel=0.2)
    for name in LM_LAYERS:
        shape = shape_of(name)
        assert shape["hidden_size"] % shape["num_attention_heads"] == 0


@pytest.mark.parametrize("name", LM_LAYERS)
def test_a_model_has_the_parameters_of_its_size_before_its_files_are_there(name):
    config = network_config(name, AutoConfig)
    with torch.device("meta"):
        alone = AutoModelForCausalLM.from_config(config)
    assert alone.num_parameters() == parameters_of(name)
    planned = tuned_model(profile("laptop").spec.vary(language_model=name))
    assert planned.language_model.num_parameters() == parameters_of(name)


def test_the_shipped_model_has_the_configuration_of_its_size():
    shipped = network_config(SHIPPED_LM, AutoConfig)
    assert shipped.vocab_size == LM_TOKENS
    assert len(Processor.load("pretrained/tokenizer", 0, 0).tokenizer) == LM_TOKENS
    own = network_config(SHIPPED_LM, AutoConfig)
    own.update(shape_of(SHIPPED_LM))
    assert own.to_dict() == shipped.to_dict()


def test_an_unknown_language_model_is_refused_by_name():
    with pytest.raises(
        ValueError,
        match="^language model 'cache/language_model_huge' is not one of cache/language_model_tiny",
    ):
        parameters_of("cache/language_model_huge")
