"""The software of a node: it reads GPUs, keeps the queue and runs jobs; on one node it is the hub as well.

The map of the package is in `agent/README.md`. Nothing is wired together here: `agent.__main__` does that.
"""

__version__ = "0.1.0"
