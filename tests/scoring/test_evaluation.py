"""The test set: apart from the training watches, and the same for every arm."""

import numpy as np
import pytest

from uvlm_core.data.conversations import AttributeBias
from uvlm_core.data.smart_watch import POOL_STREAM, sample_watches
from uvlm_core.scoring.evaluation import Evaluation


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_no_test_watch_is_in_the_training_pool(spec, processor, encoders, seed):
    spec = spec.vary(seed=seed, images=3000, test_watches=200)
    evaluation = Evaluation(spec, processor, encoders["VQ"], encoders["VQ"])
    asked = {watch.asked for watch in evaluation.watches}
    assert len(asked) == 200
    assert not asked & {watch.asked for watch in sample_watches(POOL_STREAM, spec.data.images)}


def test_every_arm_is_asked_the_same(spec, processor, encoders):
    first = Evaluation(spec, processor, encoders["VQ"], encoders["VQ"])
    for change in (
        dict(seed=3),
        dict(regime="understanding"),
        dict(turns=1),
        dict(images=60),
        dict(biases=(AttributeBias("time", 0.1),)),
    ):
        other = Evaluation(spec.vary(**change), processor, encoders["VQ"], encoders["VQ"])
        assert other.questions == first.questions and other.captions == first.captions
        np.testing.assert_array_equal(other.images_in, first.images_in)
    assert {len(talk.turns) for talk in first.questions} == {5}
