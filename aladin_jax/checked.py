"""Dataclasses of checked values: what a field may be stands in its annotation."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints


class Within(NamedTuple):
    """Bounds of a number: from `least`, to below `below`."""

    least: float
    below: float = math.inf


class Form(NamedTuple):
    """What a text has to be, all of it: a regular expression."""

    pattern: str


Natural = Annotated[int, Within(0)]
Count = Annotated[int, Within(1)]

T = TypeVar("T")


def checked(kind: type[T], values: Mapping[str, Any], source: str = "", section: str = "") -> T:
    """Builds a dataclass of checked values, sections within it too.

    Args:
        kind: the dataclass; its annotations say what the values may be.
        values: one for every field that has no default.
        source: where they are from, for messages: a file; nothing on the command line.
        section: what stands before a field's name in messages.

    Raises:
        ValueError: naming the field that is missing, unknown, of another type or impossible.
    """
    where, hints = f"{source}: " if source else "", get_type_hints(kind, include_extras=True)
    for name in values.keys() - hints.keys():
        raise ValueError(f"{where}unknown field {f'{section}{name}'!r}")
    defaults = {name: getattr(kind, name) for name in hints if hasattr(kind, name)}
    values = {**defaults, **values}
    for name in [name for name in hints if name not in values]:
        raise ValueError(f"{where}there is no field {section}{name}")
    return kind(**{name: _value(values[name], hint, f"{section}{name}", source) for name, hint in hints.items()})


def _value(value: Any, hint: Any, name: str, source: str) -> Any:
    """A field's value, if it is what the annotation says."""
    found = f"{source}: {name} is {value!r:.200}" if source else f"{name} is {value!r:.200}"
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{found}; expected a section")
        return checked(hint, value, source, f"{name}.")  # pyright: ignore[reportArgumentType]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):  # a kind or None
        return None if value is None else _value(value, arguments[0], name, source)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{found}; choose one of {', '.join(arguments)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{found}; expected a tuple")
        if dataclasses.is_dataclass(arguments[0]):
            return tuple(_value(item, arguments[0], f"{name}.{k}", source) for k, item in enumerate(value))
        allowed = get_args(arguments[0])
        for item in value:
            if item not in allowed:
                raise ValueError(f"{name} has {item!r:.60}; choose among {', '.join(allowed)}")
        return tuple(value)
    if origin is Annotated:
        kind, rule = arguments
    else:
        kind, rule = origin or hint, Within(-math.inf)
    if kind is Mapping:
        if not isinstance(value, Mapping):
            raise ValueError(f"{found}; expected fields")
        return dict(value)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        expected = {int: "a whole number", float: "a finite number", bool: "True or False", str: "a text"}[kind]
        raise ValueError(f"{found}; expected {expected}")
    if isinstance(rule, Form):
        if not re.fullmatch(rule.pattern, value):
            raise ValueError(f"{found}; expected a text of the form {rule.pattern}")
    elif kind in (int, float) and not rule.least <= value < rule.below:
        limit = "" if rule.below == math.inf else f" and below {rule.below}"
        raise ValueError(f"{found}; it must be at least {rule.least}{limit}")
    return value
