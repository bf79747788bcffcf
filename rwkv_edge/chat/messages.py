"""What was said, and by whom."""
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from rwkv_edge.errors import InputError

Role = Literal["system", "user", "assistant"]
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """content: the text, without the marks of any format.  thinking: what an assistant thought before it."""

    role: Role
    content: str
    thinking: str = ""

    def as_dict(self) -> dict[str, str]:
        """As in the chat API of OpenAI and its followers, with thoughts as "reasoning_content"."""
        thoughts = {"reasoning_content": self.thinking} if self.thinking else {}
        return {"role": self.role, "content": self.content, **thoughts}


def clean(text: str) -> str:
    """A message as the models were trained: blank lines separate turns, so that there are none inside one."""
    return re.sub(r"\n{2,}", "\n", text.replace("\r\n", "\n")).strip()


def user_message(text: object) -> Message:
    """Raises InputError for what is no text or an empty one."""
    if not isinstance(text, str):
        raise InputError(f"a message must be text, got {type(text).__name__}")
    if not clean(text):
        raise InputError("the message is empty")
    return Message("user", text.strip())


def checked_messages(messages: Iterable[Message | Mapping[str, Any]]) -> list[Message]:
    """From dicts with "role" and "content". Raises InputError for other roles, and a system message that is not the first."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
        raise InputError(f'messages must be a list like [{{"role": "user", "content": "hi"}}], got {messages!r:.40}')
    checked = [_checked(message) for message in messages]
    if any(message.role == "system" for message in checked[1:]):
        raise InputError("only the first message may be the system's")
    return checked


def _checked(message: object) -> Message:
    if isinstance(message, Message):
        message = message.as_dict()
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise InputError(f'a message must be like {{"role": "user", "content": "hi"}}, got {message!r:.60}')
    role, content, thinking = message["role"], message["content"], message.get("reasoning_content") or ""
    if role not in ROLES:
        raise InputError(f"a message's role must be one of {', '.join(ROLES)}, got {role!r:.40}")
    if not isinstance(content, str) or not isinstance(thinking, str):
        raise InputError(f"a message's content must be text, got {content!r:.40}")
    return user_message(content) if role == "user" else Message(cast(Role, role), content.strip(), thinking)
