"""A finished figure, in both forms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FigureFile:
    """One figure.

    Attributes:
        name: As sections refer to it.
        alt: What it shows, for those who cannot see it; carries the main numbers.
        caption: What to look for; inline markup.
        png: On white, for Markdown.
        svg: An `<svg>` element for HTML whose colours are CSS variables, so that it follows light and dark.
    """

    name: str
    alt: str
    caption: str
    png: bytes
    svg: str

    @property
    def file_name(self) -> str:
        """Of the PNG, beside the Markdown."""
        return f"{self.name}.png"
