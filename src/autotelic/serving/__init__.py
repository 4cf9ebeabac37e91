"""The local model server, the gateway that all model calls go through, and the proved delivery of policies."""

from __future__ import annotations

from autotelic.serving.backends import (
    Backend,
    LiteLLMBackend,
    LocalBackend,
    OnText,
    Refused,
    ScriptedBackend,
    Streaming,
    TooLong,
    Unavailable,
    require_provider,
)
from autotelic.serving.canary import Indistinguishable, Tolerance, difference, prove, server_logprobs
from autotelic.serving.config import ServingConfig
from autotelic.serving.delivery import DeliveryKind, PolicyServer
from autotelic.serving.endpoint import Endpoint, Exchange, Recording, open_endpoint
from autotelic.serving.gateway import TOO_LONG, Counters, Gateway
from autotelic.serving.model import DEFAULT_MODEL, ModelFiles, cache_dir, control_tokens, resolve_model
from autotelic.serving.sampling import Sampling
from autotelic.serving.server import VLLMServer

__all__ = [
    "DEFAULT_MODEL",
    "TOO_LONG",
    "Backend",
    "Counters",
    "DeliveryKind",
    "Endpoint",
    "Exchange",
    "Gateway",
    "Indistinguishable",
    "LiteLLMBackend",
    "LocalBackend",
    "ModelFiles",
    "OnText",
    "PolicyServer",
    "Recording",
    "Refused",
    "Sampling",
    "ScriptedBackend",
    "ServingConfig",
    "Streaming",
    "Tolerance",
    "TooLong",
    "Unavailable",
    "VLLMServer",
    "cache_dir",
    "control_tokens",
    "difference",
    "open_endpoint",
    "prove",
    "require_provider",
    "resolve_model",
    "server_logprobs",
]
