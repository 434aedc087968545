"""The commands in the documents, for the tests that run them."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"^( *)```sh\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def blocks(document: str) -> list[str]:
    """Return the shell blocks of a document, each as it would be pasted."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return [re.sub(rf"(?m)^{indent}", "", block) for indent, block in _BLOCK.findall(text)]


def commands(document: str) -> list[str]:
    """Return the lines of these blocks that begin a command, without what is explained behind it."""
    lines = [line for block in blocks(document) for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip() and not line.startswith(" ")]
