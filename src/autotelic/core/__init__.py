"""Words, errors, the registry, the config and the run directory: what every other room speaks in."""

from __future__ import annotations
