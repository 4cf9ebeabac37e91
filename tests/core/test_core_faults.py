from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError, field_validator, model_validator

from autotelic.core.faults import faults


class Pair(BaseModel):
    low: int
    high: int

    @field_validator("low")
    @classmethod
    def _even(cls, low: int) -> int:
        if low % 2:
            raise ValueError("low has to be even")
        return low

    @model_validator(mode="after")
    def _ordered(self) -> Pair:
        if self.low > self.high:
            raise ValueError("low exceeds high")
        return self


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"low": 3, "high": 4}, "low: low has to be even"),
        ({"low": 4, "high": 3}, "pair: low exceeds high"),
        ({"low": "secret"}, "low: Input should be a valid integer, unable to parse string as an integer"),
    ],
)
def test_faults_are_one_line_without_the_input(given: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError) as error:
        Pair.model_validate(given)
    assert faults(error.value, "pair", most=1) == says
