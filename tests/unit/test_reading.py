"""Reading a user file gives its content or a one-line error, whatever kind of file it is."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lib.errors import UserError
from lib.reading import read_json, read_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))

SPOILED = {
    "a key twice": (b"a: 1\nb: 2\na: 3\n", "key 'a' is repeated"),
    "a key twice, deep": (b"a: {b: 1, b: 2}\n", "key 'b' is repeated"),
    "a list": (b"- 1\n", "holds no keys"),
    "nothing": (b"", "holds no keys"),
    "a number for a key": (b"1: a\n", "key 1 is not text; put it in quotes"),
    "no YAML": (b"a: {b\n", r"not YAML \(line 2\)"),
    "a tag": (b"a: !!python/object/apply:os.getcwd []\n", "not YAML"),
    "UTF-16": ("a: 1\n".encode("utf-16"), "not UTF-8"),
    "Latin-1": ("a: é\n".encode("latin-1"), "not UTF-8"),
    "deep nesting": (b"a: " + b"[" * 200 + b"]" * 200, "nested more than 50 deep"),
    "very deep nesting": (b"a: " + b"[" * 50_000 + b"]" * 50_000, "not YAML"),
    "an alias bomb": (BOMB.encode(), "more than 200,000 values"),
    "5,000 digits": (b"a: " + b"9" * 5_000, "not YAML that can be read"),
    "17 MiB": (b"a: " + b"x" * (17 * 2**20), "17 MiB are more than the 16 MiB allowed"),
    "a null byte": (b"a: \x00\n", "not YAML"),
}


@pytest.mark.parametrize(("content", "line"), SPOILED.values(), ids=SPOILED)
def test_spoiled_yaml_is_one_line(tmp_path: Path, content: bytes, line: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=line) as error:
        read_yaml(path, "key = 'file.yaml'", "name a YAML file")
    assert str(error.value).startswith("key = 'file.yaml': ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"a": 1, "a": 2}', "key 'a' is repeated"),
        ("[1]", "holds no keys"),
        ("null", "holds no keys"),
        ('{"a": ' + "[" * 100_000, "not JSON"),
        ('{"a": ' + "9" * 5_000 + "}", "not JSON"),
        ("", "not JSON"),
    ],
)
def test_spoiled_json_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(UserError, match=line) as error:
        read_json(path, str(path), "restore it")
    assert "\n" not in str(error.value)


def test_what_is_no_file_is_one_line(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    places = {tmp_path: "a folder", tmp_path / "absent": "no such file", fifo: "a device or pipe", Path("a\0b"): "cannot be read"}
    for path, line in places.items():
        with pytest.raises(UserError, match=line):
            read_yaml(path, str(path), "name a YAML file")


def test_a_byte_order_mark_and_windows_line_ends_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes("\ufeffa: 1\r\nb: [1, 2]\r\n".encode())
    assert read_yaml(path, "", "") == {"a": 1, "b": [1, 2]}


def test_merge_keys_of_yaml_work(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("base: &base {x: 1}\none: {<<: *base, x: 2}\n")
    assert read_yaml(path, "", "")["one"] == {"x": 2}


@given(st.binary(max_size=200))
def test_any_bytes_are_keys_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "file"
    path.write_bytes(content)
    for read in (read_yaml, read_json):
        try:
            assert isinstance(read(path, "name", "cure"), dict)
        except UserError as error:
            assert "\n" not in str(error)
