"""The base of every section of a configuration: frozen, checked, with one line per fault."""

import difflib
import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lib.errors import UserError
from lib.reading import require_plain, shown

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
LEAST_TEMPERATURE = 0.01
"""Smallest temperature above 0. Engines replace smaller ones by it."""


def _sampled_as_written(temperature: float) -> float:
    if 0 < temperature < LEAST_TEMPERATURE:
        raise ValueError(f"{temperature:g} is sampled as {LEAST_TEMPERATURE}; write 0 or at least {LEAST_TEMPERATURE}")
    return temperature


Temperature = Annotated[float, Field(ge=0, le=2), AfterValidator(_sampled_as_written)]
M = TypeVar("M", bound=BaseModel)
MOST_FAULTS = 10
"""Largest number of faults reported at once."""


class Section(BaseModel):
    """A frozen section that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        """Refuse `yes`, `on` and `true` for a number. YAML reads them as booleans, which Python would take for 1."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            truth = next((one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, bool)), None)
            if field and truth is not None and _takes_numbers_only(field.annotation):
                said = "true (also written yes, on)" if truth else "false (also written no, off)"
                raise ValueError(f"{name} = {said} is not a number; write a number")
        return values

    @model_validator(mode="before")
    @classmethod
    def _empty_is_none(cls, values: Any) -> Any:
        """Read an empty value of `--config 'section={key: }'` as in a file. Snakemake passes it on as text."""
        return {key: None if value in ("", "null") else value for key, value in values.items()} if isinstance(values, dict) else values


def _takes_numbers_only(annotation: Any) -> bool:
    """Return whether a field takes numbers but no booleans."""
    leaves = list(_leaves(annotation))
    return any(leaf in (int, float) or type(leaf) is int for leaf in leaves) and bool not in leaves


def _leaves(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _leaves(part)


def added(value: Any, **options: Any) -> Any:
    """Return a field added after the first arms were named. `value` is its default, which all earlier arms used.

    A dump omits the field while it has this value. Arms and searches that do not set it keep their ids, others get new ones. A change of
    the default would change the meaning of old ids, so it needs a new `TRAINING_VERSION`.
    """
    return Field(value, exclude_if=lambda given: given == value, **options)


def checked(model: type[M], values: dict[str, Any], source: str) -> M:
    """Return `values` as a `model`. Raises UserError with one line per fault, each starting with `source`."""
    require_plain(values, source)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = _faults(model, error)
        more = [f"{len(faults) - MOST_FAULTS} more faults; correct these first"] if len(faults) > MOST_FAULTS else []
        raise UserError("\n".join(f"{source}: {line}" for line in faults[:MOST_FAULTS] + more)) from None


def _faults(model: type[BaseModel], error: ValidationError) -> list[str]:
    faults = [fault for fault in error.errors() if fault["type"] != "too_short" or not fault["input"]]  # bad items have faults of their own
    return list(dict.fromkeys(_fault(model, dict(fault)) for fault in faults))


def _fault(model: type[BaseModel], fault: dict[str, Any]) -> str:
    location, holder = _place(model, fault["loc"])
    key = ".".join(str(part) for part in location)
    if fault["type"] in ("model_type", "model_attributes_type"):
        if not location:
            return "holds no keys; write {key: value}"
        example = "[1.0e-3, 3.0e-3] or {low: 1.0e-4, high: 1.0e-2, scale: log}" if location[0] == "parameters" else "{key: value}"
        return f"{key} = {shown(fault['input'])} is a single value; write {example}"
    if fault["type"] == "extra_forbidden":
        known = list(holder.model_fields)
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        return f"unknown key {key!r}; " + (f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}")
    if fault["type"] == "missing":
        return f"{key} is missing; add it"
    if fault["type"] == "union_tag_not_found":
        return f"{key}.{fault['ctx']['discriminator'].strip(chr(39))} is missing; add it"
    if fault["type"] == "union_tag_invalid":
        of = fault["ctx"]
        choices = of["expected_tags"].replace(", ", " or ")
        return f"{key}.{of['discriminator'].strip(chr(39))} = {shown(of['tag'])}: input should be {choices}; correct it"
    if fault["type"] in ("tuple_type", "list_type"):
        return f"{key} = {shown(fault['input'])} is not a list; write [value, value]"
    if fault["type"] == "too_short":
        return f"{key} is empty; name at least one value"
    message: str = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return (f"{key}: " if key else "") + message + ("" if ";" in message else "; correct it")
    return f"{key} = {shown(fault['input'])}: {message[0].lower() + message[1:]}; correct it"


def _place(model: type[BaseModel], location: Sequence[str | int]) -> tuple[list[str | int], type[BaseModel]]:
    """Return the location of a fault without the tags of unions, and the model of its last key.

    The tag of a model in a union is its name in lower case, or one of its literals.
    """
    keys: list[str | int] = []
    models = [model]
    for part in location:
        tagged = [one for one in models if len(models) > 1 and part in _tags(one)]
        if tagged:
            models = tagged
            continue
        if part == "values":  # a plain list, read as {values: list}
            continue
        keys.append(part)
        model = models[0]
        if field := model.model_fields.get(str(part)):
            models = list(_models_in(field.annotation)) or models
    return keys, model


def _tags(model: type[BaseModel]) -> list[Any]:
    return [model.__name__.lower(), *(value for field in model.model_fields.values() for value in get_args(field.annotation))]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in reversed(get_args(annotation)):
        yield from _models_in(part)


def schema(model: type[BaseModel]) -> str:
    """Return the JSON schema of a model as written to `config/` for editors."""
    return json.dumps(model.model_json_schema(), indent=2) + "\n"
