"""Text and tokens of conversations, rendered with a chat template as the server renders chat completions."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.config.features import AUTO, NONE
from lib.errors import UserError
from lib.features.conversations import Conversation, Source, UnusableError
from lib.features.prompts import Prompt
from lib.reading import read_text
from lib.target.load import leading_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEY = "features.chat_template"
_PROBE = "zqxj"


def read_template(chat_template: str) -> str | None:
    """Return the text of the file that `features.chat_template` names, None for `auto` and `none`. Raises UserError if it is not there."""
    if chat_template in (AUTO, NONE):
        return None
    cure = f"name a file with a Jinja chat template, {AUTO} for that of the tokenizer, or {NONE}"
    return read_text(Path(chat_template), f"{KEY} = {chat_template!r}", cure)


def identify_template(chat_template: str) -> str:
    """Return the identity of a chat template: a digest of its file. The tokenizer's own is part of the target's fingerprint."""
    text = read_template(chat_template)
    return chat_template if text is None else hashlib.sha256(text.encode()).hexdigest()


def require_template(source: Source, chat_template: str, *, own: bool) -> None:
    """Raise UserError for conversations without a chat template. `own`: the target's tokenizer has one."""
    if source.plain or chat_template not in (AUTO, NONE) or (own and chat_template == AUTO):
        return
    why = "and the target's tokenizer has no chat template" if chat_template == AUTO else "which only a chat template turns into text"
    raise UserError(f"{KEY} = {chat_template!r}, but {source.key}={source.path} holds conversations, {why}; name a template file")


class Chat:
    """Renders conversations for one target.

    The template decides on special tokens, so none are added to what it renders. Without a template a prompt is its plain text, to which
    the tokenizer adds its own, such as a BOS, once.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", chat_template: str = AUTO, arguments: dict[str, Any] | None = None) -> None:
        """Choose the template that `features.chat_template` means, and try it.

        Raises UserError for a template that cannot be read or does not render a turn of the user.
        """
        self._tokenizer = tokenizer
        self._template = read_template(chat_template)
        self._arguments = arguments or {}
        self._leading = leading_text(tokenizer)
        self.templated = self._template is not None or (chat_template == AUTO and tokenizer.chat_template is not None)
        self._added = tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip())
        self._parts = False
        self._openings: tuple[str, ...] = ()
        if self.templated:
            self._try_out(f"{KEY} = {chat_template!r}")

    def prompt(self, conversation: Conversation, source: Source) -> Prompt:
        """Return the prompt up to the last turn of the user, to be answered by the target.

        Raises UnusableError if the template does not render it, and UserError for a plain prompt that already has a template.
        """
        text = conversation.asked[-1]["content"]
        if not self.templated:
            plain = text.removeprefix(self._leading)
            return Prompt(self._leading + plain, tuple(self._tokenizer.encode(plain)))
        if source.plain and text.startswith(self._openings):
            raise UserError(
                f"{source.key}={source.path} line {conversation.line} begins with {text[:20]!r}, which the chat template adds; set {KEY} "
                f"to {NONE} for prompts that are rendered already"
            )
        text = self._render(conversation.asked, conversation, add_generation_prompt=True)
        return Prompt(text, self._encode(text))

    def answered(self, conversation: Conversation) -> Prompt:
        """Return a conversation up to its last answer, with the places of the answers that it has.

        An answer is a turn of the assistant up to the token that ends it. What the template renders before a turn must begin with the same
        tokens as the whole conversation. Templates that drop the reasoning of earlier turns keep only the last.

        Raises UnusableError if the template does not render it, or without an answer.
        """
        messages = conversation.messages
        turns = [place for place, turn in enumerate(messages) if turn["role"] == "assistant" and _says(turn)]
        if not turns:
            raise UnusableError("without an answer")
        whole = self._encode(self._render(messages[: turns[-1] + 1], conversation))
        answers, text = [], ""
        for place in turns:
            try:
                before = self._encode(self._render(messages[:place], conversation, add_generation_prompt=True))
                through = self._without_end(self._render(messages[: place + 1], conversation))
            except UnusableError:  # such as a greeting before the first turn of the user
                continue
            first, end = len(before), len(tokens := self._encode(through))
            if first < end and (before, tokens) == (whole[:first], whole[:end]):
                answers.append((first, end))
                text = through
        if not answers:
            raise UnusableError("whose answers do not follow what the chat template renders before them")
        return Prompt(text, whole[: answers[-1][1]], tuple(answers))

    def _without_end(self, text: str) -> str:
        """Return a text without the white space that a template writes after the token that ends a turn."""
        stripped = text.rstrip()
        return stripped if stripped.endswith(self._added) else text

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _render(self, messages: list[dict[str, Any]], conversation: Conversation, **options: Any) -> str:
        """Return the text of messages. Raises UnusableError with the words of the template if it does not render them."""
        if self._parts:
            messages = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages,
                    tools=conversation.tools,  # type: ignore[arg-type]
                    chat_template=self._template,
                    tokenize=False,
                    **options,
                    **self._arguments,
                )
            )
        except Exception as error:  # templates raise their own errors, and any of Python's
            raise UnusableError(f"that the chat template refuses ({' '.join(str(error).split())[:100]})") from None

    def _try_out(self, name: str) -> None:
        """Render one turn, to learn whether the template takes texts or parts, and with which token it opens."""
        probe = Conversation(0, [{"role": "user", "content": _PROBE}])
        said = "the template leaves out the text of a turn"
        for parts in (False, True):
            self._parts = parts
            try:
                text = self._render(probe.messages, probe, add_generation_prompt=True)
            except UnusableError as refusal:
                said = f"a turn of the user is one {refusal}"
                continue
            if _PROBE in text:
                head = text[: text.index(_PROBE)]
                self._openings = tuple(token for token in self._added if token in head)
                return
        raise UserError(f"{name}: {said}; correct the template, or set features.template_arguments to what it needs")


def _says(turn: dict[str, Any]) -> bool:
    return bool(turn["content"].strip() or turn.get("tool_calls"))
