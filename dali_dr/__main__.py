"""`python -m dali_dr`: the same as the `dali-dr` command, for launchers such as torchrun."""

import sys

from dali_dr.cli import main

sys.exit(main())
