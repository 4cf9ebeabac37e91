"""What crosses the pipe to the trainer comes out as it went in."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.training.conftest import make_example

from autotelic.training import read_examples, write_examples


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_any_text_is_one_line_of_the_examples(tmp_path_factory: pytest.TempPathFactory, asked: str, said: str) -> None:
    examples = [make_example(asked, said), make_example("w1", "w2")]
    file = tmp_path_factory.getbasetemp() / "examples.jsonl"
    assert read_examples(write_examples(file, examples)) == examples


def test_what_other_programs_end_lines_at_ends_none(tmp_path: Path) -> None:
    examples = [make_example("one\u2028two\u2029three\x85four", "Bäume\x1c\v\f")]
    file = write_examples(tmp_path / "examples.jsonl", examples)
    assert read_examples(file) == examples
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert read_examples(file) == examples, "an empty line is none"
