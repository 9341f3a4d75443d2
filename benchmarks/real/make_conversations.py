"""Write conversations about the Python standard library, one question per docstring, as JSON lines with `messages`.

The text is on every machine with Python, so the example needs no download. The questions are of four kinds, in turn.
"""

import argparse
import ast
import json
import sysconfig
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

QUESTIONS = (
    "Explain in simple words what {name} does.\n\nIts documentation says:\n{text}",
    "Write a short Python example that uses {name}.\n\nDocumentation:\n{text}",
    "Summarize this documentation of {name} in one sentence.\n\n{text}",
    "When would I use {name}, and what should I watch out for?\n\n{text}",
)
SHORTEST, LONGEST = 60, 400
"""Characters of a docstring's first paragraph that make a question."""


def main() -> None:
    """Write the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="JSONL file to write")
    out: Path = parser.parse_args().out
    texts = {text: name for name, text in docstrings(Path(sysconfig.get_path("stdlib")))}  # overrides repeat a docstring
    with out.open("w") as file:
        for question, (text, name) in zip(cycle(QUESTIONS), texts.items(), strict=False):
            content = question.format(name=name, text=text)
            file.write(json.dumps({"messages": [{"role": "user", "content": content}]}) + "\n")
    print(f"{out}: {len(texts)} conversations")


def docstrings(library: Path) -> Iterator[tuple[str, str]]:
    """Yield name and first paragraph of the docstrings in the modules of `library`, sorted by file."""
    for file in sorted([*library.glob("[a-z]*.py"), *library.glob("[a-z]*/[a-z]*.py")]):
        if "packages" in file.parent.name or "test" in file.parent.name:
            continue
        try:
            tree = ast.parse(file.read_text())
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and (text := ast.get_docstring(node)):
                paragraph = " ".join(text.split("\n\n")[0].split())
                if SHORTEST <= len(paragraph) <= LONGEST:
                    yield f"{file.stem}.{node.name}", paragraph


if __name__ == "__main__":
    main()
