"""From the key table to Textual's bindings."""

from __future__ import annotations

from textual.binding import Binding, BindingType

from tui.keymap import Scope, keys_of


def bindings(*scopes: Scope) -> list[BindingType]:
    """The bindings of some scopes. Those that work everywhere are the application's actions."""
    return [
        Binding(key.keys, f"app.{key.action}" if key.scope is Scope.APP else key.action, key.label, show=key.footer)
        for key in keys_of(*scopes)
    ]
