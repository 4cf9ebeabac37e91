"""What pydantic finds wrong, in one line for whoever has to mend it."""

from __future__ import annotations

from pydantic import ValidationError

__all__ = ["faults"]


def faults(error: ValidationError, whole: str = "", most: int = 3) -> str:
    """Return where a value is not as it has to be, and why; without the input, which may be long or secret.

    Args:
        error: pydantic's complaint.
        whole: what to call the value where the fault is in no part of it.
        most: more faults than this are left out.
    """
    return "; ".join(
        f"{place}: {text}" if (place := ".".join(map(str, one["loc"])) or whole) else text
        for one in error.errors()[:most]
        for text in [one["msg"].removeprefix("Value error, ")]
    )
