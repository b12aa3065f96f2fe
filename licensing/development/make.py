"""Make the DEVELOPMENT roots, issuer and evaluation voucher of this repository. Run once; refuses to overwrite.

    python -m licensing.development.make

Writes here: DEVELOPMENT-root-{current,next,spare}.key, DEVELOPMENT-issuer.key and .cert; and into the package:
roots.json and data/evaluation.voucher. The dates are round and fixed, so that a checkout works for years and on a
machine whose clock is somewhat behind.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from licensing import keys, vendor
from licensing.document import PRODUCT, Issuer, Licence
from licensing.plans import DAY_S, EDITIONS, FEATURES
from licensing.stage import EVALUATION

HERE = Path(__file__).parent
FROM = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp())
TO = int(datetime(2045, 1, 1, tzinfo=UTC).timestamp())
ISSUER = Issuer(
    id="iss-development",
    iat=FROM,
    nbf=FROM,
    exp=TO,
    key="0" * 64,
    name="DEVELOPMENT-issuer",
    products=(PRODUCT,),
    max_seats=100_000,
    max_term_s=TO - FROM,
    features=FEATURES,
)
VOUCHER = Licence(
    id="lic-evaluation",
    iat=FROM,
    nbf=FROM,
    exp=TO,
    customer="Evaluation",
    plan=EVALUATION,
    seats=16,
    edition=EDITIONS[-1].name,
    features=FEATURES,
    term_s=14 * DAY_S,
)


def main() -> None:
    """Write everything."""
    vendor.make_roots("DEVELOPMENT", HERE, development=True)
    (HERE / "DEVELOPMENT-roots.json").rename(HERE.parent / "roots.json")
    cert = vendor.make_issuer(HERE / "DEVELOPMENT-root-current.key", HERE, ISSUER)
    key = keys.load(HERE / "DEVELOPMENT-issuer.key")
    vendor.write_new(HERE.parent / "data" / "evaluation.voucher", vendor.issue(key, cert.read_text(), VOUCHER))
    for path in HERE.glob("*.key"):
        path.chmod(0o644)  # everybody has them anyway, and the tests run as any user


if __name__ == "__main__":
    main()
