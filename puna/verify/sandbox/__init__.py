"""Running programs that a model wrote, and judging them, without trusting them (paper 4.3.1: execution feedback; 4.2.3)."""

from puna.verify.sandbox.languages import languages
from puna.verify.sandbox.limits import Job, Limits, Outcome, TestResult
from puna.verify.sandbox.pool import Sandbox
from puna.verify.sandbox.selftest import choose

__all__ = ["Job", "Limits", "Outcome", "Sandbox", "TestResult", "choose", "languages"]
