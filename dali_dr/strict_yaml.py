"""YAML that says nothing twice."""

from __future__ import annotations

from typing import Any

import yaml


class DuplicateKey(yaml.YAMLError):
    """A mapping that says a key twice."""


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader takes the last of equal keys; this one takes none."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        said = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if twice := sorted({key for key in said if said.count(key) > 1}):
            raise DuplicateKey(f"line {node.start_mark.line + 1}: {', '.join(twice)} is there twice")
        return super().construct_mapping(node, deep)


def strict_yaml(text: str) -> Any:
    """The value of a YAML text, as `yaml.safe_load` reads it.

    Raises:
      yaml.YAMLError: it is no YAML, or (`DuplicateKey`) a mapping in it says a key twice.
    """
    return yaml.load(text, _StrictLoader)
