"""The loader's arguments as `inspect` and `help` show them, from the groups that hold them."""

from __future__ import annotations

import dataclasses
import inspect
from typing import ForwardRef

from dali_dr.loader.options import GROUPS, Options


def signature() -> inspect.Signature:
    """The signature of `ReinforcedIterator.__init__` with every argument by name, of which the code says most as `**options`.

    Defaults are those of the groups. What DALI's scripts may say besides has None.
    """
    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    fields = {field.name: field.default for kind in GROUPS for field in dataclasses.fields(kind)}
    own = {"self": "", "dataset": "Dataset | str | os.PathLike[str]", "batch_size": "int"}
    groups = {kind.__name__.lower(): f"{kind.__name__} | None" for kind in GROUPS}
    words = {name: _words(hint) for name, hint in Options.__annotations__.items()}
    words = {name: words[name] for name in (*fields, *sorted(words.keys() - fields.keys()))}
    parameters = []
    for name, text in (own | words | groups).items():
        default = inspect.Parameter.empty if name in own else fields.get(name)
        annotation = text or inspect.Parameter.empty
        parameters.append(
            inspect.Parameter(name, kinds[name not in ("self", "dataset")], default=default, annotation=annotation)
        )
    return inspect.Signature(parameters, return_annotation="None")


def _words(hint: object) -> str:
    return hint.__forward_arg__ if isinstance(hint, ForwardRef) else str(hint)
