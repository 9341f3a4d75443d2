"""A target's tokens from its tokenizer.json, without transformers, which takes seconds to import."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lib.errors import UserError


class Tokens:
    """The tokens of a target whose directory has a tokenizer.json. Raises UserError naming `target.path` for one that cannot be read.

    `vocab_size`: rows of the target's embedding.
    """

    def __init__(self, path: Path, vocab_size: int) -> None:
        from tokenizers import Tokenizer

        self._name, self._size = f"target.path={path}: tokenizer.json", vocab_size
        try:
            self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        except Exception as error:  # tokenizers raises nothing more special
            raise UserError(f"{self._name} cannot be read ({' '.join(str(error).split())[:200]}); download it again") from None
        highest = max(self._tokenizer.get_vocab(with_added_tokens=False).values(), default=0)
        if highest >= vocab_size:
            raise self._beyond(highest)
        added = self._tokenizer.get_added_tokens_decoder()
        self._strange = {token.content: number for number, token in added.items() if number >= vocab_size}

    def check(self, prompts: Sequence[str]) -> None:
        """Raise UserError when a prompt holds a token that the target has no embedding for."""
        for text, number in self._strange.items():
            if any(text in prompt for prompt in prompts):
                raise self._beyond(number)

    @property
    def fewest(self) -> Callable[[str], int]:
        """Smallest number of tokens of a text, without those that the tokenizer adds around it."""
        return lambda text: len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _beyond(self, number: int) -> UserError:
        text = self._tokenizer.id_to_token(number)
        return UserError(
            f"{self._name} has token {number} ({text!r}), but the target's embedding holds {self._size}; take its own tokenizer"
        )
