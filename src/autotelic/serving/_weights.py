"""Whether two directories hold the same weights, whatever the files around them look like.

Two programs write the same tensors into different bytes (order, header, shards), so equal hashes are enough to know
that weights are equal, but not needed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

__all__ = ["same_weights"]

_CHUNK = 8 << 20


class _Tensor(NamedTuple):
    """Where a tensor's bytes lie."""

    file: Path
    begin: int
    size: int
    kind: tuple[str, tuple[int, ...]]


def same_weights(left: Path, right: Path) -> bool:
    """Compare the safetensors files of two directories tensor by tensor, up to the first difference.

    Files that cannot be read are the same as nothing: what is wrong with them, the hash and the server say.
    """
    try:
        ours, theirs = _tensors(left), _tensors(right)
        if not ours or ours.keys() != theirs.keys():
            return False
        # The small ones first: a trained model differs in one of them, and the comparison is over.
        return all(_equal(ours[name], theirs[name]) for name in sorted(ours, key=lambda n: ours[n].size))
    except (OSError, ValueError, KeyError):
        return False


def _tensors(directory: Path) -> dict[str, _Tensor]:
    found = {}
    for file in directory.glob("*.safetensors"):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            # A file that is not safetensors may say any length.
            header = json.loads(stream.read(min(length, file.stat().st_size)))
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                kind = (entry["dtype"], tuple(entry["shape"]))
                found[name] = _Tensor(file, 8 + length + begin, end - begin, kind)
    return found


def _equal(left: _Tensor, right: _Tensor) -> bool:
    if (left.kind, left.size) != (right.kind, right.size):
        return False
    with left.file.open("rb") as a, right.file.open("rb") as b:
        a.seek(left.begin)
        b.seek(right.begin)
        sizes = [min(_CHUNK, left.size - done) for done in range(0, left.size, _CHUNK)]
        return all(a.read(size) == b.read(size) for size in sizes)
