"""Every error a user can cause. Each message is one sentence that names the file, field or character and what was expected."""


class RwkvEdgeError(Exception):
    """Base of all errors raised on purpose by this package."""


class ModelFileError(RwkvEdgeError):
    """A model file is damaged, is not what its name says, or holds a model this engine does not run."""


class OutputError(RwkvEdgeError):
    """A file cannot be written: the disk is full, the place is not writable, or it would overwrite what must stay."""


class TokenizerError(RwkvEdgeError):
    """A vocabulary is damaged or missing, or a token or text is outside what it covers."""


class StateError(RwkvEdgeError):
    """A state file is damaged, or a state belongs to another model."""


class StrategyError(RwkvEdgeError):
    """A strategy string cannot be parsed, or names what this machine does not have."""


class BackendError(RwkvEdgeError):
    """A backend cannot be loaded or cannot run this model here."""


class NotEnoughMemoryError(BackendError):
    """A model would take more memory than there is; the message says what would fit."""


class MissingExtraError(RwkvEdgeError):
    """An optional package is absent; the message names the pip extra that installs it."""


class InputError(RwkvEdgeError):
    """A call's argument is out of range: a token id, an empty prompt, a sampling parameter."""


def quoted(text: object, limit: int = 80) -> str:
    """A name from a file as it may stand in an error message: one printable line of bounded length, in quotes."""
    if not isinstance(text, str):
        return f"<{type(text).__name__}>"
    return ascii(text if len(text) <= limit else f"{text[:limit]}...")
