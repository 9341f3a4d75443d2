"""Conversations are rendered as the server renders them, and answers are found in them token by token."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from lib.errors import UserError
from lib.features.chat import Chat, require_template
from lib.features.conversations import Conversation, Source, UnusableError, read_source
from lib.target.load import load_tokenizer
from tokenizers import processors

from tests.unit.features.templates import CHATML, PARTS, THINKING, TOOLS, WITH_BOS

USER = {"role": "user", "content": "What is 1 + 1?"}
ANSWER = {"role": "assistant", "content": "2"}
AGAIN = {"role": "user", "content": "And 2 + 2?"}
LAST = {"role": "assistant", "content": "4, of course"}


@pytest.fixture(scope="module")
def tokenizer(target: Path) -> Any:
    """Return the tokenizer of the small target with the tokens of ChatML and a BOS that it adds to every text."""
    tokenizer = load_tokenizer(target)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "bos_token": "<|endoftext|>"})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    return tokenizer


@pytest.fixture
def chat(tokenizer: Any) -> Any:
    """Return a chat with a template of the tokenizer, or without one."""

    def make(template: str | None, chat_template: str = "auto", **arguments: Any) -> Chat:
        own = deepcopy(tokenizer)
        own.chat_template = template
        return Chat(own, chat_template, arguments)

    return make


def source(tmp_path: Path, *lines: dict[str, Any]) -> Source:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_source(path)


def of(*turns: dict[str, Any], **more: Any) -> Conversation:
    return Conversation(1, list(turns), **more)


def rendered(chat: Chat, conversation: Conversation, tmp_path: Path) -> str:
    return chat.prompt(conversation, source(tmp_path, {"messages": [USER]})).prompt


def test_a_conversation_ends_at_its_last_user_turn_and_opens_the_answer(chat: Any, tokenizer: Any, tmp_path: Path) -> None:
    made = chat(CHATML).prompt(of({"role": "system", "content": "Be brief."}, USER, ANSWER, AGAIN, LAST), source(tmp_path, {"prompt": "a"}))
    assert made.prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
        "<|im_start|>user\nAnd 2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(made.token_ids) == made.prompt
    assert 0 not in made.token_ids, "a chat template decides on the BOS, and this one writes none"


def test_a_plain_prompt_is_one_user_turn_where_there_is_a_template(chat: Any, tmp_path: Path) -> None:
    lines = source(tmp_path, {"prompt": "Hello"})
    assert chat(CHATML).prompt(lines.conversations[0], lines).prompt == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    for without in (chat(None), chat(CHATML, "none")):
        made = without.prompt(lines.conversations[0], lines)
        assert made.prompt == "<|endoftext|>Hello"
        assert made.token_ids[0] == 0


def test_no_prompt_has_two_bos(chat: Any, tmp_path: Path) -> None:
    lines = source(tmp_path, {"prompt": "Hello"})
    by_template = chat(WITH_BOS).prompt(lines.conversations[0], lines)
    assert by_template.prompt.startswith("<|endoftext|><|im_start|>user")
    by_hand = source(tmp_path, {"prompt": by_template.prompt})
    as_it_is = chat(WITH_BOS, "none").prompt(by_hand.conversations[0], by_hand)
    assert as_it_is == by_template
    assert by_template.token_ids.count(0) == 1


def test_a_prompt_that_is_rendered_already_is_not_rendered_again(chat: Any, tmp_path: Path) -> None:
    lines = source(tmp_path, {"prompt": "Hello"}, {"prompt": "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"})
    with pytest.raises(UserError, match=r"line 2 begins with .*, which the chat template adds; set features.chat_template to none"):
        [chat(CHATML).prompt(one, lines) for one in lines.conversations]


def test_arguments_tools_and_calls_reach_the_template(chat: Any, tmp_path: Path) -> None:
    assert rendered(chat(THINKING), of(USER), tmp_path).endswith("assistant\n")
    assert rendered(chat(THINKING, enable_thinking=False), of(USER), tmp_path).endswith("assistant\n<think></think>")
    line = {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}]},
            {"role": "tool", "content": "2"},
            AGAIN,
        ],
        "tools": [{"type": "function", "function": {"name": "add"}}],
    }
    lines = source(tmp_path, line)
    text = chat(TOOLS).prompt(lines.conversations[0], lines).prompt
    assert text.startswith('<|im_start|>system\n{"type": "function", "function": {"name": "add"}}<|im_end|>\n')
    assert '<|im_start|>assistant\n<call>add {"a": 1}</call><|im_end|>\n<|im_start|>tool\n2<|im_end|>\n' in text


def test_a_template_of_parts_gets_parts(chat: Any, tmp_path: Path) -> None:
    assert rendered(chat(PARTS), of(USER), tmp_path) == rendered(chat(CHATML), of(USER), tmp_path)


def test_a_template_file_is_used_in_place_of_the_tokenizers(chat: Any, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("{% for message in messages %}[{{ message.content }}]{% endfor %}")
    assert rendered(chat(CHATML, str(tmp_path / "own.jinja")), of(USER), tmp_path) == "[What is 1 + 1?]"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "no such file"),
        (b"\xff", "not UTF-8"),
        (b"{% for", "a turn of the user is one that the chat template refuses (unexpected"),
        (b"{{ raise_exception('tools only') }}", "refuses (tools only)"),
        (b"{{ 1 + messages }}", "refuses (unsupported operand"),
        (b"Hello", "the template leaves out the text of a turn"),
    ],
)
def test_a_template_that_does_not_work_is_refused_in_one_line(chat: Any, tmp_path: Path, template: bytes | None, says: str) -> None:
    file = tmp_path / "own.jinja"
    if template is not None:
        file.write_bytes(template)
    with pytest.raises(UserError) as refusal:
        chat(CHATML, str(file))
    line = str(refusal.value)
    assert line.startswith(f"features.chat_template = '{file}': ") and says in line and ";" in line and "\n" not in line


def test_arguments_that_are_not_the_templates_are_refused(chat: Any) -> None:
    with pytest.raises(UserError, match="got multiple valu"):
        chat(CHATML, tokenize=True)


def test_a_turn_that_the_template_refuses_is_unusable(chat: Any, tmp_path: Path) -> None:
    with pytest.raises(UnusableError, match=r"that the chat template refuses \(Roles must alternate\)"):
        rendered(chat(WITH_BOS), of(USER, AGAIN, ANSWER, USER), tmp_path)


@pytest.mark.parametrize(("chat_template", "own"), [("auto", False), ("none", True), ("none", False)])
def test_conversations_need_a_template(tmp_path: Path, chat_template: str, own: bool) -> None:
    with pytest.raises(
        UserError, match=rf"features.chat_template = '{chat_template}', but features.prompts=.* holds conversations, .*; name"
    ):
        require_template(source(tmp_path, {"messages": [USER]}), chat_template, own=own)
    require_template(source(tmp_path, {"messages": [USER]}), "auto", own=True)
    require_template(source(tmp_path, {"messages": [USER]}), "own.jinja", own=False)
    require_template(source(tmp_path, {"prompt": "a"}), chat_template, own=own)


def answers(tokenizer: Any, made: Any) -> list[str]:
    return [tokenizer.decode(made.token_ids[first:end]) for first, end in made.answers]


@pytest.mark.parametrize("template", [CHATML, WITH_BOS])
def test_every_answer_is_found_with_the_token_that_ends_it(chat: Any, tokenizer: Any, template: str) -> None:
    made = chat(template).answered(of(USER, ANSWER, AGAIN, LAST, USER))
    assert answers(tokenizer, made) == ["2<|im_end|>", "4, of course<|im_end|>"]
    assert made.prompt.endswith("4, of course<|im_end|>") and tokenizer.decode(made.token_ids) == made.prompt
    assert made.token_ids.count(0) == (template == WITH_BOS)


def test_the_prompt_of_an_answer_is_what_is_served(chat: Any, tmp_path: Path) -> None:
    one = of(USER, ANSWER, AGAIN, LAST)
    made = chat(CHATML).answered(one)
    prompt = chat(CHATML).prompt(one, source(tmp_path, {"messages": [USER]}))
    assert made.token_ids[: made.answers[-1][0]] == prompt.token_ids


def test_only_the_last_answer_stays_where_the_template_changes_earlier_turns(chat: Any, tokenizer: Any) -> None:
    last = LAST | {"reasoning_content": "2 + 2 is 4"}
    made = chat(THINKING).answered(of(USER, ANSWER, AGAIN, last))
    assert answers(tokenizer, made) == ["<think>2 + 2 is 4</think>4, of course<|im_end|>"]
    assert "<think>" not in made.prompt.split("<|im_start|>user")[1]
    assert answers(tokenizer, chat(THINKING, enable_thinking=False).answered(of(USER, ANSWER))) == ["2<|im_end|>"]
    with pytest.raises(UnusableError, match="whose answers do not follow"):
        chat(THINKING, enable_thinking=False).answered(of(USER, last))


def test_a_call_of_a_tool_is_an_answer_and_an_empty_turn_is_none(chat: Any, tokenizer: Any) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {}}}]}
    made = chat(CHATML).answered(of(USER, call, {"role": "tool", "content": "2"}, ANSWER | {"content": " "}, AGAIN, LAST))
    assert answers(tokenizer, made) == ["<call>add {}</call><|im_end|>", "4, of course<|im_end|>"]
    with pytest.raises(UnusableError, match="without an answer"):
        chat(CHATML).answered(of(USER, ANSWER | {"content": ""}))


def test_a_greeting_before_the_user_is_no_obstacle(chat: Any, tokenizer: Any) -> None:
    greeting = {"role": "assistant", "content": "How can I help?"}
    strict = "{% if not messages or messages[0].role == 'assistant' and messages | length == 1 %}{{ raise_exception('no') }}{% endif %}"
    assert answers(tokenizer, chat(strict + CHATML).answered(of(greeting, USER, ANSWER))) == ["2<|im_end|>"]
