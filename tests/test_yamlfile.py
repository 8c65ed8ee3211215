"""YAML 1.2 scalars, duplicate keys, `extends`, origins, and writing that reads back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae_bench import yamlfile
from mae_bench.errors import MaeBenchError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> Path:
    path = Path.cwd() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(name: str, text: str) -> str:
    with pytest.raises(MaeBenchError) as caught:
        yamlfile.load(write(name, text))
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("010", 10),
        ("-7", -7),
        ("0o17", 15),
        ("0x1F", 31),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", float("-inf")),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("off", "off"),
        ("yes", "yes"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("'1e-4'", "1e-4"),
        ("''", ""),
        ("!!str 010", "010"),
        ("[32, 1e-3]", [32, 1e-3]),
        ("{prob: 0.5, mode: off}", {"prob": 0.5, "mode": "off"}),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    parsed = yamlfile.parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_null_value_of_a_key() -> None:
    assert yamlfile.load(write("a.yaml", "a:\nb: ~\n")).values == {"a": None, "b": None}


def test_origins_name_file_and_line() -> None:
    document = yamlfile.load(write("sub/a.yaml", "# head\noptim:\n  lr: 1e-4\nsize: [1,\n  2]\n"))
    assert {path: str(origin) for path, origin in document.origins.items()} == {
        "": "sub/a.yaml",
        "optim": "sub/a.yaml:2",
        "optim.lr": "sub/a.yaml:3",
        "size": "sub/a.yaml:4",
        "size.0": "sub/a.yaml:4",
        "size.1": "sub/a.yaml:5",
    }


def test_anchors_are_copies() -> None:
    document = yamlfile.load(write("a.yaml", "a: &x {lr: 1}\nb: *x\n"))
    assert document.values == {"a": {"lr": 1}, "b": {"lr": 1}}
    assert document.values["a"] is not document.values["b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "a.yaml: the key 'a' stands twice, on line 1 and on line 3"),
        ("optim:\n  lr: 1\n  lr: 2\n", "a.yaml: the key 'optim.lr' stands twice, on line 2 and on line 3"),
        ("a: {b: 1, b: 2}\n", "a.yaml: the key 'a.b' stands twice, on line 1 and on line 1"),
        ("a: 1\n1: 2\n", "a.yaml:2: a key must be text; put it in quotes if it is meant so"),
        ("a: 1\ntrue: 2\n", "a.yaml:2: a key must be text; put it in quotes if it is meant so"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "a.yaml:3: merge keys (<<) are not part of YAML 1.2; use 'extends'"),
        ("a: !!python/name:os.system x\n",
         "a.yaml:1: the tag !!python/name:os.system is not allowed; a recipe holds values only"),
        ("a: !!set {x}\n", "a.yaml:1: the tag !!set is not allowed; a recipe holds values only"),
        ("a: !mine [x]\n", "a.yaml:1: the tag !mine is not allowed; a recipe holds values only"),
        ("a: &x [*x]\n", "a.yaml:1: an anchor that contains itself"),
        ("a: [1\nb: 2\n", "a.yaml:2:2: not valid YAML: expected ',' or ']', but got ':'"),
        ("a: 1\n---\nb: 2\n", "a.yaml:2:1: not valid YAML: but found another document"),
        ("a: \x07\n", "a.yaml: not valid YAML: unacceptable character #x0007: special characters are not allowed"
         ' in "<unicode string>", position 3'),
        ("", "a.yaml should hold keys and values (key: value), and holds nothing"),
        ("- 1\n", "a.yaml should hold keys and values (key: value), and holds a list"),
        ("text\n", "a.yaml should hold keys and values (key: value), and holds a single value"),
    ],
)  # fmt: skip
def test_refusals(text: str, message: str) -> None:
    assert refusal("a.yaml", text) == message


def test_missing_file_names_its_neighbour() -> None:
    write("imagenet-knn.yaml", "a: 1\n")
    with pytest.raises(MaeBenchError) as caught:
        yamlfile.load("imagenet-kn.yaml")
    assert str(caught.value) == "imagenet-kn.yaml does not exist; did you mean 'imagenet-knn'?"


def test_unreadable_files() -> None:
    Path("folder.yaml").mkdir()
    Path("latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(MaeBenchError, match=r"^folder.yaml cannot be read: Is a directory$"):
        yamlfile.load("folder.yaml")
    with pytest.raises(MaeBenchError, match=r"^latin.yaml is not UTF-8 text$"):
        yamlfile.load("latin.yaml")


def test_extends_merges_mappings_and_replaces_the_rest() -> None:
    write("base.yaml", "optim:\n  name: lars\n  lr: 1\nsize: [1, 2, 3]\nerase: {prob: 1}\nmix: null\n")
    path = write(
        "sub/own.yaml", "extends: ../base.yaml\noptim:\n  lr: 2\nsize: [4]\nerase: null\nmix:\n  alpha: 1\n"
    )
    document = yamlfile.load(path)
    assert document.values == {
        "optim": {"name": "lars", "lr": 2},
        "size": [4],
        "erase": None,
        "mix": {"alpha": 1},
    }
    assert {path: str(origin) for path, origin in document.origins.items()} == {
        "": "sub/own.yaml",
        "optim": "sub/own.yaml:2",
        "optim.name": "base.yaml:2",
        "optim.lr": "sub/own.yaml:3",
        "size": "sub/own.yaml:4",
        "size.0": "sub/own.yaml:4",
        "erase": "sub/own.yaml:5",
        "mix": "sub/own.yaml:6",
        "mix.alpha": "sub/own.yaml:7",
    }


def test_extends_by_name() -> None:
    base = write("elsewhere/base.yaml", "a: 1\n")
    own = write("own.yaml", "extends: base\nb: 2\n")
    assert yamlfile.load(own, find={"base": base}.__getitem__).values == {"a": 1, "b": 2}


def test_what_holds_for_one_file_alone_is_not_handed_down() -> None:
    write("base.yaml", "a: 1\nb: {c: 2}\nd: [3]\n")
    own = write("own.yaml", "extends: base.yaml\nd: [4]\n")
    document = yamlfile.load(own, not_handed_down=("b", "d"))
    assert document.values == {"a": 1, "d": [4]}
    assert str(document.origins["d"]) == "own.yaml:2"
    assert "b.c" not in document.origins


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nextends: bse.yaml\n", "extends: bse.yaml does not exist; did you mean 'base'? (own.yaml:2)"),
        ("extends: [base.yaml]\n", "extends: should be the name of one file, not [base.yaml] (own.yaml:1)"),
        ("extends: middle.yaml\n",
         "extends: middle.yaml extends another file itself (middle.yaml:1); only one level is allowed (own.yaml:1)"),
        ("extends: own.yaml\n",
         "extends: own.yaml extends another file itself (own.yaml:1); only one level is allowed (own.yaml:1)"),
    ],
)  # fmt: skip
def test_extends_refusals(text: str, message: str) -> None:
    write("base.yaml", "a: 1\n")
    write("middle.yaml", "extends: base.yaml\n")
    assert refusal("own.yaml", text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "override 'lr=': no value given; write null for none and '' for empty text"),
        ("[1", "override 'lr=': not valid YAML: expected ',' or ']', but got '<stream end>'"),
    ],
)
def test_bad_override_values(text: str, message: str) -> None:
    with pytest.raises(MaeBenchError) as caught:
        yamlfile.parse_value(text, name="override 'lr='")
    assert str(caught.value) == message


TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    [
        "off",
        "1e-4",
        "010",
        "12:30",
        "~",
        "",
        "null",
        "0o7",
        "=",
        "<<",
        " a",
        "a: b",
        "# a",
        "- a",
        "\n",
        "2001-01-01",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT.filter(bool), inner, max_size=4),
    max_leaves=8,
)
KEYS = TEXT.filter(bool).map(lambda text: f"k{text}")


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_what_is_written_reads_back(values: dict[str, Any]) -> None:
    assert yamlfile.parse_value(yamlfile.dump(values)) == values
    line = yamlfile.inline(values)
    assert "\n" not in line
    assert yamlfile.parse_value(line) == values


def test_dump_is_what_a_person_would_write() -> None:
    values = {
        "task": "imagenet.knn",
        "data": {"image_size": [224, 224], "classes": None},
        "notes": ["one thing", "off"],
        "lr": 1e-4,
    }
    assert yamlfile.dump(values) == (
        "task: imagenet.knn\n"
        "data:\n  image_size: [224, 224]\n  classes: null\n"
        "notes:\n  - one thing\n  - 'off'\n"
        "lr: 0.0001\n"
    )


# ---------------------------------------------------------------- two readers


@pytest.mark.parametrize("folder", ["configs", "tables"])
def test_both_readers_see_the_same(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted((Path(__file__).parent.parent / folder).rglob("*.yaml"))
    fast = [(d.values, d.origins) for d in map(yamlfile._load_one, files)]
    monkeypatch.setattr(yamlfile, "_FastLoader", yamlfile._Loader)
    slow = [(d.values, d.origins) for d in map(yamlfile._load_one, files)]
    assert fast == slow
    assert len(files) > 50
