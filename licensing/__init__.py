"""Licences, leases and seats: documents, verification, the ledger. Knows nobody."""
