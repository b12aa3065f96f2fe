"""The node's own key, which no state of its disk may keep it from having.

A damaged `node.key` is moved aside and another key made: the hub sees a new key and hands out a new lease. While a key
cannot be written it lives in memory, `problem` says why, and `store` tries again.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from licensing import files, keys
from licensing.ed25519 import PrivateKey
from licensing.errors import KeyFileError

log = logging.getLogger(__name__)


class NodeKey:
    """The key in `path`, or the one that takes its place. `store` may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.problem: str | None = None
        """Why the key is not on disk; `None` when it is."""
        try:
            self._key = keys.load_or_create(path)
        except KeyFileError as error:
            log.error("%s. This node goes on with a new key; its hub hands out a new lease", error)
            self._key = PrivateKey.generate()
            self.problem = str(error)
            self._try_at_once()

    @property
    def hex(self) -> str:
        """The public half, 64 hex digits."""
        return keys.public_hex(self._key)

    @property
    def private(self) -> PrivateKey:
        """The key itself."""
        return self._key

    def store(self) -> None:
        """Write a key that is not on disk yet; what is damaged there is moved aside.

        Raises:
            OSError: it still cannot be written.
        """
        with self._lock:
            if self.problem is None:
                return
            if os.path.lexists(self._path):
                log.error("the damaged key is kept as %s", files.set_aside(self._path))
            keys.store_new(self._path, self._key)
            self.problem = None
        log.warning("%s is a new key: %s", self._path, self.hex)

    def renew(self) -> None:
        """Another key takes its place, because another machine has this one too; it is kept beside it.

        Raises:
            OSError: it cannot be written; the key stays.
        """
        with self._lock:
            new = PrivateKey.generate()
            kept = files.set_aside(self._path) if os.path.lexists(self._path) else None
            try:
                keys.store_new(self._path, new)
            except OSError:
                if kept is not None:
                    kept.replace(self._path)
                raise
            self._key, self.problem = new, None
        log.warning("%s is a new key: %s; the one before it is kept as %s", self._path, self.hex, kept)

    def _try_at_once(self) -> None:
        try:
            self.store()
        except OSError as error:
            self.problem = f"cannot write {self._path}: {error.strerror or error}"
            log.error("%s; no lease can be kept before that is mended", self.problem)
