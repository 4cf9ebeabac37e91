"""Autonomous evaluation: statistics, the gate on policies, alarms, the evaluator's self-test, and the report."""

from __future__ import annotations
