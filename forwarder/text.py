"""Text of strangers, made fit to be shown. Everybody may import this module; it imports nothing of the project."""


def printable(text: str, limit: int = 100) -> str:
    """Return `text`, which a stranger chose, fit for a log line or a terminal.

    Control characters, lone surrogates and whatever else is not printable are escaped; the text is cut at `limit`
    characters.
    """
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in cut)
