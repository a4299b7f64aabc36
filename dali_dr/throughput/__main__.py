"""A process that measures one loader: `python -m dali_dr.throughput NAME FOLDER SETTINGS`; see `compare.in_fresh_process`."""

from __future__ import annotations

import sys
import warnings

from dali_dr.errors import DaliDrError, shown

warnings.simplefilter("ignore", DeprecationWarning)  # DALI's own are no news
try:
    from dali_dr.throughput.compare import work

    work(sys.argv[1:])
except KeyboardInterrupt:
    sys.exit(130)
except (DaliDrError, ImportError, OSError, RuntimeError, ValueError) as error:
    print(f"{type(error).__name__}: {shown(error)}", file=sys.stderr)
    sys.exit(1)
