"""The doors for people and programs outside: the chat, the browser app, the OpenAI-compatible endpoint.

`site` and `api` need starlette, an extra, and are imported where they are used.
"""

from __future__ import annotations

from autotelic.ui.serve import Address, Offer, keys_of, serve

__all__ = ["Address", "Offer", "keys_of", "serve"]
