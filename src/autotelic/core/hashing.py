"""One hash for a directory of weights, computed the same way by whoever writes, loads or checks them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from autotelic.core.errors import UsageError

__all__ = ["sha256_of_weights"]

_CHUNK = 4 << 20


def sha256_of_weights(directory: Path | str) -> str:
    """Return the SHA-256 of all `*.safetensors` files in `directory`: name, size and bytes of each, in name order.

    Raises:
        UsageError: there are no such files.
    """
    files = sorted(Path(directory).glob("*.safetensors"), key=lambda path: path.name)
    if not files:
        raise UsageError(f"{directory} holds no weights (*.safetensors). Point to a model in Hugging Face format.")
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    for path in files:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                digest.update(buffer[:count])
    return digest.hexdigest()
