"""Records on disk: small, readable, there whole or not at all."""

import errno
import os
import tempfile
from dataclasses import asdict, dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stubs import Stub, body, files

from uvlm_core.runs import files as writing
from uvlm_core.runs.files import RecordError
from uvlm_core.runs.store import SCORE_COLUMNS, RunStore, record_key

PICTURES = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "records")


# Keys


def test_the_key_changes_with_every_field():
    spec = Stub()
    others = [
        replace(spec, architecture="SigLIP-VQ"),
        replace(spec, regime="generation"),
        replace(spec, seed=1),
        replace(spec, doses=(0.1, 0.3)),
        replace(spec, seconds=1.0),
    ]
    assert len({record_key(one) for one in (spec, *others)}) == 6


def test_the_key_is_the_same_in_every_process():
    assert record_key(Stub()) == "7866cb0eaa770b60"


def test_the_key_changes_with_the_contents_of_a_network(tmp_path):
    from uvlm_core.models import weights  # here, too

    @dataclass(frozen=True)
    class WithNetwork(Stub):
        networks = (str(tmp_path),)

    keys = []
    for content in (b"one", b"two"):
        (tmp_path / "model.safetensors").write_bytes(content)
        weights.fingerprint.cache_clear()  # a network does not change under a living process
        keys.append(record_key(WithNetwork()))
    assert keys[0] != keys[1]


# Records


def test_a_record_comes_back_as_it_was_saved(store):
    saved = store.save(Stub(), body(Stub()), PICTURES)
    assert store.load(Stub()) == saved
    assert saved["scores"] == body(Stub())["scores"]
    assert saved["spec"] == {**asdict(Stub()), "doses": [0.1, 0.2]}
    assert (saved["schema"], saved["key"]) == (2, record_key(Stub()))


def test_pictures_lie_beside_their_record_and_come_back_as_they_were(store):
    record = store.save(Stub(), body(Stub()), PICTURES)
    assert (store.pictures(record) == PICTURES).all()
    assert store.load(Stub())["samples"]["pictures"] == 2
    assert {path.suffix for path in store.folder.iterdir()} == {".json", ".png"}


def test_a_run_without_pictures_has_none(store):
    assert store.pictures(store.save(Stub(), body(Stub()))) is None
    assert [path.suffix for path in store.folder.iterdir()] == [".json"]


@pytest.mark.parametrize("content", [None, b"", b"no picture"])
def test_missing_or_garbled_pictures_are_named(store, content):
    record = store.save(Stub(), body(Stub()), PICTURES)
    path = store.path(Stub()).with_suffix(".png")
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(
        RecordError, match=f"{record['key']}.png are missing or not 2 images.*{record['key']}.json"
    ):
        store.pictures(record)


def test_a_run_that_was_not_run_has_no_record(store):
    assert store.load(Stub()) is None


def test_a_record_is_small_and_readable(store):
    rows = [
        {
            "fraction": fraction,
            "metric": metric,
            "attribute": attribute,
            "value": 0.123456789,
            "samples": 500,
        }
        for fraction in (0.02, 0.5, 1.0)
        for metric in ("partial", "exact")
        for attribute in ("weather", "time")
    ]
    store.save(Stub(), body(Stub()) | {"scores": rows})
    lines = store.path(Stub()).read_text().splitlines()
    assert '   "partial": {"weather": [0.12346, 500], "time": [0.12346, 500]},' in lines
    assert ' "counts": {"rows": 7},' in lines and max(map(len, lines)) <= 110
    assert store.load(Stub())["scores"] == [row | {"value": 0.12346} for row in rows]


@given(
    st.lists(
        st.tuples(
            st.sampled_from((0.0, 0.035, 1.0)),
            st.text(max_size=3),
            st.text(max_size=3),
            st.floats(-1e9, 1e9, allow_subnormal=False),
            st.integers(0, 10**6),
        ),
        unique_by=lambda row: row[:3],
        max_size=8,
    )
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_every_score_comes_back_to_five_digits(rows):
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(folder)
        store.save(
            Stub(),
            body(Stub()) | {"scores": [dict(zip(SCORE_COLUMNS, row, strict=True)) for row in rows]},
        )
        found = {tuple(row.values())[:3]: row for row in store.load(Stub())["scores"]}
    assert len(found) == len(rows)
    for *where, value, samples in rows:
        row = found[tuple(where)]
        assert row["samples"] == samples and row["value"] == pytest.approx(value, rel=5.1e-5, abs=0)


def test_whole_numbers_and_provenance_are_not_rounded(store):
    counts, provenance = {"tokens": 123456789}, {"seconds": 1.23456789}
    record = store.save(
        Stub(), {"counts": counts, "provenance": provenance, "times": {"training": 12.3456789}}
    )
    assert (record["counts"], record["provenance"], record["times"]) == (
        counts,
        provenance,
        {"training": 12.346},
    )


def test_tables_of_a_measurement_are_kept_with_their_gaps(store):
    table = {"place": ["adapter", "layer 1"], "value": [0.123456789, float("nan")]}
    record = store.save(Stub(), {"tables": {"probes": table}})
    assert store.load(Stub()) == record
    assert record["tables"] == {
        "probes": {"place": ["adapter", "layer 1"], "value": [0.12346, None]}
    }
    assert record["scores"] == [] and "tables" not in store.save(Stub(seed=1), body(Stub()))


def test_a_value_that_is_no_number_is_read_back_as_missing(store):
    scores = [{**body(Stub())["scores"][0], "value": float("nan")}]
    assert store.save(Stub(), body(Stub()) | {"scores": scores})["scores"][0]["value"] is None
    assert [row["value"] for row in store.load(Stub())["scores"]] == [None]


@pytest.mark.parametrize(
    "content, fault",
    [
        (lambda text: text[: len(text) // 2], "not a whole record"),
        (lambda text: "", "not a whole record"),
        (lambda text: "[1, 2]", "no JSON object"),
        (lambda text: text.replace('"schema": 2', '"schema": 1'), "schema is 1, not 2"),
        (lambda text: text.replace('"counts"', '"accounts"'), "has no counts"),
        (lambda text: text.replace(", 500]", "]"), "its scores are not"),
        (lambda text: text.replace('"1.0": {', '"end": {'), "its scores are not"),
        (lambda text: text.replace('"seed": 0', '"seed": 5'), "another run"),
    ],
)
def test_a_file_that_is_not_the_record_is_refused_by_name(store, content, fault):
    store.save(Stub(), body(Stub()))
    path = store.path(Stub())
    path.write_text(content(path.read_text()))
    before = files(store.folder)
    with pytest.raises(RecordError, match=f"{path.name}.*{fault}.*; delete it to run it again"):
        store.load(Stub())
    assert files(store.folder) == before


def test_the_record_of_another_spec_is_refused(store):
    store.save(Stub(), body(Stub()))
    store.path(Stub()).rename(store.path(Stub(seed=3)))
    with pytest.raises(RecordError, match="record of another run"):
        store.load(Stub(seed=3))


def test_bytes_that_are_no_text_are_refused(store):
    store.save(Stub(), body(Stub()))
    store.path(Stub()).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match="not a whole record"):
        store.load(Stub())


ROW = body(Stub())["scores"][0]


@pytest.mark.parametrize(
    "some, fault",
    [
        ({"scores": [{"value": 1.0}]}, "its score .* does not have the entries"),
        (
            {"scores": [ROW, ROW]},
            "its score .* has the fraction, metric and attribute of another one",
        ),
        ({"times": {"training": float("inf")}}, "a number that is not finite"),
        ({"provenance": {"seconds": float("nan")}}, "not JSON compliant"),
        ({"sheet": "x.png"}, "'sheet' is not one of scores, counts"),
    ],
)
def test_what_is_no_record_is_not_saved(store, some, fault):
    with pytest.raises(ValueError, match=f"did not return a record: .*{fault}"):
        store.save(Stub(), some)
    assert files(store.folder) == {}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("which", [1, 2])  # the sheet's, the record's
def test_a_write_that_fails_leaves_nothing_behind(store, monkeypatch, code, call, which):
    real, calls = getattr(os, call), []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == which:
            raise OSError(code, os.strerror(code))
        return real(*arguments)

    monkeypatch.setattr(writing.os, call, failing)
    with pytest.raises(
        RecordError, match=f"{record_key(Stub())}.json cannot be written .{os.strerror(code)}"
    ):
        store.save(Stub(), body(Stub()), PICTURES)
    assert files(store.folder) == {}


def test_a_write_that_fails_leaves_the_older_record_alone(store, monkeypatch):
    store.save(Stub(), body(Stub()), PICTURES)
    before = files(store.folder)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(RecordError, match="No space left"):
        store.save(Stub(), body(Stub()), PICTURES)
    assert files(store.folder) == before


def test_what_a_killed_writer_left_is_swept_once_it_is_old(store):
    store.save(Stub(), body(Stub()))
    old, new = (store.folder / f".{name}.json.tmp" for name in ("old", "new"))
    for path in (old, new):
        path.write_text("{")
    os.utime(old, (0, 0))
    store.prepare()
    assert not old.exists() and new.exists() and store.load(Stub())


def test_a_spec_is_recorded_as_the_run_that_carries_it_out(store):
    @dataclass(frozen=True)
    class Arm(Stub):
        def canonical(self):
            return Stub()

    record = store.save(Arm(seed=4), body(Stub()))
    assert record["spec"]["seed"] == 0 and store.load(Stub()) == store.load(Arm(seed=7)) == record
    assert record_key(Arm(seed=4)) == record_key(Stub())
