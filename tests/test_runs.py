"""Runs as values: records on disk, grids that lose nothing to a kill. The runs here are stand-ins that cost nothing."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import types
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import pytest
from PIL import Image

from uvlm_core import runs
from uvlm_core.runs import RecordError, RunsFailed, RunStore, read_progress, record_key, report_progress, run_grid

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Stub:
    """A spec without networks, so that its run needs no torch."""

    architecture: str = "VQ-VQ"
    regime: str = "unified"
    seed: int = 0
    doses: tuple = (0.1, 0.2)
    seconds: float = 0.0
    networks = ()

    def to_dict(self):
        return asdict(self)

    def cost(self):
        return 1 + self.seconds


def body(spec):
    row = {"fraction": 1.0, "metric": "partial", "attribute": "weather", "value": 1 / (spec.seed + 3), "samples": 500}
    return {"scores": [row, {**row, "metric": "exact", "value": 0.0}], "counts": {"rows": 7}, "times": {"train": 1.5},
            "provenance": {"commit": "abc", "dirty": False}, "samples": {"requests": ["Draw it sunny.", "Draw 10:09."]}}


def execute(spec, folder):
    """A run that takes its time and notes each start."""
    with open(folder.with_suffix(".starts"), "a") as file:
        file.write("x")
    for step in range(10):
        report_progress(folder, step / 10)
        time.sleep(spec.seconds / 10)
    return body(spec), Image.new("RGB", (8, 8), (spec.seed, 0, 0))


def execute_and_die(spec, folder):
    """Seed 1 is killed as by the system, seed 2 raises, the others work."""
    if spec.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if spec.seed == 2:
        raise ValueError("seed 2 is not to our taste.")
    return execute(spec, folder)


def execute_environment(spec, folder):
    """A run that returns what its process began with."""
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    return body(spec) | {"counts": {name: os.environ.get(name) for name in names} | {"pid": os.getpid()}}, None


def execute_with_marker(spec, folder):
    """A run that says where it lives, for a test that looks for orphans."""
    (folder.parent / f"{folder.name}.pid").write_text(str(os.getpid()))
    return execute(spec, folder)


GRID = [Stub(seed=seed, seconds=0.3) for seed in range(6)]


def grid_process(store, work, execute="execute_with_marker"):
    """The grid in a process of its own that can be killed."""
    code = (f"from test_runs import *\n"  # a test run in the background has interrupts ignored, and hands that on
            f"signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"run_grid(GRID, RunStore({str(store)!r}), workers=2, work_folder={str(work)!r}, execute={execute})")
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"})


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "records")


# Keys


def test_the_key_changes_with_every_field():
    spec = Stub()
    others = [replace(spec, architecture="SigLIP-VQ"), replace(spec, regime="generation"), replace(spec, seed=1),
              replace(spec, doses=(0.1, 0.3)), replace(spec, seconds=1.0)]
    assert len({record_key(one) for one in (spec, *others)}) == 6


def test_the_key_is_the_same_in_every_process():
    assert record_key(Stub()) == "7866cb0eaa770b60"


def test_every_field_of_a_run_spec_reaches_its_key():
    from uvlm_core.profiles import RunSpec  # here, as it imports torch, which would slow down every worker

    names = {field.name for field in fields(RunSpec)}
    # left out where there are none: earlier keys stay
    assert names - set(RunSpec().to_dict()) == {
        "activation_checkpointing", "distortions", "fewest_turns", "inception", "picture_folder", "pictures",
        "precision", "probe_watches", "sam_pictures", "shuffled_attributes"}


def test_the_key_changes_with_the_contents_of_a_network(tmp_path):
    from uvlm_core import weights  # here, too

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
    saved = store.save(Stub(), body(Stub()), Image.new("RGB", (8, 8), "red"))
    assert store.load(Stub()) == saved
    assert saved["scores"] == body(Stub())["scores"]
    assert saved["spec"] == {**asdict(Stub()), "doses": [0.1, 0.2]}
    assert (saved["schema"], saved["key"]) == (1, record_key(Stub()))


def test_the_contact_sheet_lies_beside_its_record(store):
    record = store.save(Stub(), body(Stub()), Image.new("RGB", (8, 8), (9, 8, 7)))
    assert record["samples"]["sheet"] == f"{record_key(Stub())}.png"
    assert store.sheet(record).getpixel((0, 0)) == (9, 8, 7)


def test_a_run_without_images_has_no_contact_sheet(store):
    assert store.sheet(store.save(Stub(), body(Stub()))) is None
    assert [path.suffix for path in store.folder.iterdir()] == [".json"]


def test_a_missing_contact_sheet_is_named(store):
    record = store.save(Stub(), body(Stub()), Image.new("RGB", (8, 8)))
    store.path(Stub()).with_suffix(".png").unlink()
    with pytest.raises(RecordError, match=f"{record['key']}.png is missing"):
        store.sheet(record)


def test_a_run_that_was_not_run_has_no_record(store):
    assert store.load(Stub()) is None


def test_every_score_has_a_line_of_its_own(store):
    store.save(Stub(), body(Stub()))
    lines = store.path(Stub()).read_text().splitlines()
    assert [json.loads(line.strip().rstrip(",")) for line in lines if '"metric"' in line] == body(Stub())["scores"]
    assert '  "counts": {' in lines and '    "rows": 7' in lines


def test_a_score_that_is_no_number_is_read_back_as_missing(store):
    scores = [{**body(Stub())["scores"][0], "value": float("nan")}]
    assert store.save(Stub(), body(Stub()) | {"scores": scores})["scores"][0]["value"] is None
    assert [row["value"] for row in store.load(Stub())["scores"]] == [None]


@pytest.mark.parametrize("part", [
    {"samples": {"losses": [{"loss": 0.0, "grad_norm": float("nan")}]}},
    {"counts": {"padding": float("inf")}}], ids=str)
def test_of_other_numbers_none_may_be_missing(store, part):
    with pytest.raises(ValueError, match="did not return a record: beside its scores there is a "
                                         "number that is not finite."):
        store.save(Stub(), body(Stub()) | part)
    assert files(store.folder) == {}


@pytest.mark.parametrize("content, fault", [
    (lambda text: text[:len(text) // 2], "not a whole record"),
    (lambda text: "", "not a whole record"),
    (lambda text: "[1, 2]", "no JSON object"),
    (lambda text: text.replace('"schema": 1', '"schema": 2'), "schema is 2, not 1"),
    (lambda text: text.replace('"counts"', '"accounts"'), "has no counts"),
    (lambda text: text.replace('"samples": 500', '"sample": 500'), "its score .* has not the entries"),
    (lambda text: text.replace('"seed": 0', '"seed": 5'), "another run"),
])
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


def test_what_is_no_record_is_not_saved(store):
    with pytest.raises(ValueError, match="did not return a record: its score"):
        store.save(Stub(), {"scores": [{"value": 1.0}]})
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

    monkeypatch.setattr(runs.os, call, failing)
    with pytest.raises(RecordError, match=f"{record_key(Stub())}.json cannot be written .{os.strerror(code)}"):
        store.save(Stub(), body(Stub()), Image.new("RGB", (8, 8)))
    assert files(store.folder) == {}


def test_a_write_that_fails_leaves_the_older_record_alone(store, monkeypatch):
    store.save(Stub(), body(Stub()), Image.new("RGB", (8, 8)))
    before = files(store.folder)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs.os, "fsync", full)
    with pytest.raises(RecordError, match="No space left"):
        store.save(Stub(), body(Stub()), Image.new("RGB", (8, 8)))
    assert files(store.folder) == before


def test_a_store_that_is_a_file_is_refused_before_training(tmp_path):
    (tmp_path / "records").write_text("")
    with pytest.raises(RecordError, match="records cannot be written"):
        run_grid([Stub()], RunStore(tmp_path / "records"), work_folder=tmp_path / "work", execute=execute)
    assert not (tmp_path / "work").exists()


def test_what_a_killed_writer_left_is_swept_once_it_is_old(store):
    store.save(Stub(), body(Stub()))
    old, new = (store.folder / f".{name}.json.tmp" for name in ("old", "new"))
    for path in (old, new):
        path.write_text("{")
    os.utime(old, (0, 0))
    store.prepare()
    assert not old.exists() and new.exists() and store.load(Stub())


# Progress


def test_progress_is_what_was_last_reported(tmp_path):
    assert read_progress(tmp_path) == 0
    report_progress(tmp_path, 0.25)
    report_progress(tmp_path, 0.5)
    assert read_progress(tmp_path) == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["progress"]


def test_a_garbled_or_impossible_progress_is_harmless(tmp_path):
    for text, value in (("", 0), ("half", 0), ("7", 1), ("-1", 0)):
        (tmp_path / "progress").write_text(text)
        assert read_progress(tmp_path) == value


def test_a_progress_that_cannot_be_written_costs_nothing(tmp_path):
    report_progress(tmp_path / "gone", 0.5)
    assert not (tmp_path / "gone").exists()


def test_the_bar_promises_no_negative_time_after_lost_work(store, tmp_path, capfd):
    lost = tmp_path / record_key(Stub(seconds=4.0))
    lost.mkdir()
    report_progress(lost, 0.9)  # by a run that was killed before its first checkpoint
    run_grid([Stub(seconds=4.0)], store, work_folder=tmp_path, execute=execute)
    shown = capfd.readouterr().err
    assert " 90%" in shown and "1 of 1 runs 100%" in shown
    assert ", -" not in shown


def test_the_bar_counts_runs_and_weighs_them_by_cost(store, tmp_path, capfd):
    run_grid([Stub(seed=0), Stub(seed=1, seconds=3.0)], store, workers=2, work_folder=tmp_path, execute=execute)
    shown = capfd.readouterr().err
    assert "0 of 2 runs" in shown and "2 of 2 runs 100%" in shown
    steps = {int(part.split("runs")[1].split("%")[0]) for part in shown.split("\r") if "of 2 runs" in part}
    assert any(20 < step < 95 for step in steps)  # the cheap run is a fifth of the work


# Grids


def test_a_grid_trains_what_is_missing_and_loads_the_rest(store, tmp_path):
    kept = store.save(Stub(seed=1), body(Stub(seed=1)) | {"counts": {"rows": 99}})
    specs = [Stub(seed=seed) for seed in (2, 1, 0, 2)]
    records = run_grid(specs, store, workers=2, work_folder=tmp_path / "work", execute=execute)
    assert [record["spec"]["seed"] for record in records] == [2, 1, 0, 2]
    assert records[1] == kept
    assert records == [store.load(spec) for spec in specs]
    assert not any(path.is_dir() for path in (tmp_path / "work").iterdir())


def test_a_grid_of_records_starts_no_process(store, tmp_path):
    store.save(Stub(), body(Stub()))
    assert run_grid([Stub()], store, work_folder=tmp_path / "work", execute=None) == [store.load(Stub())]
    assert not (tmp_path / "work").exists()


def test_a_truncated_record_stops_the_grid_before_training(store, tmp_path):
    store.save(Stub(), body(Stub()))
    store.path(Stub()).write_text("{")
    with pytest.raises(RecordError, match="delete it to run it again"):
        run_grid([Stub(seed=1), Stub()], store, work_folder=tmp_path / "work", execute=execute)
    assert store.load(Stub(seed=1)) is None and not (tmp_path / "work").exists()


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2", True])
def test_a_number_of_workers_that_is_none_is_refused(store, workers):
    with pytest.raises(ValueError, match="workers .* is not an integer from 1 up"):
        run_grid([Stub()], store, workers=workers, execute=execute)


def test_each_run_begins_in_a_process_of_one_thread(store, tmp_path):
    specs = [Stub(seed=0), Stub(seed=1)]
    records = run_grid(specs, store, workers=1, work_folder=tmp_path, execute=execute_environment)
    for record in records:
        assert record["counts"]["OMP_NUM_THREADS"] == "1"
        assert record["counts"]["OMP_WAIT_POLICY"] == "PASSIVE"
        assert record["counts"]["pid"] != os.getpid()
    assert records[0]["counts"]["pid"] != records[1]["counts"]["pid"]


def test_a_workers_death_costs_its_own_run_only_and_says_so(store, tmp_path):
    specs = [Stub(seed=seed) for seed in range(5)]
    with pytest.raises(RunsFailed) as failed:
        run_grid(specs, store, workers=2, work_folder=tmp_path, execute=execute_and_die)
    assert [store.load(spec) is not None for spec in specs] == [True, False, False, True, True]
    message = str(failed.value)
    assert message.startswith("2 of 5 runs failed; the others are finished and kept")
    assert f"Run {record_key(specs[1])} (architecture VQ-VQ, regime unified, seed 1): its worker died" in message
    assert "seed 2): ValueError: seed 2 is not to our taste." in message
    assert set(failed.value.failures) == {record_key(specs[1]), record_key(specs[2])}
    assert len(run_grid(specs, store, workers=2, work_folder=tmp_path, execute=execute)) == 5


def test_a_run_finds_what_its_killed_predecessor_left(store, tmp_path):
    folder = tmp_path / record_key(Stub(seed=1))
    folder.mkdir()
    (folder / "checkpoint").write_text("half")
    with pytest.raises(RunsFailed):
        run_grid([Stub(seed=1)], store, work_folder=tmp_path, execute=execute_and_die)
    assert (folder / "checkpoint").read_text() == "half"
    run_grid([Stub(seed=1)], store, work_folder=tmp_path, execute=execute)
    assert not folder.exists()


def test_kills_at_random_moments_cost_no_record(tmp_path):
    """After each kill -9 the records are whole and stay as they are, no worker lives on, and the rerun completes."""
    records, work = tmp_path / "records", tmp_path / "work"
    moments = random.Random(0)
    for least in (0, 1, 2, 4):
        before = files(records)
        process = grid_process(records, work)
        while len(list(records.glob("*.json"))) < least or not list(work.glob("*.pid")):
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.wait()
        pids = [int(path.read_text()) for path in work.glob("*.pid")] if work.exists() else []
        deadline = time.monotonic() + 20
        while any(alive(pid) for pid in pids):
            assert time.monotonic() < deadline, "a worker outlived its grid"
            time.sleep(0.05)
        after = files(records)
        assert {name: after[name] for name in before if not name.endswith(".tmp")} == \
            {name: content for name, content in before.items() if not name.endswith(".tmp")}
        RunStore(records).all()  # refuses whatever is not whole
    finished = run_grid(GRID, RunStore(records), workers=2, work_folder=work, execute=execute)
    assert [record["scores"] for record in finished] == [body(spec)["scores"] for spec in GRID]


def test_two_grids_on_one_store_share_the_work(store, tmp_path):
    specs = [Stub(seed=seed, seconds=0.5) for seed in range(4)]
    other = []
    thread = threading.Thread(target=lambda: other.extend(
        run_grid(specs, store, workers=2, work_folder=tmp_path / "work", execute=execute)))
    thread.start()
    records = run_grid(specs, store, workers=2, work_folder=tmp_path / "work", execute=execute)
    thread.join()
    assert records == other == [store.load(spec) for spec in specs]
    assert [path.read_text() for path in (tmp_path / "work").glob("*.starts")] == ["x"] * 4
    assert not any(path.is_dir() for path in (tmp_path / "work").iterdir())


def test_an_interrupt_ends_the_workers(tmp_path):
    work = tmp_path / "work"
    process = grid_process(tmp_path / "records", work)
    while not list(work.glob("*.pid")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) != 0
    assert not any(alive(int(path.read_text())) for path in work.glob("*.pid"))


# Provenance


def test_a_run_says_how_it_was_made(tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class Trained(Stub):
        threads: int = 1

    trainer = types.ModuleType("uvlm_core.training")
    trainer.train_and_score = lambda spec, folder: ({**body(spec), "provenance": {}}, None)
    monkeypatch.setitem(sys.modules, "uvlm_core.training", trainer)
    once = runs.execute_run(Trained(), tmp_path)[0]["provenance"]
    twice = runs.execute_run(Trained(), tmp_path)[0]["provenance"]
    assert set(once) == {"started", "resumed", "commit", "dirty", "device", "threads", "versions", "networks"}
    assert set(once["versions"]) == {"python", "torch", "transformers", "peft", "numpy"}
    assert once["resumed"] == [] and len(twice["resumed"]) == 1 and twice["started"] == once["started"]
    assert once["threads"] == 1
