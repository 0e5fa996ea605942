"""A progress that remembers what users are told."""

from nmtprune.progress import Silent


class Notes(Silent):
    """Remembers notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        """Remember it."""
        self.lines.append(line)
