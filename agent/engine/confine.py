"""Hiding the other GPUs from a job: its own mount namespace, in which their device nodes are covered.

    unshare(CLONE_NEWNS) ─► mount --make-rslave / ─► bind a mode-000 file over each /dev/nvidiaN of another GPU and
                                                     each /dev/nvidia-caps/nvidia-capN of another MIG instance

Called in the job's child between fork and setuid, while it is root. The covering file is root's with mode 000, so
nobody but root can open it. An ordinary user can undo none of it: a user namespace of its own inherits these mounts
locked (mount_namespaces(7)), a bind of /dev without what is mounted in it is refused for the same reason, and mknod(2)
needs rights in the first user namespace.

Not covered: the nodes that all GPUs share by nature (nvidiactl, nvidia-uvm, nvidia-modeset: no CUDA program starts
without them), a node that is made only later (an instance created while the job runs, or one whose nodes nobody has
had made yet: nvidia-modprobe is setuid and makes them for anyone),
what /proc/driver/nvidia tells, and processes that the user has outside the job: who may log in on the node sees all
of /dev there. A driver that makes its device nodes anew takes the covers away.

Slave and not private: what the host mounts later, an automounted home for one, still appears. Nothing goes back.
Cheap imports only (see `lean`); `ctypes` would cost 4 ms.
"""

from __future__ import annotations

import os

_CLONE_NEWNS = 0x20000
_MS_BIND = 4096
_MS_REC = 16384
_MS_SLAVE = 1 << 19

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def make_cover(dir_fd: int) -> None:
    """Make the file `cover` in the attempt's folder: empty, and nobody's to open.

    Raises:
        OSError: the disk refuses.
    """
    fd = os.open("cover", os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0, dir_fd=dir_fd)
    os.fchmod(fd, 0)
    os.close(fd)


def hide(paths: list[str], cover: str) -> None:
    """Give this process a mount namespace of its own in which nobody but root can open any of `paths`.

    A path that does not exist is nothing to hide.

    Args:
        paths: device nodes, in root's folders: nobody else can have planted a link there.
        cover: path of the file that `make_cover` made. Not a descriptor: it would be of the namespace that was left.

    Raises:
        OSError: the kernel refuses; the process may be in a namespace of its own already.
    """
    unshare, mount = _calls()
    unshare(_CLONE_NEWNS)
    mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None)
    for path in paths:
        if os.path.lexists(path):
            mount(os.fsencode(cover), os.fsencode(path), None, _MS_BIND, None)


def _calls() -> tuple[Callable[..., None], Callable[..., None]]:
    """unshare(2) and mount(2) of this process's libc, which raise."""
    try:
        library = _Library()
    except ImportError:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        return _raising(libc.unshare, ctypes.get_errno), _raising(libc.mount, ctypes.get_errno)
    return _raising(library.find("unshare"), library.errno), _raising(library.find("mount"), library.errno)


class _Library:
    """What `ctypes.CDLL(None, use_errno=True)` is, without its import."""

    def __init__(self) -> None:
        import _ctypes

        class Int(_ctypes._SimpleCData):  # type: ignore[type-arg]
            _type_ = "i"

        class Function(_ctypes.CFuncPtr):
            _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
            _restype_ = Int

        self._function = Function
        self._handle = _ctypes.dlopen(None, 2)  # type: ignore[arg-type]  # None is this process, as dlopen(3) has it
        self._dlsym = _ctypes.dlsym
        self.errno: Callable[[], int] = _ctypes.get_errno

    def find(self, name: str) -> Callable[..., int]:
        """A function that returns an int."""
        return self._function(self._dlsym(self._handle, name))


def _raising(function: Callable[..., int], errno: Callable[[], int]) -> Callable[..., None]:
    def call(*arguments: object) -> None:
        if function(*arguments):
            number = errno()
            raise OSError(number, os.strerror(number))

    return call
