"""Every exception that refiner raises on purpose.

::

    RefinerError
    ├── UserError                 the caller can mend it; the CLI prints the message and exits with 2
    │   ├── ConfigError           an argument or setting out of its range
    │   ├── InputError            a prompt, image or file that cannot be used
    │   │   ├── OutOfDomainError  an image from outside the world a model was trained on
    │   │   └── MissingImageError an image file that is not there
    │   ├── ModelNotFoundError    an unknown model, detector or part id
    │   ├── WeightsError          a weights folder that is damaged or of another kind
    │   ├── MissingExtraError     an optional package that is not installed
    │   ├── OutputError           a folder or disk that cannot be written
    │   └── BusyError             no room to wait: to be tried again
    └── ModelError                a model misbehaved; the loop records it on the attempt and goes on
        ├── UnreadableOutputError model text that could not be parsed (never to be taken for "clean")
        ├── BadImageError         a generator or inpainter returned something that is not a usable image
        └── BadAnswerError        a detector's numbers, boxes or masks are out of their range, such as NaN

Messages are one sentence that says what was expected, what came, and what to do. Anything else that is raised is a bug.
"""


class RefinerError(Exception):
    """Root of the tree."""


class UserError(RefinerError):
    """The caller can mend it."""


class ConfigError(UserError, ValueError):
    """An argument or setting out of its range."""


class InputError(UserError, ValueError):
    """A prompt, image or file that cannot be used."""


class OutOfDomainError(InputError):
    """An image from outside the world that a model was trained on."""


class MissingImageError(InputError):
    """An image file that is not there."""


class ModelNotFoundError(UserError, LookupError):
    """An unknown model, detector or part id."""


class WeightsError(UserError):
    """A weights folder that is damaged, incomplete, or of another kind than expected."""


class MissingExtraError(UserError, ImportError):
    """An optional package that is not installed."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the package {package!r}, which is not installed: run pip install 'refiner[{extra}]'."
        )


class OutputError(UserError, OSError):
    """A folder or disk that cannot be written."""


class BusyError(UserError):
    """There is no room to wait: to be tried again."""


class ModelError(RefinerError):
    """A model misbehaved; the loop records it on the attempt and goes on."""


class UnreadableOutputError(ModelError):
    """Model text that could not be parsed. ``raw`` holds that text, untouched."""

    def __init__(self, message: str, raw: str) -> None:
        super().__init__(message)
        self.raw = raw


class BadImageError(ModelError):
    """A generator or inpainter returned something that is not a usable image."""


class BadAnswerError(ModelError):
    """A detector's numbers, boxes or masks are out of their range, such as NaN.

    ``Region`` and ``Analysis`` raise it, whoever makes them.
    """
