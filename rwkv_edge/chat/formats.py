"""The prompt formats that RWKV models were trained on, as a table.

Sources: RWKV7-G1x-templates.txt in BlinkDL/RWKV-LM (g1), the model cards of BlinkDL/rwkv7-g1 (g1-2025), rwkv-7-world
(world) and rwkv-4-world (qa, instruct), and v2/chat.py in BlinkDL/ChatRWKV (raven, raven-instruct). No format has a space
behind the assistant's name: the models write it themselves, and their vocabulary has it in one token with the first word.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rwkv_edge.chat.messages import Message, clean
from rwkv_edge.errors import InputError
from rwkv_edge.text.sampling import Sampling

SEPARATOR = "\n\n"  # between turns, in all of them


@dataclass(frozen=True, slots=True)
class ThinkMode:
    """opening: how the assistant's turn begins, behind its name. Without the last ">", which would be another token than
    the one in training.  request: what the user's text ends with.
    """

    opening: str = ""
    request: str = ""


OFF = {"off": ThinkMode()}


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How a conversation is written.

    user, system, input: patterns with {} for the text. system None: the models know no system prompt. input: a second
        part of a user's message, behind its first blank line; None: blank lines are dropped.
    assistant: what stands before an answer.  before: the text that begins a conversation without a system prompt.
    think, sampling: see `Format`.
    """

    name: str
    user: str
    assistant: str
    system: str | None = None
    input: str | None = None
    before: str = ""
    think: Mapping[str, ThinkMode] = field(default_factory=lambda: OFF)
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def think_modes(self) -> tuple[str, ...]:
        return tuple(self.think)

    @property
    def stop(self) -> tuple[str, ...]:
        patterns = (self.user, self.assistant, self.input, self.system)
        names = (pattern.partition("{}")[0].strip() for pattern in patterns if pattern)
        return tuple(SEPARATOR + name for name in names if name)

    def continued(self, text: str, messages: Sequence[Message], known: int, think: str) -> str:
        """See `Format`."""
        if think not in self.think:
            modes = ", ".join(self.think)
            raise InputError(f"the format {self.name} has no think mode {think!r:.40}, only {modes}")
        mode = self.think[think]
        parts = [text] if text else []
        if known == 0 and self.before and messages[0].role != "system":
            parts.append(self.before)
        parts += [self._written(message) for message in messages[known:]]
        parts[-1] += mode.request
        return SEPARATOR.join([*parts, self.assistant + mode.opening])

    def _written(self, message: Message) -> str:
        if message.role == "system":
            if self.system is None:
                raise InputError(f"the format {self.name} has no system prompt")
            return self.system.format(clean(message.content))
        if message.role == "assistant":
            gap = "" if self.assistant.endswith("\n") or not message.content else " "
            return self.assistant + gap + message.content
        instruction, blank, rest = message.content.replace("\r\n", "\n").partition(SEPARATOR)
        if self.input is None or not blank:
            return self.user.format(clean(message.content))
        return SEPARATOR.join((self.user.format(clean(instruction)), self.input.format(clean(rest))))


def _g1_thinking(short: str, medium: str, long: str) -> dict[str, ThinkMode]:
    """Modes with these requests for the three lengths."""
    return {
        **OFF,
        "on": ThinkMode(" <think"),
        "fast": ThinkMode(" <think>\n</think"),
        "short": ThinkMode(" <think", short),
        "medium": ThinkMode(" <think", medium),
        "long": ThinkMode(" <think", long),
    }


_WORLD = ChatFormat("world", user="User: {}", assistant="Assistant:", system="System: {}")
_RAVEN_SAMPLING = Sampling(top_p=0.8, presence_penalty=0.2, frequency_penalty=0.2, penalty_decay=1.0)

FORMATS: dict[str, ChatFormat] = {
    format.name: format
    for format in (
        replace(_WORLD, name="g1", think=_g1_thinking(" (think a bit)", " (think)", " (think a lot)")),
        replace(_WORLD, name="g1-2025", think=_g1_thinking(" think a bit", " think", " think a lot")),
        _WORLD,
        ChatFormat("qa", user="Question: {}", assistant="Answer:"),
        ChatFormat("instruct", user="Instruction: {}", assistant="Response:", input="Input: {}"),
        ChatFormat("raven", user="Bob: {}", assistant="Alice:", system="{}", sampling=_RAVEN_SAMPLING),
        ChatFormat(
            "raven-instruct",
            user="# Instruction:\n{}",
            assistant="# Response:\n",
            system="{}",
            input="# Input:\n{}",
            before="Below is an instruction that describes a task. "
            "Write a response that appropriately completes the request.",
            sampling=_RAVEN_SAMPLING,
        ),
    )
}
