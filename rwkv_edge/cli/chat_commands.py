"""What a line that begins with "/" does in `rwkv-edge chat`."""
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NoReturn

from rwkv_edge.chat import Chat, Reply
from rwkv_edge.errors import InputError
from rwkv_edge.text.sampling import INTEGERS, NUMBERS

MAX_TOKENS = "max_tokens"


@dataclass(frozen=True, slots=True)
class Command:
    """run: with the conversation and what follows the command's name; may start a reply."""

    run: Callable[[Chat, str], Reply | None]
    usage: str
    help: str


def run_command(chat: Chat, line: str) -> Reply | None:
    """Raises InputError for an unknown command or a bad value, EOFError to end."""
    name, _, argument = line.strip().partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        raise InputError(f"no command {name!r:.40}; /help lists them, and a message may begin with a space")
    return command.run(chat, argument.strip())


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


def _reset(chat: Chat, argument: str) -> None:
    chat.reset()
    _tell("the conversation begins anew")


def _undo(chat: Chat, argument: str) -> None:
    _tell(f"taken back: {chat.undo()}")


def _retry(chat: Chat, argument: str) -> Reply:
    return chat.retry()


def _save(chat: Chat, argument: str) -> None:
    chat.save(_needed(argument, "/save FILE"))
    _tell(f"saved as {argument}")


def _load(chat: Chat, argument: str) -> None:
    chat.load(_needed(argument, "/load FILE"))
    for message in chat.messages:
        _tell(f"{message.role}: {message.content}")


def _system(chat: Chat, argument: str) -> None:
    if not argument:
        _tell(f"system prompt: {chat.system or '(none)'}; /system TEXT sets it, /system - removes it")
        return
    chat.reset("" if argument == "-" else argument)
    _tell("the conversation begins anew with " + ("no system prompt" if argument == "-" else "this system prompt"))


def _think(chat: Chat, argument: str) -> None:
    if argument:
        chat.think = argument
    _tell(f"thinking: {chat.think} (of {', '.join(chat.format.think_modes)})")


def _set(chat: Chat, argument: str) -> None:
    """`/set`, `/set NAME VALUE`, `/set NAME=VALUE`."""
    name, *rest = argument.replace("=", " ").split() or [""]
    if not rest:
        settings = {MAX_TOKENS: chat.max_tokens} | {f.name: getattr(chat.sampling, f.name) for f in fields(chat.sampling)}
        shown = {key: value for key, value in settings.items() if key in (*NUMBERS, *INTEGERS, MAX_TOKENS)}
        if name and name not in shown:
            _unknown(name)
        _tell(", ".join(f"{key} {value}" for key, value in shown.items() if name in ("", key)))
        return
    value = _number(name, " ".join(rest))
    if name == MAX_TOKENS:
        chat.max_tokens = value
    else:
        changed: dict[str, Any] = {name: value}
        chat.sampling = replace(chat.sampling, **changed)
    _tell(f"{name} {value}")


def _number(name: str, text: str) -> Any:
    if name not in (*NUMBERS, *INTEGERS, MAX_TOKENS):
        _unknown(name)
    if name == "seed" and text in ("none", "None"):
        return None
    try:
        return float(text) if name in NUMBERS else int(text)
    except ValueError:
        raise InputError(f"{name} must be a number, got {text!r:.40}") from None


def _unknown(name: str) -> NoReturn:
    raise InputError(f"no setting {name!r:.40}: expected {', '.join((*NUMBERS, *INTEGERS, MAX_TOKENS))}")


def _help(chat: Chat, argument: str) -> None:
    for command in COMMANDS.values():
        _tell(f"{command.usage:20} {command.help}")
    _tell('Several lines: """ before the first and behind the last, or Alt-Enter with prompt_toolkit.')


def _quit(chat: Chat, argument: str) -> NoReturn:
    raise EOFError


def _needed(argument: str, usage: str) -> str:
    if not argument:
        raise InputError(f"the name of a file is missing: {usage}")
    return argument


COMMANDS: dict[str, Command] = {
    "/reset": Command(_reset, "/reset", "begin anew"),
    "/undo": Command(_undo, "/undo", "take the last question and its answer back"),
    "/retry": Command(_retry, "/retry", "another answer to the last question"),
    "/save": Command(_save, "/save FILE", "keep the conversation in a file"),
    "/load": Command(_load, "/load FILE", "go on with one"),
    "/system": Command(_system, "/system TEXT", "begin anew with this system prompt; -: without one"),
    "/think": Command(_think, "/think MODE", "think before answering, or not; without a mode: list them"),
    "/set": Command(_set, "/set NAME VALUE", "change a setting, such as top_p 0.3; without a name: list them"),
    "/help": Command(_help, "/help", "this list"),
    "/quit": Command(_quit, "/quit", "end, like ctrl-D"),
}
