"""The words of metering on the wire: a node's ledger as the hub fetches it, and the sums that people look at.

GPU time is counted in whole thousandths of GPU-seconds (`gpu_ms`): a whole GPU makes 1000 of them a second.
"""

from __future__ import annotations

from agent.api.words import Wire, Word

DAY_S = 86_400
SHARE_WHOLE = 1000
"""What a whole GPU is counted as; a part of one is counted as its whole-number share of that."""


class UsageHead(Wire, frozen=True, kw_only=True):
    """How far a node's ledger has come. It goes to the hub with each lease, with zeros from a node that did nothing."""

    chain: str
    """Names the ledger; a node whose store was lost or went back in time begins another one."""
    seq: int = 0
    """Number of the last row, from 1; 0 where there is none."""
    head: str = ""
    """SHA-256 of the head before it and the row, in hex."""
    gpu_ms: int = 0
    """Sum of all rows of this chain."""
    open_gpu_ms: int = 0
    """What is counted of jobs that run, and is in no row yet."""


class UsageRows(Wire, frozen=True, kw_only=True):
    """What `GET /v1/usage/rows` answers: the rows of one chain after a number, in order."""

    heads: tuple[UsageHead, ...]
    """All chains of this node, the oldest first."""
    chain: str
    first: int = 0
    """Number of the first row below."""
    before: str = ""
    """The head before it; where no row follows, the head at the number that was asked for, empty if there is none."""
    rows: tuple[str, ...] = ()
    """Each as it was hashed: a JSON array of node, number, job, GPU, model, share, start and end."""
    admins: tuple[str, ...] = ()
    """Accounts that used an admin verb at the node's own agent within a day: the hub counts them."""
    admins_ago_s: tuple[int, ...] = ()
    """How many seconds ago each of them last did; empty from an agent that does not tell."""


class UsageBy(Word):
    """What GPU time is summed by."""

    USER = "user"
    ACCOUNT = "account"
    MODEL = "model"


class UsageSum(Wire, frozen=True, kw_only=True):
    """GPU time of one user, account or model."""

    name: str
    """Empty for jobs without an account."""
    gpu_ms: int
    jobs: int
    """Jobs that were on a GPU in that time; one that ran on two models is counted with both."""


class UsageMonth(Wire, frozen=True, kw_only=True):
    """What `GET /v1/usage` answers. Days and months are UTC's."""

    month: str
    """`2026-11`."""
    by: UsageBy
    sums: tuple[UsageSum, ...] = ()
    """The most GPU time first."""
    nodes: tuple[str, ...] = ()
    """Nodes that are counted in."""
    silent: tuple[str, ...] = ()
    """Nodes that did not answer, and are not."""


class UsageExport(Wire, frozen=True, kw_only=True):
    """What `POST /v1/usage/export` takes."""

    month: str | None = None
    """`None`: the last whole month."""
    rows: bool = False


class UsageFile(Wire, frozen=True, kw_only=True):
    """What it answers: the text of a signed report."""

    name: str
    text: str
