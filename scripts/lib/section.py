"""What every section of a configuration is: frozen, checked, and refused in one line per fault."""

import difflib
import json
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lib.errors import UserError

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
M = TypeVar("M", bound=BaseModel)


class Section(BaseModel):
    """A frozen section that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        """Refuse `yes`, `on` and `true` for a number. YAML reads them as truth values, which Python would take for 1."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            truth = next((one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, bool)), None)
            if field and truth is not None and _takes_numbers_only(field.annotation):
                said = "true (also written yes, on)" if truth else "false (also written no, off)"
                raise ValueError(f"{name} = {said} is no number; write a number")
        return values

    @model_validator(mode="before")
    @classmethod
    def _empty_is_none(cls, values: Any) -> Any:
        """Read an empty value of `--config 'section={key: }'`, which Snakemake hands on as text, as it is read in a file."""
        return {key: None if value in ("", "null") else value for key, value in values.items()} if isinstance(values, dict) else values


def _takes_numbers_only(annotation: Any) -> bool:
    """Return whether a field takes numbers, and no truth value."""
    leaves = set(_leaves(annotation))
    return bool(leaves & {int, float}) and bool not in leaves


def _leaves(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _leaves(part)


def checked(model: type[M], values: dict[str, Any], source: str) -> M:
    """Return `values` as a `model`. Raises UserError, one line per fault, each opening with `source`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(f"{source}: {line}" for line in _faults(model, error))) from None


def _faults(model: type[BaseModel], error: ValidationError) -> list[str]:
    faults = [fault for fault in error.errors() if fault["type"] != "too_short" or not fault["input"]]  # bad items do not count as items
    return list(dict.fromkeys(_fault(model, dict(fault)) for fault in faults))


def _fault(model: type[BaseModel], fault: dict[str, Any]) -> str:
    location = [part for part in fault["loc"] if part not in ("values", "range") or isinstance(part, int)]
    key = ".".join(str(part) for part in location)
    if not location and fault["type"] == "model_type":
        return "holds no keys; write {key: value}"
    if fault["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        return f"unknown key {key!r}; " + (f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}")
    if fault["type"] == "missing":
        return f"{key} is missing; add it"
    if fault["type"] == "model_type":
        example = "[1.0e-3, 3.0e-3] or {low: 1.0e-4, high: 1.0e-2, scale: log}" if location[0] == "parameters" else "{key: value}"
        return f"{key} = {fault['input']!r} is a single value; write {example}"
    if fault["type"] in ("tuple_type", "list_type"):
        return f"{key} = {fault['input']!r} is not a list; write [value, value]"
    if fault["type"] == "too_short":
        return f"{key} is empty; name at least one value"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key} = {fault['input']!r}: {message[0].lower() + message[1:]}; correct it"


def _known_keys(model: type[BaseModel], location: list[Any]) -> list[str]:
    for part in location:
        if part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return list(model.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in reversed(get_args(annotation)):
        yield from _models_in(part)


def schema(model: type[BaseModel]) -> str:
    """Return the JSON schema of a model as the file that `config/` publishes for editors."""
    return json.dumps(model.model_json_schema(), indent=2) + "\n"
