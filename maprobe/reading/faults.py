"""Collecting what is wrong in a probe file, and checking single values against a JSON Schema, in our own words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from maprobe.errors import Fault, ProbeFileError, did_you_mean
from maprobe.reading.nodes import Node
from maprobe.source import SourceMark

__all__ = ["FaultList", "Leaf", "allowed_keys", "allowed_values", "in_words", "keys"]

_FEW = 3
_SHORT = 60  # characters of a value that still fit beside its place


@dataclass(frozen=True, slots=True)
class _Scope:
    """One reading of a part of the file: a probe, or one set of parameters of it."""

    path: str
    name: str
    parametrized: bool


class FaultList:
    """The faults of one file.

    What is written once may be read many times: ``defaults`` by every probe, a parametrized probe with every set of
    parameters. A fault found several times is told once; where only some of the readings find it, they are named.
    """

    def __init__(self) -> None:
        self._found: dict[Fault, dict[_Scope, None]] = {}
        self._scopes: list[_Scope] = []
        self._scope: _Scope | None = None
        self._final: set[SourceMark] = set()

    def __bool__(self) -> bool:
        return bool(self._found)

    @contextmanager
    def within(self, path: str, name: str, *, parametrized: bool) -> Iterator[None]:
        """Attribute what is found meanwhile to one reading of the probe at ``path``."""
        self._scope = _Scope(path, name, parametrized)
        self._scopes.append(self._scope)
        try:
            yield
        finally:
            self._scope = None

    def add(self, mark: SourceMark, message: str, *, final: bool = False) -> None:
        """Note a fault; after a ``final`` one, what else is found at the very same value would only repeat it."""
        if mark in self._final and not final:
            return
        if final:
            self._final.add(mark)
        scopes = self._found.setdefault(Fault(mark=mark, message=message), {})
        if self._scope:
            scopes[self._scope] = None

    def raise_if_any(self) -> None:
        """Raise all that was noted.

        Raises:
            ProbeFileError: something was.
        """
        if self._found:
            raise ProbeFileError(
                Fault(mark=fault.mark, message=fault.message + self._readings(fault.mark, scopes))
                for fault, scopes in self._found.items()
            )

    def _readings(self, mark: SourceMark, found: Mapping[_Scope, None]) -> str:
        inside = [scope for scope in self._scopes if mark.path == scope.path or mark.path.startswith(f"{scope.path}.")]
        possible = inside or self._scopes
        if not found or (len(found) == len(possible) and (len(found) > 1 or not possible[0].parametrized)):
            return ""
        names = [repr(scope.name) for scope in found]
        more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
        return f" (in probe{'s' if len(names) > 1 else ''} {', '.join(names[:_FEW])}{more})"


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a single value of a probe file may be.

    Attributes:
        schema: JSON Schema (draft 7).
        words: what is allowed, in words; made from the schema where empty.
    """

    schema: Mapping[str, Any]
    words: str = ""

    def take(self, node: Node, faults: FaultList) -> Any | None:  # noqa: ANN401 - whatever the schema allows
        """Return the plain value, integral where the schema says so; None, with the faults noted, if it is refused."""
        value = node.plain()
        errors = [leaf for error in _validator(self.schema).iter_errors(value) for leaf in _deepest(error)]
        for error in errors:
            _note(error, node, faults, self.words)
        return None if errors else _integral(value, self.schema)


def _validator(schema: Mapping[str, Any]) -> Any:  # noqa: ANN401 - jsonschema is loaded where a file is read
    from jsonschema import Draft7Validator

    return Draft7Validator(schema)


def _deepest(error: Any) -> Iterator[Any]:  # noqa: ANN401 - jsonschema.ValidationError
    """Of alternatives, go into the only one that is of the value's own type."""
    if error.validator in ("anyOf", "oneOf"):
        branches: dict[int, list[Any]] = {}
        for inner in error.context:
            branches.setdefault(inner.schema_path[0], []).append(inner)
        fitting = [
            branch
            for branch in branches.values()
            if not any(inner.validator in ("type", "const", "enum") and not inner.path for inner in branch)
        ]
        if len(fitting) == 1:
            for inner in fitting[0]:
                yield from _deepest(inner)
            return
    yield error


def _note(error: Any, node: Node, faults: FaultList, words: str) -> None:  # noqa: ANN401
    found = node.at(error.absolute_path)
    if error.validator == "additionalProperties":
        _note_unknown(found, error.schema.get("properties", {}), faults)
        return
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in found.entries]
        # jsonschema reports each missing key by itself, so one is noted for all.
        faults.add(found.mark, _missing(missing))
        return
    allowed = words if words and not error.absolute_path else allowed_values(error.schema)
    hint = ""
    if isinstance(found.value, str):
        hint = did_you_mean(found.value, _names(error.schema)) or _yaml_1_1(found.value, error.schema)
    faults.add(found.mark, f"{in_words(found)} is not allowed{hint}; allowed: {allowed}")


def _names(schema: Mapping[str, Any]) -> list[str]:
    """Return the texts that a schema names one by one."""
    values = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else [])]
    inner = [name for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ())) for name in _names(part)]
    return [value for value in values if isinstance(value, str)] + inner


def _yaml_1_1(text: str, schema: Mapping[str, Any]) -> str:
    if schema.get("type") == "boolean" and text.lower() in ("yes", "no", "on", "off"):
        return " (it is a text in YAML 1.2)"
    return ""


def _integral(value: Any, schema: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Turn 4.0 into 4 where JSON Schema takes it for an integer."""
    if isinstance(value, list):
        return [_integral(item, schema.get("items", {})) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and _takes_integers(schema) else value


def _takes_integers(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "integer" or any(map(_takes_integers, schema.get("anyOf", ())))


def keys(node: Node, allowed: Iterable[str], faults: FaultList, *, required: Iterable[str] = ()) -> dict[str, Node]:
    """Return the known entries of a mapping, having noted what else it holds and what it lacks."""
    allowed = tuple(allowed)
    if not isinstance(node.value, dict):
        faults.add(node.mark, f"{in_words(node)} is not allowed; allowed: a mapping with {allowed_keys(allowed)}")
        return {}
    _note_unknown(node, allowed, faults)
    missing = [name for name in required if name not in node.value]
    if missing:
        faults.add(node.mark, _missing(missing))
    return {name: entry for name, entry in node.value.items() if name in allowed}


def _missing(names: list[str]) -> str:
    *others, last = (f"`{name}`" for name in names)
    return f"{', '.join(others)} and {last} are missing" if others else f"{last} is missing"


def _note_unknown(node: Node, allowed: Iterable[str], faults: FaultList) -> None:
    allowed = tuple(allowed)
    for name, entry in node.entries.items():
        if name not in allowed:
            faults.add(
                entry.place, f"unknown key {name!r}{did_you_mean(name, allowed)}; allowed: {allowed_keys(allowed)}"
            )


def allowed_keys(names: Iterable[str]) -> str:
    """Return names in the order given, for the ``allowed:`` part of a message."""
    return ", ".join(names) or "nothing"


def in_words(node: Node) -> str:
    """Return a value as a message shows it: short, and in the words of YAML."""
    value = node.value
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, tuple) and (not value or any(item.items or item.entries for item in value)):
        return "a list" if value else "an empty list"
    if isinstance(value, tuple):
        text = f"[{', '.join(map(in_words, value))}]"
        return text if len(text) <= _SHORT else "a list"
    if value is None:
        return "an empty value"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 4]}...{text[0]}"


def allowed_values(schema: Mapping[str, Any]) -> str:
    """Return what a small JSON Schema allows, in words."""
    if "enum" in schema:
        return ", ".join(map(_word, schema["enum"]))
    if "const" in schema:
        return _word(schema["const"])
    alternatives = schema.get("anyOf") or schema.get("oneOf")
    if alternatives:
        return ", or ".join(allowed_values(part) for part in alternatives)
    kinds = schema.get("type", "any value")
    return ", or ".join(_kind(kind, schema) for kind in ([kinds] if isinstance(kinds, str) else kinds))


def _word(value: Any) -> str:  # noqa: ANN401
    return str(value).lower() if isinstance(value, bool) else str(value)


def _kind(kind: str, schema: Mapping[str, Any]) -> str:
    if kind in ("integer", "number"):
        return ("an integer" if kind == "integer" else "a number") + _range(schema)
    if kind == "array":
        low, high = schema.get("minItems"), schema.get("maxItems")
        count = "" if low is None else f"{low} " if low == high else f"{low} or more "
        return f"a list of {count}values, each {allowed_values(schema.get('items', {}))}"
    if kind == "object":
        return f"a mapping with {allowed_keys(schema.get('properties', ()))}"
    if kind == "string":
        return f"a text that matches {schema['pattern']}" if "pattern" in schema else "a text"
    return {"boolean": "true, false", "null": "an empty value"}.get(kind, kind)


def _range(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    parts = [
        f" of {low} or more" if low is not None else "",
        f" of {high} or less" if high is not None else "",
        f" above {above}" if above is not None else "",
        f" below {below}" if below is not None else "",
    ]
    return " and".join(part for part in parts if part)
