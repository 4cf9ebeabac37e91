from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from autotelic.core.config import dump_config, load_config, parse_overrides
from autotelic.core.errors import UsageError
from autotelic.core.words import Frozen


class Train(Frozen):
    lr: float = Field(default=1e-4, gt=0)
    epochs: int = 1


class Solve(Frozen):
    samples: int = Field(default=4, ge=1)
    keep: int = 2


class Tree(Frozen):
    """A small config tree with one combination that cannot work."""

    name: str = "tree"
    train: Train = Train()
    solve: Solve = Solve()
    environment: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _possible(self) -> Tree:
        if self.solve.keep > self.solve.samples:
            raise ValueError(
                f"solve.keep ({self.solve.keep}) exceeds solve.samples ({self.solve.samples}): raise solve.samples"
            )
        return self


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tree.yaml"


def complaint(path: Path | None, *overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_config(Tree, path, overrides)
    return str(caught.value)


# -- what works


def test_nothing_gives_the_defaults() -> None:
    assert load_config(Tree, None) == Tree()


def test_a_file_is_read_and_overrides_win(path: Path) -> None:
    path.write_text("name: oak\ntrain: {epochs: 3, lr: 0.1}\n")
    tree = load_config(Tree, path, ["train.epochs=5", "solve.samples = 8"])
    assert (tree.name, tree.train.epochs, tree.train.lr, tree.solve.samples) == ("oak", 5, 0.1, 8)


def test_the_last_of_two_overrides_wins() -> None:
    assert load_config(Tree, None, ["train.epochs=2", "train.epochs=7"]).train.epochs == 7


def test_an_empty_file_is_a_config(path: Path) -> None:
    path.write_text("# nothing yet\n")
    assert load_config(Tree, path, ["name=elm"]).name == "elm"


def test_a_learning_rate_needs_no_point() -> None:
    assert load_config(Tree, None, ["train.lr=5e-5"]).train.lr == 5e-5


def test_overrides_reach_into_free_sections() -> None:
    tree = load_config(Tree, None, ["environment.name=code", "environment.families=[a, b]", "environment.x.y=1"])
    assert tree.environment == {"name": "code", "families": ["a", "b"], "x": {"y": 1}}


def test_a_dumped_config_loads_as_it_was(path: Path) -> None:
    tree = Tree(name="Bäume: #1", train=Train(lr=3e-5), environment={"families": ["a"], "level": None})
    dump_config(tree, path)
    assert load_config(Tree, path) == tree
    assert path.read_text().startswith("name: 'Bäume: #1'\ntrain:\n"), "readable, in the order of the tree"


def test_a_config_is_never_half_written_and_not_written_for_nothing(path: Path) -> None:
    dump_config(Tree(name="oak"), path)
    with path.open() as before:
        dump_config(Tree(name="elm"), path)
        assert "name: oak" in before.read(), "what was there is replaced, not emptied first"
    written = path.stat()
    dump_config(load_config(Tree, path), path)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


# -- one clear line for each mistake


def test_an_unknown_key_is_named_with_the_nearest_known_one(path: Path) -> None:
    path.write_text("train: {epoch: 3}\n")
    assert complaint(path) == f"{path}: unknown key 'train.epoch'. Did you mean 'epochs'?"


def test_an_unknown_key_near_to_nothing_lists_the_known_ones() -> None:
    assert complaint(None, "solve.zzz=1") == "the config: unknown key 'solve.zzz'. Known keys: samples, keep."


def test_an_unknown_group_is_named() -> None:
    assert "unknown key 'trian'. Did you mean 'train'?" in complaint(None, "trian.epochs=3")


def test_every_mistake_has_its_line() -> None:
    lines = complaint(None, "train.epochs=many", "solve.samples=0", "nmae=x").splitlines()
    assert len(lines) == 3
    assert "train.epochs = 'many': Input should be a valid integer" in lines[0]
    assert "solve.samples = 0: Input should be greater than or equal to 1" in lines[1]
    assert lines[2].endswith("unknown key 'nmae'. Did you mean 'name'?")


def test_values_that_cannot_work_together_are_quoted_with_the_mend() -> None:
    assert (
        complaint(None, "solve.keep=9") == "the config: solve.keep (9) exceeds solve.samples (4): raise solve.samples"
    )


def test_a_missing_file_is_named(path: Path) -> None:
    assert complaint(path).startswith(f"there is no config file {path}. Give the path of a YAML file")


@pytest.mark.parametrize("content", [b"a: [1, 2", b"a: b: c", b"\xff\xfe\xfa", b"a: \x00"])
def test_a_file_that_is_not_yaml_is_named(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert complaint(path).startswith(f"{path} cannot be read as YAML: ")


def test_a_directory_is_not_a_config(tmp_path: Path) -> None:
    assert complaint(tmp_path).startswith(f"{tmp_path} cannot be read as YAML: ")


@pytest.mark.parametrize(("content", "found"), [("- a\n- b\n", "list"), ("word\n", "str"), ("3\n", "int")])
def test_a_file_without_keys_is_no_config(path: Path, content: str, found: str) -> None:
    path.write_text(content)
    assert complaint(path) == f"{path} holds a {found}, expected keys and values."


def test_yaml_makes_no_objects(path: Path) -> None:
    path.write_text("name: !!python/object/apply:os.getcwd []\n")
    assert "cannot be read as YAML" in complaint(path)


@pytest.mark.parametrize("text", ["samples", "=3", "  =3", ""])
def test_an_override_without_key_or_value_is_refused(text: str) -> None:
    assert complaint(None, text).startswith(f"the override {text!r} is not of the form key=value, for example")


def test_an_override_that_is_not_yaml_is_refused() -> None:
    assert complaint(None, "name=[1, 2").startswith("the value in 'name=[1, 2' is not YAML")


def test_an_override_below_a_plain_value_is_refused(path: Path) -> None:
    path.write_text("name: oak\n")
    assert complaint(path, "name.first=x") == "name.first cannot be set: name is 'oak', not a group of keys."


# -- overrides as a language

KEYS = st.lists(st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True), min_size=1, max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(KEYS, VALUES)
def test_what_yaml_writes_parse_overrides_reads(keys: list[str], value: Any) -> None:
    text = f"{'.'.join(keys)}={yaml.safe_dump(value, default_flow_style=True)}"
    assert parse_overrides([text]) == [(keys, value)]


@given(st.text(max_size=20))
def test_any_text_is_an_override_or_a_usage_error(text: str) -> None:
    try:
        [(keys, _)] = parse_overrides([text])
    except UsageError as error:
        assert repr(text) in str(error)
    else:
        assert ".".join(keys) == text.partition("=")[0].strip()


def test_everything_after_the_first_equals_sign_is_the_value() -> None:
    assert parse_overrides(["a.b=c=d"]) == [(["a", "b"], "c=d")]
    assert parse_overrides(["a="]) == [(["a"], None)]
