"""Where the messages of `rwkv-edge chat` come from: a terminal, with prompt_toolkit (extra `cli`) or without, or a pipe."""
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from rwkv_edge.machine.user_cache import folders

PROMPT, MORE = "> ", "... "
QUOTES = '"""'
ReadLine = Callable[[str], str]  # with the prompt; raises EOFError at the end


def lines_from(commands: Sequence[str]) -> Iterator[str]:
    """Messages and commands, until the input ends. Several lines between triple quotes are one message; empty ones are none.

    commands: names to complete. Ctrl-C in a terminal drops what was typed so far.
    """
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    read = _prompt_toolkit(commands) if terminal and importlib.util.find_spec("prompt_toolkit") else _plain()
    while True:
        try:
            if (line := _message(read)).strip():
                yield line
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            print("\n(ctrl-D or /quit ends)", file=sys.stderr)
        except EOFError:
            if sys.stdin.isatty():
                print(file=sys.stderr)
            return


def _message(read: ReadLine) -> str:
    line = read(PROMPT)
    if not line.lstrip().startswith(QUOTES):
        return line
    text = line.lstrip().removeprefix(QUOTES)
    while not text.rstrip().endswith(QUOTES):
        text += "\n" + read(MORE)
    return " " + text.rstrip().removesuffix(QUOTES)  # the space: a message, whatever it begins with


def _plain() -> ReadLine:
    """`input`, whose lines the terminal or readline edits; without a prompt where nobody would see it."""
    if not sys.stdin.isatty():
        return lambda prompt: _piped_line()
    with suppress(ImportError):  # Windows has no such module and edits lines by itself
        import readline  # noqa: F401  # history and editing for input()
    return input if sys.stdout.isatty() else _typed_line


def _typed_line(prompt: str) -> str:
    """The prompt apart from the answers, which go to a file."""
    print(prompt, end="", file=sys.stderr, flush=True)
    return input()


def _piped_line() -> str:
    line = sys.stdin.buffer.readline().decode("utf-8", errors="replace")
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def _prompt_toolkit(commands: Sequence[str]) -> ReadLine:
    """A line editor with the history of earlier sessions; Alt-Enter begins a new line of the same message."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.key_binding import KeyBindings

    def new_line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    keys = KeyBindings()
    keys.add("escape", "enter")(new_line)
    completer = WordCompleter(list(commands), sentence=True)
    session: Any = PromptSession(
        history=_history(), key_bindings=keys, completer=completer, complete_while_typing=False,
        prompt_continuation=lambda width, line, is_wrap: "" if is_wrap else MORE[:width],
    )  # fmt: skip
    return lambda prompt: str(session.prompt(prompt))


def _history() -> Any:
    """Of all sessions, in the user's cache directory; of this one alone where that cannot be written."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    for path in folders("chat_history"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600, exist_ok=True)
            with path.open("ab"):
                return FileHistory(str(path))
        except OSError:
            continue
    return InMemoryHistory()
