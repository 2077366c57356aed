"""Packs carry records whole, and nothing else."""

import hashlib
import json
import zipfile

import numpy as np
import pytest
from stubs import Stub, body, files

from uvlm_core.runs import __main__ as command
from uvlm_core.runs.files import RecordError
from uvlm_core.runs.packs import pack, unpack
from uvlm_core.runs.store import RunStore, record_key


@pytest.fixture
def store(tmp_path):
    """Two records, one of them with pictures."""
    store = RunStore(tmp_path / "records")
    for seed, pictures in ((0, None), (1, np.zeros((2, 8, 8, 3), np.uint8))):
        provenance = {"provenance": {"networks": {}}}
        store.save(Stub(seed=seed), body(Stub(seed=seed)) | provenance, pictures)
    return store


def rewritten(path, change) -> None:
    """Let a pack hold other files: `change` gets them by name."""
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    change(held)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in held.items():
            archive.writestr(name, content)


def test_records_come_back_as_they_were_and_known_ones_are_left(store, tmp_path, capsys):
    file, other = tmp_path / "some.zip", tmp_path / "other"
    assert command.main(["pack", str(file), f"--records={store.folder}"]) == 0
    assert capsys.readouterr().out == f"2 records are in {file}.\n"
    assert unpack(file, other) == (2, 0) and files(other) == files(store.folder)
    assert RunStore(other).pictures(RunStore(other).load(Stub(seed=1))).shape == (2, 8, 8, 3)
    RunStore(other).path(Stub(seed=0)).unlink()
    assert command.main(["unpack", str(file), f"--records={other}"]) == 0
    assert capsys.readouterr().out == f"1 records are new in {other}, and 1 were there.\n"
    assert files(other) == files(store.folder)


def change_a_score(held):
    name = f"{record_key(Stub(seed=0))}.json"
    held[name] = held[name].replace(b"0.0625", b"0.9375")


def change_the_spec(held):
    name = f"{record_key(Stub(seed=0))}.json"
    held[name] = held[name].replace(b'"seed": 0', b'"seed": 5')
    contents = json.loads(held["pack.json"])
    contents["files"][name] = hashlib.sha256(held[name]).hexdigest()
    held["pack.json"] = json.dumps(contents).encode()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (change_a_score, r"is not as it was packed: \w+\.json was changed\."),
        (change_the_spec, r"is not a whole record \(its key is not that of its spec and net"),
        (lambda held: held.pop(f"{record_key(Stub(seed=1))}.png"), r"\w+\.png was changed\."),
        (lambda held: held.update({"../more": b"x"}), r"\.\./more was changed\."),
        (lambda held: held.pop("pack.json"), "is not a whole pack of records"),
        (lambda held: held.update({"pack.json": b"[]"}), "is not a whole pack of records"),
        (
            lambda held: held.update({"pack.json": b'{"schema": 1, "files": {}}'}),
            "has records of schema 1, not 2",
        ),
    ],
)
def test_what_was_changed_on_the_way_is_refused_and_nothing_is_written(
    store, tmp_path, change, sentence, capsys
):
    file, other = tmp_path / "some.zip", tmp_path / "other"
    pack(store.folder, file)
    rewritten(file, change)
    with pytest.raises(RecordError, match=sentence):
        unpack(file, other)
    assert not other.exists()
    assert command.main(["unpack", str(file), f"--records={other}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(file) in said


def test_a_record_that_differs_from_the_one_that_is_there_is_refused(store, tmp_path):
    file, other = tmp_path / "some.zip", RunStore(tmp_path / "other")
    pack(store.folder, file)
    other.save(Stub(seed=1), body(Stub(seed=1)) | {"counts": {"rows": 8}})
    before = files(other.folder)
    with pytest.raises(RecordError, match=r"differs from that of .*; delete the one"):
        unpack(file, other.folder)
    assert files(other.folder) == before


def test_nothing_and_no_archive_are_refused(store, tmp_path):
    with pytest.raises(RecordError, match="holds no record to pack"):
        pack(tmp_path / "nothing", tmp_path / "some.zip")
    (tmp_path / "some.zip").write_text("text")
    for name in ("some.zip", "nowhere.zip"):
        with pytest.raises(RecordError, match=f"{name} is not a whole pack of records"):
            unpack(tmp_path / name, tmp_path / "other")
    path = store.path(Stub(seed=0))
    path.write_text("{")
    with pytest.raises(RecordError, match=f"{path} is not a whole record"):
        pack(store.folder, tmp_path / "more.zip")
    assert not (tmp_path / "more.zip").exists()
