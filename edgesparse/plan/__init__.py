"""From a list of ops to a frozen plan, and what it costs.

``op.py`` the ops · ``plan.py`` the plan · ``builder.py`` fused and unfused lists from one
description · ``cost.py`` bytes and roofline · ``printer.py`` the table of ``edgesparse plan``.
"""

from edgesparse.plan.plan import Plan

__all__ = ["Plan"]
