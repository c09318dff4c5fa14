"""The console that everything for a person goes through."""

from collections.abc import Iterable
from typing import Any

from rich import console
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from alpaca_jax.masking import masked, visible


class Console(console.Console):
    """rich's console, with `visible` and `masked` applied to all that it prints.

    Texts are printed as they are: a path or a value may have brackets and colons, which rich would take for its markup. Colour a text by
    `style`, or by rich's Text.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False} | options)

    def status(self, status: Any, **options: Any) -> Status:
        """A status line with a spinner; rich itself would look for markup in its text."""
        return super().status(Text(status) if isinstance(status, str) else status, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Renders a text as rich does; here a secret is still whole, which wrapping may cut."""
        return super().render_str(masked(visible(text)), **options)

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        shown = (piece if piece.control else Segment(masked(visible(piece.text)), piece.style) for piece in buffer)
        return super()._render_buffer(shown)
