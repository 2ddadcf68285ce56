"""Running programs that a model wrote, and judging them, without trusting them (paper 4.3.1: execution feedback).

Covered: files, environment, network, processes, privileges; time, memory, processes, disk and output, of all of a program's
processes together; nothing is left for the next program; a verdict that the program cannot write, read the tests of, or win by
objects that equal everything. The attack script (`attacks`) shows it of each tier before the tier is used.

Not covered: holes in the kernel (use a virtual machine against people); side channels; a test that asks the program's own
functions or compares two of its own objects, or that compares with a list it let the program change; expected values learnt by
heart. The tier `rlimits` has no walls at all and must be allowed by name. See docs/sandbox.md.
"""

from puna.verify.sandbox.languages import languages
from puna.verify.sandbox.limits import Job, Limits, Outcome, TestResult
from puna.verify.sandbox.pool import Sandbox
from puna.verify.sandbox.selftest import choose

__all__ = ["Job", "Limits", "Outcome", "Sandbox", "TestResult", "choose", "languages"]
