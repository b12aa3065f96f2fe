"""The vendor's half: keys, signing, and the desk that remembers what was issued. Never runs on a node."""

from licensing.vendor.sign import ROOT_NAMES, Signer, end_of_day, issue, make_issuer, make_roots, write_new

__all__ = ["ROOT_NAMES", "Signer", "end_of_day", "issue", "make_issuer", "make_roots", "write_new"]
