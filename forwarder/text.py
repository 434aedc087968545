"""Makes strangers' text safe to show. All modules may import this one; it imports none of ours."""


def printable(text: str, limit: int = 100) -> str:
    """Return a stranger's text, safe for a log line or a terminal.

    Control characters, lone surrogates and all else that is not printable are escaped. The text is cut at `limit` characters
    before that.
    """
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in cut)
