"""Head methods, one file each with the options of the method and everything that training, serving and levers need.

A file here is a value of `draft.method` and holds one subclass of `Draft`. Functions for training import torch themselves, because this
package is imported with every configuration.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, model_serializer, model_validator

from lib.errors import UserError
from lib.section import Positive, Section, added

if TYPE_CHECKING:
    from pydantic import SerializerFunctionWrapHandler
    from torch import Tensor

FIRST_OPTIONS = {"ttt_steps": 3, "block_size": 4, "anchors": 32}
"""The options of the first methods. Every arm's content lists them for any method, so that arm ids of the first version stay valid."""


@dataclass(frozen=True)
class Pack:
    """Samples in one row. `inputs` are forward's tensors [1, W] or [1, W, ...].

    `starts` [S]: positions where drafts start. `anchors` [A]: the same in slots for a method with `max_anchors`, -1 for an unused slot.
    """

    inputs: "dict[str, Tensor]"
    starts: "Tensor"
    anchors: "Tensor"


class Draft(Section):
    """The draft head: its architecture and its loss. Each method adds options of its own."""

    method: str = Field(description="kind of draft head")
    layers: Positive = Field(1, description="decoder layers of the head")
    aux_layers: Annotated[tuple[int, ...], Field(min_length=1)] = Field(
        description="target layers whose output the head reads; k is the output of k layers, 0 the embedding"
    )
    draft_vocab_size: Positive | None = Field(None, description="tokens the head can propose; empty: the target's whole vocabulary")
    loss_fn: Literal["kl_div", "rkl", "jsd", "ce", "tv", "nla", "lk_hybrid"] = added(
        "kl_div", description="loss between the head's distribution and the target's, by speculators' name"
    )

    title: ClassVar[str]
    """The method's name for people."""
    served_as: ClassVar[str]
    """The method's name in vLLM's speculative configuration."""
    decoder: ClassVar[str]
    """The decoder layers that speculators and vLLM share for this method, as `create_transformer_layer_config` names them."""
    counted: ClassVar[str]
    """The metric of speculators' training forward that counts the targets its loss is a mean over."""

    @property
    def positions(self) -> int:
        """Number of tokens ahead in training and evaluation. The divergence limit scales with it."""
        raise NotImplementedError

    @property
    def max_anchors(self) -> int | None:
        """Largest number of positions of a sample that one forward pass drafts from. None means all."""
        return None

    @property
    def overhang(self) -> int:
        """Positions that the forward pass may read beyond the end of a pack."""
        return 0

    def for_tokens(self, tokens: int) -> tuple[dict[str, int], str]:
        """Return the options to change so that the head drafts `tokens` at once, and a note for the user."""
        raise NotImplementedError

    def misfit(self, vocab_size: int) -> str | None:
        """Return the option that does not fit the target's vocabulary size and the cure, None if all fit."""
        if self.draft_vocab_size is None or self.draft_vocab_size <= vocab_size:
            return None
        return (
            f"draft.draft_vocab_size = {self.draft_vocab_size} is larger than the target's vocabulary of {vocab_size}; lower it, or leave "
            "it empty for the whole vocabulary"
        )

    def build(self, layers: Any, told: dict[str, Any]) -> Any:
        """Return a fresh model of speculators. `told`: arguments of `from_training_args` for all methods besides `layers`."""
        raise NotImplementedError

    def shifted(self, sample: "dict[str, Tensor]") -> "dict[str, Tensor]":
        """Return a sample for the forward pass. Tokens may only be removed at its front."""
        return sample

    def anchors_in(self, loss_mask: "Tensor", seed: tuple[int, ...]) -> "Tensor":
        """Return the sorted positions of a sample that a training step drafts from, a pure function of `seed`.

        Only called for a method with `max_anchors`.
        """
        raise NotImplementedError

    def evaluated(self, starts: "Tensor") -> "Tensor":
        """Return the starts in a sample that the evaluation uses, from the possible ones."""
        return starts

    def forward(self, model: Any, pack: Pack, options: dict[str, Any]) -> Any:
        """Run speculators' training forward and return its result."""
        return model(**pack.inputs, **options)

    def evaluation(self) -> dict[str, Any]:
        """Return the options for a forward pass that drafts `positions` tokens."""
        return {}

    def hits(self, calls: "list[Tensor]", pack: Pack) -> "list[Tensor]":
        """Return whether the drafts from `pack.starts` hit, [S] for each position ahead.

        `calls`: whether head and target agree, [positions of that call] for each call of the loss term.
        """
        raise NotImplementedError

    @classmethod
    def in_place_of(cls, other: "Draft", tokens: int) -> "Draft":
        """Return a head of this method that drafts `tokens` at once and shares the common options with `other`."""
        (method,) = get_args(cls.model_fields["method"].annotation)
        values = {name: getattr(other, name) for name in Draft.model_fields} | {"method": method}
        needed, _ = cls.model_validate(values).for_tokens(tokens)
        return cls.model_validate(values | needed)

    @model_validator(mode="before")
    @classmethod
    def _of_its_method(cls, values: Any) -> Any:
        """Drop options of other methods at their defaults, and refuse other values of them."""
        if not isinstance(values, Mapping):
            return values
        others: dict[str, list[Any]] = {name: [value] for name, value in FIRST_OPTIONS.items()}
        for method in heads().values():
            for name, field in method.model_fields.items():
                others.setdefault(name, []).append(field.default)
        foreign = values.keys() & (others.keys() - cls.model_fields.keys())
        for name in sorted(foreign):
            if values[name] not in others[name]:
                raise ValueError(f"{name} = {values[name]!r} is not read by method = {values.get('method')!r}; remove it")
        return {name: value for name, value in values.items() if name not in foreign}

    @model_serializer(mode="wrap")
    def _content(self, dump: "SerializerFunctionWrapHandler") -> dict[str, Any]:
        content: dict[str, Any] = dump(self)
        return content | {name: value for name, value in FIRST_OPTIONS.items() if name not in content}


def read_draft(values: dict[str, Any]) -> Draft:
    """Return the head in the recipe of an arm."""
    return heads()[values["method"]].model_validate(values)


def title_of(method: str) -> str:
    """Return a method's display name, given its name in a configuration or in vLLM. An unknown name is returned unchanged."""
    return next((head.title for name, head in heads().items() if method in (name, head.served_as)), method)


@cache
def heads() -> dict[str, type[Draft]]:
    """Return the section of every method by its name, which is its file name.

    Raises UserError for a file without one.
    """
    found = {}
    for name in sorted(file.stem for file in Path(__file__).parent.glob("[a-z]*.py")):
        module = importlib.import_module(f"lib.methods.{name}")
        classes = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
        own = [one for one in classes if issubclass(one, Draft)]
        if [get_args(one.model_fields["method"].annotation) for one in own] != [(name,)]:
            raise UserError(f"{module.__file__} must hold one subclass of Draft, whose field `method` is Literal[{name!r}]")
        found[name] = own[0]
    return found
