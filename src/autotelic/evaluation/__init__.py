"""Autonomous evaluation: statistics, the gate on policies, alarms, the evaluator's self-test, and the report."""

from __future__ import annotations

from autotelic.evaluation._page import render_progress
from autotelic.evaluation.alarms import Alarm, AlarmConfig, RoundStatistics, check_alarms
from autotelic.evaluation.baselines import ConstantBaseline, constant_baselines, overall_baseline
from autotelic.evaluation.gap import Gap, generation_verification_gap
from autotelic.evaluation.gate import Decision, GateConfig, decide, decide_wanted
from autotelic.evaluation.measure import (
    accuracy,
    answers,
    bootstrap_seed,
    compare_policies,
    critic_gap,
    full_marks,
    two_by_two,
)
from autotelic.evaluation.report import build_progress, build_report, write_report
from autotelic.evaluation.routes import Choice, Learned, RoutesConfig, learn_routes, search_routes
from autotelic.evaluation.selftest import SelfTest, Sheet, self_test
from autotelic.evaluation.skills import SkillDecision, SkillGateConfig, admit_skill, keep_skill
from autotelic.evaluation.stats import (
    Comparison,
    Estimate,
    auc,
    balanced_accuracy,
    estimate,
    paired_bootstrap,
    sign_test,
    wilson,
)
from autotelic.evaluation.strategies import StrategyFigures, strategy_figures, strategy_page, told_stops

__all__ = [
    "Alarm",
    "AlarmConfig",
    "Choice",
    "Comparison",
    "ConstantBaseline",
    "Decision",
    "Estimate",
    "Gap",
    "GateConfig",
    "Learned",
    "RoundStatistics",
    "RoutesConfig",
    "SelfTest",
    "Sheet",
    "SkillDecision",
    "SkillGateConfig",
    "StrategyFigures",
    "accuracy",
    "admit_skill",
    "answers",
    "auc",
    "balanced_accuracy",
    "bootstrap_seed",
    "build_progress",
    "build_report",
    "check_alarms",
    "compare_policies",
    "constant_baselines",
    "critic_gap",
    "decide",
    "decide_wanted",
    "estimate",
    "full_marks",
    "generation_verification_gap",
    "keep_skill",
    "learn_routes",
    "overall_baseline",
    "paired_bootstrap",
    "render_progress",
    "search_routes",
    "self_test",
    "sign_test",
    "strategy_figures",
    "strategy_page",
    "told_stops",
    "two_by_two",
    "wilson",
    "write_report",
]
