"""Where text may be cut so that the pieces, tokenized one by one, give the ids of the whole.

If no token of a vocabulary holds byte `a` directly before byte `b`, no token can reach across an `a|b` boundary, so the
longest match there is the same with or without the bytes behind it. The World vocabulary has two families of such
pairs: an ASCII letter before any other ASCII byte, and anything but a blank before a space. Cutting at both splits most
scripts into words, few enough to remember; Chinese and Japanese have no such boundary and stay whole.
"""

import re
from collections.abc import Iterable

_CUT = re.compile(rb"(?=[\x00-@\[-`{-\x7f])(?:(?<=[A-Za-z])|(?= )(?<=[^ \n\t]))")

# The same rule over byte classes: Letter, High (not ASCII), Space, Blank (newline, tab), Other.
_CLASSES = bytes(
    ord("H" if b >= 0x80 else "L" if chr(b).isalpha() else "S" if b == 0x20 else "B" if b in b"\n\t" else "O")
    for b in range(256)
)
_CUT_PAIRS = (b"LS", b"LB", b"LO", b"HS", b"OS")
_GLUE = b"\x80\n"  # neither it nor its seams with any token look like a cut


def cuts_are_safe(tokens: Iterable[bytes]) -> bool:
    """Whether no token spans a boundary that `cut` would cut at."""
    classes = _GLUE.join(tokens).translate(_CLASSES)
    return not any(pair in classes for pair in _CUT_PAIRS)


def cut(text: bytes) -> list[bytes]:
    """`text` in pieces; exact for the vocabularies that `cuts_are_safe` approves."""
    return _CUT.split(text)
