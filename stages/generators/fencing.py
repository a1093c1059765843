"""Texts found in pictures, captions or metadata as data in a prompt: fenced, and unable to leave the fence.

The template is the one that DeepSeek-R1's authors give for questions about a file
(github.com/deepseek-ai/DeepSeek-R1, "Official Prompts").
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stages.generators.protocol import clean

TAGGED_CHARS = 4000
"""Longest value between tags, in characters: about a thousand tokens. One that is cut ends with …"""

# The template's own lines, however they are spaced or capitalised, in plain, wide or Chinese brackets.
_FENCE = re.compile(
    r"[\[\uff3b\u3010](?=\s*(?:file\s*name|file\s*content\s*(?:begin|end)|webpage\s*\d+\s*(?:begin|end))\s*[\]\uff3d\u3011])",
    re.IGNORECASE,
)
# What chat templates mark turns, thinking and pictures with: <|user|>, </think>, <image>; DeepSeek's bars are
# the wide ones, U+FF5C.
_MARK = re.compile(r"<(?=[/|\uff5c]?[A-Za-z_|\uff5c][^<>\s]{0,40}>)")
# And those of Llama 2 and Mistral: [INST], [/INST], [IMG], <<SYS>>.
_CAPITALS = re.compile(r"\[(?=/?[A-Z][A-Z_]{2,20}\])|<(?=</?SYS>>)")

# Whatever could be read as a tag; also after the wide and the small sign, which models read alike.
_TAG = re.compile("[<\uff1c\ufe64](?=[^\\s\\d=])")


@dataclass(frozen=True)
class File:
    """A text of foreign origin and the name that the prompt gives it."""

    name: str
    content: str


def neutral(text: str, marks: Iterable[str] = ()) -> str:
    """The text without anything that a prompt's reader could take for the prompt's own structure.

    A bracket of the file template becomes a round one; a mark of a chat template is parted from its bracket
    by a space. `marks`: more strings that the model's tokenizer reads as one token, likewise parted.
    """
    for mark in sorted(
        (mark for mark in marks if len(mark) > 1 and not mark.isspace()), key=len, reverse=True
    ):
        text = text.replace(mark, f"{mark[0]} {mark[1:]}")
    return _CAPITALS.sub(lambda found: f"{found[0]} ", _MARK.sub("< ", _FENCE.sub("(", text)))


def file_prompt(files: Sequence[File], question: str, marks: Iterable[str] = ()) -> str:
    """DeepSeek's file template, once for each file, then the question."""
    marks = tuple(marks)
    blocks = (
        f"[file name]: {neutral(' '.join(file.name.split()), marks)}\n"
        f"[file content begin]\n{neutral(file.content, marks)}\n[file content end]\n"
        for file in files
    )
    return f"{''.join(blocks)}{question}"


def tagged(name: str, text: str) -> str:
    """`<name>text</name>`, and in it no control character, no tag and no mark of a prompt's structure."""
    inside = _TAG.sub(lambda found: f"{found[0]} ", neutral(clean(text)))
    cut = inside if len(inside) <= TAGGED_CHARS else f"{inside[: TAGGED_CHARS - 1]}…"
    return f"<{name}>{cut}</{name}>"


def described(known: Mapping[str, str]) -> str:
    """What is known of a picture as one text: its caption, and lines of tags and of the text in it."""
    lines = [known.get("caption", "").strip()]
    lines += [f"{name}: {known[key].strip()}" for key, name in _NAMES.items() if known.get(key, "").strip()]
    return "\n".join(line for line in lines if line)


_NAMES = {"tags": "tags", "ocr": "text in the image"}
