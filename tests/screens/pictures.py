"""Makes the pictures of the documentation: `python -m tests.screens.pictures`. A test says when that is due."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from xml.etree import ElementTree

from tests.fakes.licences import licence_lab
from tests.screens.shots import LICENCE_SHOTS, SHOTS, pictured_lab
from tests.screens.stage import stage

FOLDER = Path(__file__).parents[2] / "docs"
PICTURES: dict[str, tuple[str, tuple[int, int], str]] = {
    "tui-overview.svg": ("overview", (156, 44), "dark"),
    "tui-job.svg": ("search", (110, 32), "light"),
    "tui-licence.svg": ("licence", (110, 36), "dark"),
}
"""File: shot, size in cells, theme."""


def make(name: str) -> str:
    """One picture as SVG."""
    shot, size, theme = PICTURES[name]

    async def run() -> str:
        lab = licence_lab if shot in LICENCE_SHOTS else pictured_lab
        async with stage(lab(), size, theme=theme) as on:
            await (SHOTS | LICENCE_SHOTS)[shot](on)
            return on.app.export_screenshot(title="stoker")

    # Textual's template fetches a font from a public address; the picture is to show without any network.
    svg = re.sub(r"\s*@font-face \{.*?\}", "", asyncio.run(run()), flags=re.DOTALL)
    return svg.replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas")


def words(svg: str) -> list[str]:
    """What a picture says, piece by piece, without how it is drawn."""
    root = ElementTree.fromstring(svg)
    return [
        "".join(each.itertext()).replace("\xa0", " ").rstrip() for each in root.iter() if each.tag.endswith("}text")
    ]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in PICTURES:
        (FOLDER / each).write_text(make(each), encoding="utf-8")
        print(FOLDER / each)
