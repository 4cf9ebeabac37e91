from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from autotelic.core.errors import UsageError
from autotelic.core.hashing import sha256_of_weights
from autotelic.core.seeds import derive
from autotelic.core.words import Message, Origin, Role, Task, TrainingExample, content_id

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=6,
)


def make(**changes: object) -> Task:
    parts: dict[str, object] = {"environment": "e", "family": "f", "question": "2 + 2?", "key": {"answer": "4"}}
    return Task.make(**(parts | changes))  # type: ignore[arg-type]


# -- content_id


def test_content_id_has_golden_values() -> None:
    assert content_id() == "4f53cda18c2baa0c"
    assert content_id("gcd", 3, {"b": 1, "a": [True, None]}) == "737a43333033d1c3"
    assert content_id("ä") == "e24284584f389ad9"


@given(st.lists(JSON, max_size=3))
def test_content_id_depends_on_content_alone(parts: list[object]) -> None:
    copy = json.loads(json.dumps(parts))
    assert content_id(*parts) == content_id(*copy)
    assert len(content_id(*parts)) == 16 and int(content_id(*parts), 16) >= 0


def test_content_id_does_not_know_the_order_of_keys_but_of_parts() -> None:
    assert content_id({"a": 1, "b": 2}) == content_id({"b": 2, "a": 1})
    assert content_id("a", "b") != content_id("b", "a")


@pytest.mark.parametrize(("one", "other"), [(("ab",), ("a", "b")), ((1,), ("1",)), ((True,), (1,)), ((None,), ("",))])
def test_content_id_keeps_apart_what_is_different(one: tuple[object, ...], other: tuple[object, ...]) -> None:
    assert content_id(*one) != content_id(*other)


def test_content_id_is_the_same_in_another_process() -> None:
    code = "from autotelic.core.words import content_id as c; print(c('x', {'k': [1, 2.5]}), end='')"
    for hash_seed in ("1", "2"):
        env = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": hash_seed}
        said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
        assert said == content_id("x", {"k": [1, 2.5]})


# -- Task and the other words


def test_equal_content_gives_an_equal_task_id() -> None:
    assert make().id == make(difficulty=3, seed=9, origin=Origin.REAL, answer="4").id
    assert make(key={"a": 1, "b": 2}).id == make(key={"b": 2, "a": 1}).id


@pytest.mark.parametrize(
    "change",
    [{"environment": "x"}, {"family": "x"}, {"question": "x"}, {"key": {"answer": "5"}}],
    ids=lambda c: next(iter(c)),
)
def test_every_part_of_a_task_counts_for_its_id(change: dict[str, object]) -> None:
    assert make(**change).id != make().id


def test_the_key_of_a_task_is_readable_json() -> None:
    assert json.loads(make(key={"b": "ü", "a": [1]}).key) == {"a": [1], "b": "ü"}


def test_a_task_survives_json() -> None:
    task = make(answer="4", origin=Origin.PROPOSER)
    assert Task.model_validate_json(task.model_dump_json()) == task
    assert Task.model_validate(task.model_dump(mode="json")) == task


def test_words_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make().question = "3 + 3?"


def test_words_take_no_unknown_keys() -> None:
    with pytest.raises(ValidationError, match="extra"):
        Message(role="user", content="x", name="y")  # type: ignore[call-arg]


def test_a_message_has_a_known_speaker() -> None:
    with pytest.raises(ValidationError, match="role"):
        Message(role="narrator", content="x")  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_an_example_cannot_weigh_nothing(weight: float) -> None:
    with pytest.raises(ValidationError, match="weight"):
        TrainingExample(id="i", role=Role.SOLVER, messages=(), completion="x", weight=weight)


def test_fields_explain_themselves() -> None:
    undocumented = [n for n, f in Task.model_fields.items() if not f.description]
    assert not undocumented


# -- seeds


def test_seeds_have_golden_values() -> None:
    assert [derive(0), derive(7, "round", 1), derive(7, "round", 2)] == [1609362278, 324413101, 1956638614]


@given(st.integers(), st.lists(st.integers() | st.text(st.characters(codec="utf-8"), max_size=5), max_size=3))
def test_a_seed_has_31_bits_and_is_the_same_each_time(seed: int, names: list[int | str]) -> None:
    assert 0 <= derive(seed, *names) < 2**31
    assert derive(seed, *names) == derive(seed, *names)


def test_seeds_differ_by_run_and_by_name() -> None:
    seeds = {derive(seed, name, n) for seed in range(10) for name in ("solve", "train") for n in range(50)}
    assert len(seeds) == 1000
    assert max(seeds) > 2**30, "the upper half is used too"


# -- hashes of weights


def test_the_hash_of_weights_is_of_names_sizes_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").write_bytes(b"two")
    (tmp_path / "a.safetensors").write_bytes(b"one")
    (tmp_path / "config.json").write_text("{}")
    expected = hashlib.sha256(b"a.safetensors\x003\x00oneb.safetensors\x003\x00two").hexdigest()
    assert sha256_of_weights(tmp_path) == sha256_of_weights(str(tmp_path)) == expected


def test_files_beside_the_weights_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"one")
    before = sha256_of_weights(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert sha256_of_weights(tmp_path) == before


@pytest.mark.parametrize(
    "files",
    [
        {"a.safetensors": b"onE", "b.safetensors": b"two"},
        {"a.safetensors": b"onet", "b.safetensors": b"wo"},
        {"a.safetensors": b"one", "c.safetensors": b"two"},
        {"a.safetensors": b"one"},
    ],
    ids=["a byte", "a moved byte", "a name", "a missing file"],
)
def test_any_change_of_the_weights_changes_the_hash(tmp_path: Path, files: dict[str, bytes]) -> None:
    hashes = set()
    for number, chosen in enumerate([{"a.safetensors": b"one", "b.safetensors": b"two"}, files]):
        (tmp_path / str(number)).mkdir()
        for name, content in chosen.items():
            (tmp_path / str(number) / name).write_bytes(content)
        hashes.add(sha256_of_weights(tmp_path / str(number)))
    assert len(hashes) == 2


def test_weights_larger_than_one_read_are_hashed_whole(tmp_path: Path) -> None:
    content = bytes(range(256)) * (5 << 12)  # 5 MiB, more than one chunk
    (tmp_path / "m.safetensors").write_bytes(content)
    assert sha256_of_weights(tmp_path) == hashlib.sha256(b"m.safetensors\x005242880\x00" + content).hexdigest()


@pytest.mark.parametrize("place", ["", "missing"])
def test_no_weights_is_a_mistake_of_the_user(tmp_path: Path, place: str) -> None:
    with pytest.raises(UsageError, match=r"holds no weights.*Point to a model"):
        sha256_of_weights(tmp_path / place)
