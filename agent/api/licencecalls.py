"""What the client asks about the licence: its seats, a node's lease, and the usage that is paid for."""

from __future__ import annotations

from agent.api.call import Caller, root, with_query
from agent.api.types import (
    ActivateRequest,
    LeaseGrant,
    LeaseRefusal,
    LeaseReply,
    Licence,
    LicenceAsk,
    LicenceEvent,
    LicenceFile,
    LicenceOrder,
    LicenceRelease,
    NodeIdentity,
)
from agent.api.usage import UsageExport, UsageFile, UsageMonth, UsageRows


class LicenceCalls(Caller):
    """Verbs about the licence, leases and usage."""

    def licence(self) -> Licence:
        """The licence as the server sees it."""
        return self._get("/v1/licence", Licence)

    def licence_history(self, limit: int | None = None) -> list[LicenceEvent]:
        """What was done with the licence and its seats, newest first; on the hub."""
        return self._get(with_query("/v1/licence/history", limit=limit), list[LicenceEvent])

    def activate(self, document: str) -> Licence:
        """Install a voucher or licence; for admins, on the hub."""
        return self._ask("POST", "/v1/licence", Licence, ActivateRequest(document=document))

    def licence_request(self, want: str) -> LicenceFile:
        """Make a request to the vendor about the licence; for admins, on the hub."""
        return self._ask("POST", "/v1/licence/request", LicenceFile, LicenceAsk(want=want))

    def licence_release(self, to: str | None = None) -> LicenceFile:
        """Give the licence back, for the site whose request `to` is; for admins, on the hub."""
        return self._ask("POST", "/v1/licence/release", LicenceFile, LicenceRelease(to=to))

    def licence_order(self, order: LicenceOrder) -> Licence:
        """Order something about seats; for admins, on the hub."""
        return self._ask("POST", "/v1/licence/order", Licence, order)

    def lease(self) -> LeaseReply:
        """The lease a node holds."""
        return self._get("/v1/lease", LeaseReply)

    def give_back_lease(self) -> LeaseGrant:
        """Have a node give its lease back; its word for it. For the hub."""
        return self._ask("DELETE", "/v1/lease", LeaseGrant)

    def put_lease(self, token: str) -> LeaseReply:
        """Hand a node its lease; for the hub."""
        return self._ask("PUT", "/v1/lease", LeaseReply, LeaseGrant(token=token), repeatable=True)

    def refuse_lease(self, refusal: LeaseRefusal) -> LeaseReply:
        """Tell a node why it gets no further lease; for the hub."""
        return self._ask("PUT", "/v1/lease/refusal", LeaseReply, refusal, repeatable=True)

    def renew_identity(self) -> NodeIdentity:
        """Have a node make itself another key, and drop the lease that was made out to the old one. For the hub."""
        return self._ask("POST", "/v1/lease/identity", NodeIdentity)

    def usage(self, month: str | None = None, by: str | None = None, node: str | None = None) -> UsageMonth:
        """`GET /v1/usage`: GPU time of a month (`2026-11`, UTC) by `user`, `account` or `model`."""
        return self._get(f"{root(node)}{with_query('/usage', month=month, by=by)}", UsageMonth)

    def usage_rows(self, chain: str = "", after: int = 0) -> UsageRows:
        """`GET /v1/usage/rows`: rows of a node's ledger; for the hub."""
        return self._get(with_query("/v1/usage/rows", chain=chain, after=after), UsageRows)

    def export_usage(self, month: str | None = None, *, rows: bool = False) -> UsageFile:
        """`POST /v1/usage/export`: a month closed and signed; asked again, the same. For admins, on the hub."""
        asked = UsageExport(month=month, rows=rows)
        return self._ask("POST", "/v1/usage/export", UsageFile, asked, repeatable=True)
