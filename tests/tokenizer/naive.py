"""Longest match, the slow and obvious way: the twin that the fast tokenizer is compared with."""

from collections.abc import Callable, Sequence


def longest_match(tokens: Sequence[bytes]) -> Callable[[bytes], list[int]]:
    """The encoder of a vocabulary."""
    ids = {token: i for i, token in enumerate(tokens) if token}
    longest = max(map(len, ids))

    def encode(text: bytes) -> list[int]:
        found = []
        at = 0
        while at < len(text):
            length = next(n for n in range(min(longest, len(text) - at), 0, -1) if text[at : at + n] in ids)
            found.append(ids[text[at : at + length]])
            at += length
        return found

    return encode


def longest_match_ids(tokens: Sequence[bytes], text: bytes) -> list[int]:
    return longest_match(tokens)(text)
