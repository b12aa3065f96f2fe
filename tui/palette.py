"""The colours, dark and light, as hex values: of the screen's themes and of the pages we write. No Textual here.

Every text colour has a contrast of at least 4.5 to the grounds it is drawn on (WCAG 2.2, 1.4.3); a test computes it.
Hex and not names, because Textual's filter for ansi terminals maps names to other colours.
"""

from __future__ import annotations

Palette = dict[str, str]

DARK: Palette = {
    "primary": "#6cb6ff",
    "secondary": "#9fb0c8",
    "accent": "#d6a5ff",
    "success": "#7ee08a",
    "warning": "#f5c15d",
    "error": "#ff8a80",
    "foreground": "#dfe5ee",
    "background": "#10141b",
    "surface": "#161c26",
    "panel": "#26324a",
    "dim": "#93a0b4",
    "track": "#33405a",
    "load": "#56cf86",
    "memory": "#6cb6ff",
    "frame": "#3b4963",
}
LIGHT: Palette = {
    "primary": "#0a58a8",
    "secondary": "#45566e",
    "accent": "#7a2da8",
    "success": "#156b2d",
    "warning": "#7d4e00",
    "error": "#b0201a",
    "foreground": "#1b2330",
    "background": "#fbfbf8",
    "surface": "#f3f4f0",
    "panel": "#d9e4f2",
    "dim": "#56606f",
    "track": "#cdd3da",
    "load": "#1f8a44",
    "memory": "#2472c8",
    "frame": "#a9b3c1",
}
