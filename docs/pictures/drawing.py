"""A small SVG canvas with the colours of a light and a dark page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from html import escape

import numpy as np
import numpy.typing as npt
from PIL import Image

FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"


@dataclass(frozen=True)
class Palette:
    """Colours of one theme, as CSS has them."""

    name: str
    ink: str
    muted: str
    line: str
    fill: str
    strong: str  # behind what matters
    accent: str  # frames, bars, arrows


LIGHT = Palette("light", "#1b1f24", "#57606a", "#c3ccd6", "#f3f6fa", "#dbe7ff", "#1f5fd6")
DARK = Palette("dark", "#e4e8ee", "#a5b0bd", "#4a5464", "#1d232c", "#24406f", "#7aa9ff")


@dataclass
class Drawing:
    """Shapes in the order in which they were drawn."""

    palette: Palette
    width: float
    height: float
    title: str
    parts: list[str] = field(default_factory=list)

    def svg(self) -> str:
        """The picture as a file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'width="{self.width:g}" height="{self.height:g}" role="img" font-family="{FONT}">'
        )
        marker = (
            f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0L8 4L0 8z" fill="{self.palette.accent}"/></marker></defs>'
        )
        return "\n".join([head, f"<title>{escape(self.title)}</title>", marker, *self.parts, "</svg>", ""])

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 14,
        anchor: str = "start",
        bold: bool = False,
        muted: bool = False,
    ) -> None:
        """One line; ``y`` is its base line."""
        colour = self.palette.muted if muted else self.palette.ink
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" fill="{colour}"{weight}>{escape(text)}</text>'
        )

    def box(
        self, x: float, y: float, width: float, height: float, title: str, note: str, *, strong: bool = False
    ) -> None:
        """A box with a title and a note below it, centred."""
        self.cell(x, y, width, height, strong=strong)
        lines = [(line, True) for line in title.split("\n")] + [(line, False) for line in note.split("\n")]
        step = 17
        first = y + height / 2 - (len(lines) - 1) * step / 2 + 5
        for at, (line, bold) in enumerate(lines):
            self.text(
                x + width / 2,
                first + at * step,
                line,
                size=14 if bold else 12.5,
                anchor="middle",
                bold=bold,
                muted=not bold,
            )

    def cell(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        strong: bool = False,
        text: str = "",
        small: bool = False,
    ) -> None:
        """A rectangle, with a word in it."""
        fill = self.palette.strong if strong else self.palette.fill
        line = self.palette.accent if strong else self.palette.line
        self.parts.append(
            f'<rect x="{x + 0.5:g}" y="{y + 0.5:g}" width="{width - 1:g}" height="{height - 1:g}" rx="4" '
            f'fill="{fill}" stroke="{line}"/>'
        )
        if text:
            size = 10.5 if small else 12
            self.text(x + width / 2, y + height / 2 + size / 3, text, size=size, anchor="middle", muted=not strong)

    def arrow(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """A line with a tip at its end."""
        self.parts.append(
            f'<line x1="{x0:g}" y1="{y0:g}" x2="{x1:g}" y2="{y1:g}" stroke="{self.palette.accent}" stroke-width="2" '
            f'marker-end="url(#tip)"/>'
        )

    def mark(self, x: float, y0: float, y1: float) -> None:
        """A broken line downwards, between what was done and what was not."""
        self.parts.append(
            f'<line x1="{x:g}" y1="{y0:g}" x2="{x:g}" y2="{y1:g}" stroke="{self.palette.accent}" stroke-width="2" '
            f'stroke-dasharray="5 4"/>'
        )

    def fan(self, a0: float, a1: float, ya: float, b0: float, b1: float, yb: float) -> None:
        """Two lines, from a part to what it is when it is opened."""
        for a, b in ((a0, b0), (a1, b1)):
            self.parts.append(f'<line x1="{a:g}" y1="{ya:g}" x2="{b:g}" y2="{yb:g}" stroke="{self.palette.line}"/>')

    def bar(self, x: float, y: float, width: float, height: float) -> None:
        """A filled bar."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{max(width, 1):g}" height="{height:g}" rx="2" fill="{self.palette.accent}"/>'
        )

    def frame(self, x: float, y: float, width: float, height: float) -> None:
        """An outline that shows on any photo."""
        shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="none"'
        self.parts += [f'{shape} stroke="#000" stroke-width="5"/>', f'{shape} stroke="#ffd400" stroke-width="3"/>']

    def tile(self, x: float, y: float, width: float, height: float, *, needed: bool) -> None:
        """A tile of a photo: bright where it is needed."""
        veil = "none" if needed else "#0b1220"
        self.parts.append(
            f'<rect x="{x:.4g}" y="{y:.4g}" width="{width:.4g}" height="{height:.4g}" fill="{veil}" fill-opacity="0.5" '
            f'stroke="#fff" stroke-opacity="0.45" stroke-width="0.7"/>'
        )

    def image(self, x: float, y: float, width: float, height: float, jpeg: bytes) -> None:
        """A JPEG file."""
        data = base64.b64encode(jpeg).decode()
        self.parts.append(
            f'<image x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" href="data:image/jpeg;base64,{data}"/>'
        )

    def picture(self, x: float, y: float, edge: float, pixels: npt.NDArray[np.uint8], caption: str) -> None:
        """Square pixels with a caption above them."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
        self.text(x, y - 8, caption)
        self.image(x, y, edge, edge, buffer.getvalue())
