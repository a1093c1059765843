"""YAML 1.2: PyYAML's own rules turn `no` into false, 12:30 into 750 and 2024-01-02 into a date."""

import re
from typing import Any

import yaml


class _SafeYaml12(yaml.SafeLoader):
    """Plain data, no other objects; only what JSON has too is not text: null, true, 1, 1.5."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [(self.construct_object(key, deep=True), key.start_mark) for key, _ in node.value]
        for place, (key, mark) in enumerate(keys):
            if not isinstance(key, str) or key in [other for other, _ in keys[:place]]:
                what = "is there twice" if isinstance(key, str) else "is not text"
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} {what}", problem_mark=mark)
        return super().construct_mapping(node, deep)


_SafeYaml12.yaml_implicit_resolvers = {}
_DIGITS = list("-+.0123456789")
for _tag, _pattern, _first in (
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", ["t", "T", "f", "F"]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", _DIGITS),
    ("float", r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)", _DIGITS),
):
    _SafeYaml12.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


def load_yaml(text: str) -> Any:
    """Raises: ValueError, one line."""
    try:
        return yaml.load(text, Loader=_SafeYaml12)
    except yaml.MarkedYAMLError as error:
        where = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise ValueError(f"{error.problem}{where}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
