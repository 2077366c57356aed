"""Measures of alignment against what is known of them, and where in a model they are taken."""

import numpy as np
import pytest
import torch

from uvlm_core.data.conversations import make_conversations
from uvlm_core.data.tokens import collate
from uvlm_core.models.distort import random_rotation
from uvlm_core.scoring import alignment
from uvlm_core.scoring.alignment import (
    linear_cka,
    linear_r2,
    measure_alignment,
    mutual_neighbours,
    procrustes_distance,
    representations,
)

RNG = np.random.default_rng(0)
X = RNG.standard_normal((300, 6)) * [3, 2, 1, 1, 0.5, 0.5]
HALF = np.arange(300) < 150


def test_a_rotation_scale_and_shift_leave_cka_procrustes_and_neighbours_as_they_are():
    y = 2.5 * X @ random_rotation(RNG, 6) + 7
    assert linear_cka(X, y) == pytest.approx(1)
    assert procrustes_distance(X, y) == pytest.approx(0, abs=1e-9)
    assert mutual_neighbours(X, y) == 1
    assert linear_r2(X, y, HALF) == pytest.approx(1)


def test_a_stretched_space_is_recovered_by_a_linear_map_but_is_no_rotation_of_it():
    y = X @ np.diag([0.1, 1, 10, 0.2, 5, 1])
    assert linear_r2(X, y, HALF) == pytest.approx(1)
    assert (
        linear_cka(X, y) < 0.9 and procrustes_distance(X, y) > 0.1 and mutual_neighbours(X, y) < 0.7
    )


def test_unrelated_spaces_have_what_chance_gives():
    y = RNG.standard_normal((300, 6))
    assert (
        linear_cka(X, y) < 0.1 and procrustes_distance(X, y) > 0.9 and linear_r2(X, y, HALF) < 0.05
    )
    assert mutual_neighbours(X, y) == pytest.approx(10 / 299, abs=0.03)


def test_spaces_of_two_widths_can_be_compared_but_for_procrustes():
    y = np.hstack([X, X])
    assert linear_cka(X, y) == pytest.approx(1) and mutual_neighbours(X, y) == 1


@pytest.mark.parametrize("architecture", ["VQ-VQ", "SigLIP-VQ"])
def test_representations_are_what_the_model_reads_and_its_layers_make_of_it(
    architecture, new_model, processor, watches, tables
):
    model = new_model(architecture).eval()
    for kind, task, embed in zip(
        architecture.split("-"),
        ("vqa", "generation"),
        (model.embed_understanding, model.embed_generation),
        strict=True,
    ):
        table = tables[kind][:5]
        talks = make_conversations(watches[:5], task, 0)
        found = representations(model, processor, talks, table)
        assert list(found) == ["adapter", "layer 1", "layer 2"]
        images = torch.from_numpy(table.astype(np.float32 if table.ndim == 3 else np.int64))
        np.testing.assert_allclose(found["adapter"], embed(images).detach().numpy(), atol=1e-6)
        row = processor.row(talks[3], 3)
        (bucket,) = collate([row], table, table, processor.pad)
        with torch.no_grad():
            hidden = model.hidden_states(
                model.embed(bucket["input_ids"], bucket.get("images_in"), bucket.get("images_out"))
            )[0]
        slot = processor.image_in if task == "vqa" else processor.image_out
        np.testing.assert_allclose(
            found["layer 2"][3], hidden[bucket["input_ids"][0] == slot], atol=1e-5
        )


def test_a_shared_adapter_on_one_space_is_aligned_in_full_at_its_output(
    new_model, processor, watches, tables
):
    model = new_model("VQ-VQ", True).eval()
    sides = [
        representations(
            model, processor, make_conversations(watches[:12], task, 0), tables["VQ"][:12]
        )
        for task in ("vqa", "generation")
    ]
    rows = {(row["metric"], row["attribute"]): row["value"] for row in measure_alignment(*sides)}
    assert {metric for metric, _ in rows} == {f"alignment_{name}" for name in alignment.MEASURES}
    assert rows["alignment_cka", "adapter"] == pytest.approx(1)
    assert rows["alignment_procrustes", "adapter"] == pytest.approx(0, abs=1e-6)
    assert rows["alignment_cka", "layer 2"] < 1


@pytest.mark.parametrize("spoilt", ["nan", "constant", "one watch"])
def test_what_cannot_be_measured_is_nan_and_costs_no_run(spoilt):
    x, y = RNG.standard_normal((2, 8, 4, 3))
    x = {"nan": np.where(x > 2, np.nan, x * 3), "constant": np.ones_like(x), "one watch": x[:1]}[
        spoilt
    ]
    rows = measure_alignment({"adapter": x}, {"adapter": y[: len(x)]})
    assert len(rows) == 4 and all(np.isnan(row["value"]) for row in rows)


def test_larger_grids_are_averaged_down(new_model, processor, watches, tables, monkeypatch):
    model = new_model("VQ-VQ").eval()
    talks = make_conversations(watches[:3], "vqa", 0)
    full = representations(model, processor, talks, tables["VQ"][:3])["layer 1"]
    monkeypatch.setattr(alignment, "GRID", 2)
    small = representations(model, processor, talks, tables["VQ"][:3])["layer 1"]
    np.testing.assert_allclose(
        small, full.reshape(3, 2, 2, 2, 2, -1).mean((2, 4)).reshape(3, 4, -1), atol=1e-5
    )


def test_grids_of_two_sizes_are_averaged_to_the_smaller_one():
    large = RNG.standard_normal((10, 16, 3))
    small = large.reshape(10, 2, 2, 2, 2, 3).mean((2, 4)).reshape(10, 4, 3)
    rows = measure_alignment({"adapter": large}, {"adapter": small})
    assert {row["metric"]: row["value"] for row in rows}["alignment_cka"] == pytest.approx(1)
    assert {row["samples"] for row in rows} == {10}
