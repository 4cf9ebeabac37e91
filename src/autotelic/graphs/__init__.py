"""The LangGraph state machines: self-play, and the solve graph inside it."""

from __future__ import annotations

from autotelic.graphs.ask import AskState, GraphContext, build_ask
from autotelic.graphs.config import Config
from autotelic.graphs.self_play import Outcome, RoundState, SelfPlay, build_self_play
from autotelic.graphs.session import Session, open_session
from autotelic.graphs.solve import SolveState, build_solve

__all__ = [
    "AskState",
    "Config",
    "GraphContext",
    "Outcome",
    "RoundState",
    "SelfPlay",
    "Session",
    "SolveState",
    "build_ask",
    "build_self_play",
    "build_solve",
    "open_session",
]
