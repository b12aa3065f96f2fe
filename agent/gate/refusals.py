"""Licensing knows nobody: its errors become answers of the API, and a client's become licensing's again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agent.api.errors import ApiError, StokerError
from agent.config import ConfigError
from licensing.errors import (
    ConfigurationError,
    HubError,
    LicenceError,
    OtherSiteError,
    ReplayError,
    StoreError,
    from_code,
)


@contextmanager
def as_licence_errors() -> Iterator[None]:
    """What a client of the hub raises, as `stoker-license` understands it: its exit codes follow from the error's code.

    Raises:
        LicenceError: the hub's refusal made again, or `HubError` when no answer came.
    """
    try:
        yield
    except ApiError as error:
        raise from_code(error.code, error.message) from error
    except ConfigError as error:
        raise ConfigurationError(str(error)) from error
    except StokerError as error:
        raise HubError(str(error)) from error


@contextmanager
def translated() -> Iterator[None]:
    """What licensing raises, as the API answers it.

    Raises:
        ApiError: it refused.
    """
    try:
        yield
    except LicenceError as error:
        raise as_api_error(error) from error


def as_api_error(error: LicenceError) -> ApiError:
    """The answer that a refusal is."""
    return ApiError(_http_status(error), error.code, error.message)


def _http_status(error: LicenceError) -> int:
    if isinstance(error, StoreError):
        return 503
    return 409 if isinstance(error, OtherSiteError | ReplayError) else 422
