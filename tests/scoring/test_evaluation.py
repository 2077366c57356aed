"""The test set: apart from the training watches, and the same for every arm."""

import numpy as np
import pytest

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.conversations import AttributeBias
from uvlm_core.data.edits import edited
from uvlm_core.data.smart_watch import POOL_STREAM, render_batch, sample_watches
from uvlm_core.scoring.evaluation import Evaluation
from uvlm_core.training.pool import WatchPool


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_no_test_watch_is_in_the_training_pool(spec, processor, encoders, seed):
    spec = spec.vary(seed=seed, images=3000, test_watches=200)
    evaluation = Evaluation(spec, processor, encoders["VQ"], encoders["VQ"])
    asked = {watch.asked for watch in evaluation.watches}
    assert len(asked) == 200
    assert not asked & {watch.asked for watch in sample_watches(POOL_STREAM, spec.data.images)}


def test_edits_are_scored_by_the_change_and_by_what_stays(spec, processor, encoders):
    spec = spec.vary(edit_requests=True, generated_watches=6, test_watches=4)
    found = Evaluation(spec, processor, encoders["VQ"], encoders["VQ"])
    targets = [edited(watch, number)[1] for number, watch in enumerate(found.watches[:6])]
    assert found.drawn.watches == targets
    assert found.drawn.requested == [tuple(ATTRIBUTES)] * 6
    pixels = render_batch(targets, spec.data.image_size)
    np.testing.assert_array_equal(found.drawn.real, encoders["VQ"].encode(pixels))
    shown = render_batch(found.watches[:6], spec.data.image_size)
    np.testing.assert_array_equal(found.shown, encoders["VQ"].encode(shown))
    asked = {watch.asked for watch in found.watches + targets}
    pool = WatchPool(spec)
    trained = [*pool.watches(0, 48), *pool.side("generation").watches(0, 48)]
    assert not asked & {watch.asked for watch in trained}


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
