"""Reinforcing a data set: sources of images, teachers, and the generation that joins them into shards.

The module can be called: `dali_dr.reinforce(source, out, generation, num_classes=…)` is `dali_dr.reinforce.engine.reinforce`.
"""

from __future__ import annotations

import sys

from dali_dr._callable import CallableModule

_home = "dali_dr.reinforce.engine", "reinforce"
sys.modules[__name__].__class__ = CallableModule
