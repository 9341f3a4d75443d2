"""Files of prompts and conversations in the shapes people have, one JSON object per line.

| shape | line |
|---|---|
| `messages` | `{"messages": [{"role": "user", "content": "..."}, ...], "tools": [...]}`, as in the OpenAI API |
| `conversations` | `{"conversations": [{"from": "human", "value": "..."}, ...]}`, as in ShareGPT; also with `role` and `content` |
| `turns` | `{"turns": ["...", ...]}`, as in SPEED-Bench: turns of the user, which nobody has answered |
| `prompt` | `{"prompt": "..."}` |

All lines of a file have the same shape. A line with several of these keys has the first shape in this order. `system` and `tools` beside
the turns are used, and `category` in a workload. All other keys are ignored. Of `turns` only the first is
asked, because the others depend on its answer.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lib.errors import UserError
from lib.reading import read_text

LARGEST_MIB = 256
"""Largest size of a file."""

_PLAIN = ("turns", "prompt")
_SHAPES = ("messages", "conversations", *_PLAIN)
_ROLES = {role: role for role in ("system", "developer", "user", "assistant", "tool")} | {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "observation": "tool",
}
_CURE = 'give a JSONL file with one {"prompt": "..."}, {"messages": [...]}, {"conversations": [...]} or {"turns": [...]} per line'


class UnusableError(Exception):
    """A sound line that cannot be used, whose message continues `lines ...`. Such lines are counted and dropped."""


@dataclass(frozen=True)
class Conversation:
    """One line: its number, its turns as in the OpenAI API, the tools offered, its category. A plain prompt is one user turn.

    The content of a turn is text, and arguments of tool calls are objects, as in the server. `cut`: the line has more turns, which depend
    on an answer to this one.
    """

    line: int
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    category: str | None = None
    cut: bool = False

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The turns up to the last one of the user."""
        last = max(place for place, message in enumerate(self.messages) if message["role"] == "user")
        return self.messages[: last + 1]

    @property
    def content(self) -> list[Any]:
        """The turns and tools, by which the line is known."""
        return [self.messages, self.tools]


@dataclass
class Dropped:
    """The lines of a file that cannot be used, by reason."""

    lines: dict[str, list[int]] = field(default_factory=dict)

    def add(self, reason: str, line: int) -> None:
        """Count a line."""
        self.lines.setdefault(reason, []).append(line)

    @property
    def count(self) -> int:
        """Number of lines."""
        return sum(map(len, self.lines.values()))

    def __str__(self) -> str:
        """Return the counts by reason with their first lines, the most frequent first."""
        ranked = sorted(self.lines.items(), key=lambda item: -len(item[1]))
        told = [f"{len(lines)} {reason} (first: line {lines[0]})" for reason, lines in ranked[:4]]
        rest = sum(len(lines) for _, lines in ranked[4:])
        return ", ".join(told + ([f"{rest} for other reasons"] if rest else []))


@dataclass(frozen=True)
class Source:
    """A file of prompts or conversations: the lines that can be used, and those that cannot.

    `plain`: its lines are plain prompts. `total`: number of lines.
    """

    path: Path
    key: str
    plain: bool
    total: int
    conversations: list[Conversation]
    dropped: Dropped

    @cached_property
    def identity(self) -> list[str]:
        """Return the distinct content of the lines, sorted, by which the prompts are known."""
        return sorted({json.dumps(one.content, sort_keys=True) for one in self.conversations})

    def by_category(self) -> "dict[str | None, Source]":
        """Return the lines by category, in the file's order. Raises UserError if some lines have a category and others have none."""
        parts: dict[str | None, list[Conversation]] = {}
        for one in self.conversations:
            parts.setdefault(one.category, []).append(one)
        if None in parts and len(parts) > 1:
            raise UserError(
                f"{self.key}={self.path} line {parts[None][0].line} has no category, but others have; give one to every line or to none"
            )
        return {category: replace(self, conversations=part) for category, part in parts.items()}

    def texts(self) -> Iterator[str]:
        """Yield the text of every turn."""
        return (message["content"] for one in self.conversations for message in one.messages)

    def require_all(self) -> None:
        """Raise UserError if lines were dropped."""
        if self.dropped.count:
            raise UserError(
                f"{self.key}={self.path}: {self.dropped.count} of {self.total} lines cannot be used: {self.dropped}; correct them"
            )

    def require_few_dropped(self, most: float, cure: str = "correct these lines") -> None:
        """Raise UserError if more than the share `most` of the lines was dropped. `cure` is what to change besides that share."""
        if self.dropped.count > most * self.total:
            raise UserError(
                f"{self.key}={self.path}: {self.dropped.count} of {self.total} lines cannot be used, more than features.max_dropped = "
                f"{most:g} allows: {self.dropped}; {cure}, or raise features.max_dropped"
            )


def read_source(path: Path, key: str = "features.prompts") -> Source:
    """Read a file of prompts or conversations.

    Raises UserError naming `key` for a file without lines, a line of no shape, and a line of another shape than the first.
    """
    text = read_text(path, f"{key}={path}", _CURE, largest_mib=LARGEST_MIB)
    shape = None
    conversations, dropped = [], Dropped()
    # Split on newlines alone: str.splitlines() would also cut at U+2028, which JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{key}={path} line {number}"
        values = _parsed(line)
        own = next((name for name in _SHAPES if values.get(name) is not None), None)
        if own is None:
            raise UserError(
                f'{where} is not {{"prompt": "some text"}}, nor has it messages, conversations or turns; correct or remove the line'
            )
        if shape not in (None, own):
            raise UserError(f"{where} has the shape {own!r}, the lines before it {shape!r}; put them into different files")
        shape = own
        try:
            conversations.append(_conversation(values, shape, number))
        except UnusableError as reason:
            dropped.add(str(reason), number)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(f"{where} is not {_example(shape)}; correct or remove the line") from None
    if shape is None:
        raise UserError(f"{key}={path} is empty; {_CURE}")
    return Source(path, key, shape in _PLAIN, len(conversations) + dropped.count, conversations, dropped)


def _example(shape: str) -> str:
    return {
        "messages": '{"messages": [{"role": "user", "content": "some text"}, ...]}',
        "conversations": '{"conversations": [{"from": "human", "value": "some text"}, ...]}',
        "turns": '{"turns": ["some text", ...]}',
        "prompt": '{"prompt": "some text"}',
    }[shape]


def _parsed(line: str) -> dict[str, Any]:
    """Return the object of a line, empty for anything else and for text with half a character."""
    try:
        values = json.loads(line)
        if "\\u" in line:
            json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _conversation(values: dict[str, Any], shape: str, number: int) -> Conversation:
    """Return the conversation of a line. Raises UnusableError, or a plain error for a line that is not of its shape."""
    category = str(values.get("category") or "").strip() or None
    if shape in _PLAIN:
        texts = [values["prompt"]] if shape == "prompt" else values["turns"]
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError
        return Conversation(number, [{"role": "user", "content": texts[0]}], category=category, cut=len(texts) > 1)
    turns = values[shape]
    if not isinstance(turns, list):
        raise TypeError
    messages = [_message(turn) for turn in turns]
    if (system := values.get("system")) and messages and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": _content(system)})
    asked = [message["content"] for message in messages if message["role"] == "user"]
    if not messages:
        raise UnusableError("without turns")
    if not asked:
        raise UnusableError("without a user turn")
    if not all(text.strip() for text in asked):
        raise UnusableError("with an empty user turn")
    return Conversation(number, messages, _tools(values.get("tools")), category)


def _message(turn: dict[str, Any]) -> dict[str, Any]:
    """Return a turn with `role` and `content`, and its other keys, such as `tool_calls`, as they are."""
    own = {"from", "value", "role", "content"}
    role = turn.get("role", turn.get("from"))
    if not isinstance(role, str):
        raise TypeError
    if role not in _ROLES:
        raise UnusableError(f"with a role other than {', '.join(_ROLES)}")
    content = _content(turn["content"] if "content" in turn else turn.get("value"))
    message = {"role": _ROLES[role], "content": content, **{key: value for key, value in turn.items() if key not in own}}
    if calls := message.pop("tool_calls", None):
        message["tool_calls"] = [_call(call) for call in calls]
    return message


def _content(content: Any) -> str:
    """Return the text of a turn, of which a list of parts is joined by newlines. Raises UnusableError for parts that are no text."""
    if content is None or isinstance(content, str):
        return content or ""
    if any(part["type"] != "text" for part in content):
        raise UnusableError("with parts that are not text")
    return "\n".join(str(part["text"]) for part in content)


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """Return a tool call whose arguments are an object, as chat templates expect. In the OpenAI API they are JSON text."""
    function = call["function"]
    arguments = function.get("arguments") or {}
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        raise UnusableError("with arguments of a tool call that are not JSON") from None
    return {**call, "function": {**function, "arguments": arguments}}


def _tools(tools: Any) -> list[dict[str, Any]] | None:
    """Return the tools of a line, which may be JSON text."""
    tools = json.loads(tools) if isinstance(tools, str) and tools else tools
    if tools and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise TypeError
    return tools or None
