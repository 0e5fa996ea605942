"""What a long loop tells those who watch it."""

from typing import Protocol


class Progress(Protocol):
    """Watches a loop; nothing that it does changes a result."""

    def note(self, line: str) -> None:
        """A line that the user should read."""

    def begin_all(self, what: str, steps: int) -> None:
        """A run of several stages begins, that many steps in all."""

    def advance_all(self, steps: float) -> None:
        """Steps of the run are done."""

    def begin(self, what: str, steps: int) -> None:
        """A stage of that many steps begins; it ends the stage before it."""

    def advance(self, what: str, steps: int = 1, *, passing: bool = False) -> None:
        """Steps of the stage are done; `what` names what they finished; if it is `passing`, a log may leave it out."""


class Silent:
    """Watches nothing."""

    def note(self, line: str) -> None:
        """Ignore it."""

    def begin_all(self, what: str, steps: int) -> None:
        """Ignore it."""

    def advance_all(self, steps: float) -> None:
        """Ignore it."""

    def begin(self, what: str, steps: int) -> None:
        """Ignore it."""

    def advance(self, what: str, steps: int = 1, *, passing: bool = False) -> None:
        """Ignore it."""
