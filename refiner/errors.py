"""The exceptions that refiner raises on purpose.

::

    RefinerError
    ├── UserError                 the user can fix it; the CLI prints the message and exits with 2
    │   ├── ConfigError           an argument or setting out of its range
    │   ├── InputError            a prompt, image or file that cannot be used
    │   │   ├── OutOfDomainError  an image of a kind that the model was not trained on
    │   │   └── MissingImageError an image file that does not exist
    │   ├── ModelNotFoundError    an unknown model, detector or part id
    │   ├── WeightsError          a weights folder that is damaged or of the wrong kind
    │   ├── MissingExtraError     an optional package that is not installed
    │   ├── OutputError           a folder or disk that cannot be written
    │   └── BusyError             the queue is full; try again later
    └── ModelError                a model failed; the loop records it on the attempt and continues
        ├── UnreadableOutputError model text that could not be parsed (never treated as "no flaws")
        ├── OversizeError         images that are too large for the server of a model
        ├── BadImageError         a generator or inpainter returned something that is not a usable image
        └── BadAnswerError        a detector or judge returned something unusable, such as None, NaN or a wrong box

A message is one sentence that says what is wrong with what, and what to do. Any other exception is a bug.
"""


class RefinerWarning(UserWarning):
    """Something is missing from a result, such as an image that could not be generated; the rest is complete."""


class RefinerError(Exception):
    """Base class of all exceptions of refiner. Its text is one line: letters that cannot be printed are escaped."""

    def __str__(self) -> str:
        text = super().__str__()
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class UserError(RefinerError):
    """An error that the user can fix."""


class ConfigError(UserError, ValueError):
    """An argument or setting out of its range."""


class InputError(UserError, ValueError):
    """A prompt, image or file that cannot be used."""


class OutOfDomainError(InputError):
    """An image of a kind that the model was not trained on."""


class MissingImageError(InputError):
    """An image file that does not exist."""


class ModelNotFoundError(UserError, LookupError):
    """An unknown model, detector or part id."""


class WeightsError(UserError):
    """A weights folder that is damaged, incomplete, or of the wrong kind."""


class MissingExtraError(UserError, ImportError):
    """An optional package that is not installed."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the package {package!r}, which is not installed: run pip install '.[{extra}]' in the "
            "checkout of refiner."
        )


class OutputError(UserError, OSError):
    """A folder or disk that cannot be written."""


class BusyError(UserError):
    """The queue is full; try again later."""


class ModelError(RefinerError):
    """A model failed or returned unusable output; the loop records it on the attempt and continues."""


class UnreadableOutputError(ModelError):
    """Model text that could not be parsed (never treated as "no flaws"). ``raw`` holds this text, unchanged."""

    def __init__(self, message: str, raw: str) -> None:
        super().__init__(message)
        self.raw = raw


class OversizeError(ModelError):
    """The images of a request are too large for the server of a model; smaller ones may do."""


class BadImageError(ModelError):
    """A generator or inpainter returned something that is not a usable image."""


class BadAnswerError(ModelError):
    """A detector or judge returned something unusable, such as None, NaN, or a box outside the image.

    ``Region`` and ``Analysis`` raise it, whoever makes them.
    """


def is_user_error(kind: str) -> bool:
    """Whether the user can fix an error, by the name of its class; unknown errors are failures of a model."""
    found = globals().get(kind)
    return isinstance(found, type) and issubclass(found, UserError)
