"""YAML that people write: duplicate keys are refused, and 1e-5 is the number that it is."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from robot_policies.strict import InputError, Violation, decode


class _StrictLoader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> Any:
        """Look at the keys as they are written: merged ones (<<) may be given another value."""
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"duplicate key {key!r}{node.start_mark}")
        return node


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"),
    list("-+0123456789"),
)


def load_yaml(path: Path) -> Any:
    """The document. Raises yaml.YAMLError, UnicodeDecodeError or RecursionError for no YAML."""
    return yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)


def decode_yaml(kind: Any, path: Path, name: str) -> Any:
    """A dataclass from a YAML file that holds its fields, all of them and no others.

    Raises InputError with every violation, FileNotFoundError without the file.
    """
    violations: list[Violation] = []
    try:
        document = load_yaml(path)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8
        found = " ".join(str(error).split())[:200]
        violations.append(Violation(name, "keys and values in YAML", found, "correct the file"))
    else:
        content = decode(kind, document, name, violations)
    if violations:
        raise InputError(replace(item, where=f"{path.name}: {item.where}") for item in violations)
    return content
