"""JSON from a file nobody vouches for: no repeated keys, endless numbers or deep nesting, one sentence when wrong."""
import json
from collections import Counter
from typing import Any

MAX_DIGITS = 20
MAX_VALUES = 300_000  # a safetensors header has 9 a tensor, and the largest RWKV 2500 tensors


class JsonRefused(Exception):
    """The text is not JSON as expected; the message continues "<file>: its header ..."."""


def parse_object(text: bytes) -> dict[str, Any]:
    """The object that UTF-8 `text` holds; raises JsonRefused.

    Memory is `text` twice and what MAX_VALUES values take; callers limit the length of `text`.
    """
    # Each value but one costs a bracket or a comma; those inside texts are counted too, which does no harm.
    if sum(text.count(mark) for mark in (b"[", b"{", b",")) > MAX_VALUES:
        raise JsonRefused(f"has more than {MAX_VALUES} values")
    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_int=_short_integer,
            parse_constant=_no_constant,
        )
    except RecursionError:
        raise JsonRefused("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise JsonRefused(f"is not JSON (character {error.pos}: {error.msg.lower().removesuffix(' at')})") from None
    except UnicodeDecodeError as error:
        raise JsonRefused(f"is not UTF-8 at byte {error.start}") from None
    if not isinstance(value, dict):
        raise JsonRefused("is not a JSON object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise JsonRefused(f"has two values for {counts.most_common(1)[0][0][:80]!a}")
    return found


def _short_integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise JsonRefused(f"has a number of {len(digits)} digits")
    return int(digits)


def _no_constant(name: str) -> Any:
    raise JsonRefused(f"has the number {name}")
