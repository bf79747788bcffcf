"""Messages for a terminal."""


def printable(message: object) -> str:
    """On one line: a file's name may hold anything, line ends and terminal escapes included."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(message))
