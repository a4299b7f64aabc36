"""Evaluation of models: metrics, the test sets of the papers, one pass over packed sets or plain images, tables.

The module can be called: `dali_dr.evaluate(models, sets, kinds=…)` is `dali_dr.evaluate.run.evaluate`.
"""

from __future__ import annotations

import sys

from dali_dr._callable import CallableModule

_home = "dali_dr.evaluate.run", "evaluate"
sys.modules[__name__].__class__ = CallableModule
