"""The LangGraph state machines: self-play with the solve graph inside it, and those that a person runs."""

from __future__ import annotations

from autotelic.graphs.ask import AskState, GraphContext, build_ask
from autotelic.graphs.config import Config
from autotelic.graphs.refine import RefineState, build_refine
from autotelic.graphs.self_play import Outcome, RoundState, SelfPlay, build_self_play
from autotelic.graphs.session import Session, open_session
from autotelic.graphs.solve import SolveState, build_solve

__all__ = [
    "AskState",
    "Config",
    "GraphContext",
    "Outcome",
    "RefineState",
    "RoundState",
    "SelfPlay",
    "Session",
    "SolveState",
    "build_ask",
    "build_refine",
    "build_self_play",
    "build_solve",
    "open_session",
]
