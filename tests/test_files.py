"""Files that a user gives: read whatever their encoding, or refused in one sentence."""

import json

import pytest

from uvlm_core.files import read_json, read_text, short

TEXT = "a café\n日本 \U0001f550\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_text_is_read_in_the_encoding_that_it_has(encoding, tmp_path):
    path = tmp_path / "text"
    path.write_bytes(TEXT.encode(encoding))
    assert read_text(path) == TEXT


def test_line_ends_of_other_systems_are_line_ends(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"one\r\ntwo\rthree\n")
    assert read_text(path) == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (
            b"one\ntwo \xe9t\xe9",
            "line 2 is not valid UTF-8: it contains b'.xe9'; save the file as UTF-8",
        ),
        (
            b"one\ntwo\nthr\0ee",
            "line 3 is no text, as it has null characters; save the file as UTF-8",
        ),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(content, fault, tmp_path):
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path},? {fault}\.$"):
        read_text(path)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "is not JSON: Expecting value"),
        ("{'a': 1}", "is not JSON: Expecting property name"),
        ("[" * 100_000, "is not JSON: maximum recursion"),
        (
            '{"a": 1, "b": 2, "a": 3}',
            "the key 'a' is given more than once in one object, as 1 and 3",
        ),
    ],
)
def test_what_is_no_json_is_refused_by_its_file(content, fault, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^{path} .*{fault}.*\\.$") as error:
        read_json(path)
    assert "\n" not in str(error.value)


def test_json_is_read_from_its_file_or_from_what_was_read_of_it(tmp_path):
    value = {"a": [1, {"b": "日本"}], "c": None}
    (tmp_path / "file.json").write_text(json.dumps(value), encoding="utf-8")
    assert read_json(tmp_path / "file.json") == value
    assert read_json(tmp_path / "nowhere.json", '{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("value", ["a" * 500, list(range(500)), 3, None, "line\nbreak"])
def test_a_value_in_a_message_is_short_and_on_one_line(value):
    assert len(short(value)) <= 80 and "\n" not in short(value)
    assert repr(value).startswith(short(value).removesuffix("..."))
