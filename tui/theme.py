"""The two themes of the screen, dark and light, made of `palette`."""

from __future__ import annotations

from textual.theme import Theme

from tui import palette

_OWN = ("dim", "track", "load", "memory", "frame")
"""Colours that Textual's own styles do not know."""


def _theme(name: str, colours: palette.Palette, *, dark: bool) -> Theme:
    return Theme(
        name=name,
        dark=dark,
        primary=colours["primary"],
        secondary=colours["secondary"],
        accent=colours["accent"],
        success=colours["success"],
        warning=colours["warning"],
        error=colours["error"],
        foreground=colours["foreground"],
        background=colours["background"],
        surface=colours["surface"],
        panel=colours["panel"],
        variables={role: colours[role] for role in _OWN},
    )


DARK = _theme("stoker-dark", palette.DARK, dark=True)
LIGHT = _theme("stoker-light", palette.LIGHT, dark=False)
THEMES = {"dark": DARK, "light": LIGHT}
