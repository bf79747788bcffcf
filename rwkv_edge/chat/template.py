"""Chat templates: a Jinja text in a GGUF file, or beside safetensors, that writes a conversation. Needs the extra `chat`.

A template is somebody else's program. It runs in Jinja's sandbox, which lets it reach nothing but the messages.
"""
import re
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NoReturn

from rwkv_edge.chat.messages import Message
from rwkv_edge.errors import InputError, MissingExtraError, ModelFileError
from rwkv_edge.machine.mapping import read_small_file
from rwkv_edge.text.sampling import Sampling
from rwkv_edge.weights import Weights
from rwkv_edge.weights.directory import read_json

BUILT_IN = {"rwkv-world": "world"}  # names that llama.cpp takes for templates of its own
LONGEST = 1 << 20
# The end of a document as text: the official package feeds none in front of a conversation.
END_OF_DOCUMENT = re.compile(r"<\|rwkv_tokenizer_end_of_text\|>")


def template_of(weights: Weights) -> str | None:
    """The chat template that a model's file brings, or that lies beside it. Raises ModelFileError for a damaged file."""
    inside = weights.metadata.get("tokenizer.chat_template")
    if isinstance(inside, str):
        return inside
    directory = weights.path if weights.path.is_dir() else weights.path.parent
    if weights.source != "safetensors":
        return None
    if (directory / "chat_template.jinja").is_file():
        return _read_text(directory / "chat_template.jinja")
    if (directory / "tokenizer_config.json").is_file():
        return _default(read_json(directory / "tokenizer_config.json").get("chat_template"))
    return None


def _read_text(path: Path) -> str:
    try:
        return read_small_file(path, LONGEST, "a chat template").decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path}: is not UTF-8 at byte {error.start}") from None


def _default(template: object) -> str | None:
    """Of several, a list of {"name", "template"}, the one called "default"."""
    if isinstance(template, list):
        named = [one for one in template if isinstance(one, dict) and one.get("name") == "default"]
        template = named[0].get("template") if named else None
    return template if isinstance(template, str) else None


class TemplateFormat:
    """A format (see `Format`) that a chat template defines. `enable_thinking` is set for the think mode "on".

    Raises MissingExtraError without jinja2, InputError for a template that cannot be parsed.
    """

    name = "template"
    sampling = Sampling()
    think_modes = ("off", "on")

    def __init__(self, source: str) -> None:
        self._template = _compiled(source)

    @cached_property
    def stop(self) -> tuple[str, ...]:
        """What follows an answer: its end mark, or else the start of the user's next turn."""
        begin, answer, user = Message("user", "question"), "\x01answer\x01", "\x01user\x01"
        end = self._render([begin, Message("assistant", answer)], add_generation_prompt=False).rpartition(answer)[2].strip()
        if not end:
            turns = [begin, Message("assistant", answer), Message("user", user)]
            end = self._render(turns).partition(answer)[2].partition(user)[0].rstrip()
        return (end,) if end else ()

    def continued(self, text: str, messages: Sequence[Message], known: int, think: str) -> str:
        """See `Format`."""
        return self._render(messages, enable_thinking=think == "on")

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, enable_thinking: bool = False) -> str:
        names = {"add_generation_prompt": add_generation_prompt, "enable_thinking": enable_thinking}
        try:
            text: str = self._template.render(
                messages=[message.as_dict() for message in messages], bos_token="", eos_token="", **names
            )
        except Exception as error:  # whatever a template does wrong
            raise InputError(f"the chat template does not take these messages: {error}") from None
        return END_OF_DOCUMENT.sub("", text)


@lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        hint = "pip install 'rwkv-edge[chat]', or choose another format"
        raise MissingExtraError(f"the model's chat template needs jinja2: {hint}") from None

    def refuse(message: str) -> NoReturn:
        raise InputError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise InputError(f"the chat template cannot be read: {error}") from None
