"""Files by URL, through fsspec: one connection a bucket, bounded waits, errors of one line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

READ_ONLY = ("http", "https")
EXTRA = "pip install 'repalign[cloud]'"


class PlaceError(OSError):
    """A zip that is none, or an object store that does not answer: the store may be whole."""


def call(url: str, method: str, *args: Any, **options: Any) -> Any:
    """Call a method of the file system of a URL (or local path) on it.

    Raises:
        PlaceError: no bucket, no permission, no credentials, no answer.
        FileNotFoundError: there is no such file.
        ImportError: the package for such URLs is not installed.
    """
    with explained(url):
        return getattr(connect(url), method)(path_of(url), *args, **options)


def path_of(url: str) -> str:
    """The path of a URL as its file system names it."""
    return str(connect(url)._strip_protocol(url))


def read_range(url: str, start: int, stop: int | None) -> bytes:
    """The bytes of a file from ``start`` to ``stop``, all of which must be there."""
    if stop is not None and stop <= start:
        return b""
    content: bytes = call(url, "cat_file", start=start, end=stop)
    if stop is not None and len(content) != stop - start:
        raise PlaceError(
            f"{url} gave {len(content)} bytes where {stop - start} were asked for; it is cut off,"
            " or its server does not support range requests"
        )
    return content


def write_whole(url: str, content: bytes | Path) -> None:
    """Put bytes or a local file at a URL; readers of an object store see it when it is whole."""
    if url.startswith(READ_ONLY):
        raise PlaceError(f"{url}: web servers are only read from; write to s3:// or such")
    if isinstance(content, bytes):
        call(url, "pipe_file", content)
    else:
        with explained(url):
            connect(url).put_file(str(content), path_of(url))


def connect(url: str) -> Any:
    """The file system of a URL, or the local one."""
    protocol, found, rest = url.partition("://")
    root = f"{protocol}://{rest.partition('/')[0]}" if found else "file:///"
    return _filesystem(root, os.getpid())


@lru_cache(maxsize=64)
def _filesystem(root: str, process: int) -> Any:
    """The file system of a bucket or server; connections do not survive a fork."""
    import fsspec

    protocol = root.partition("://")[0]
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        extra = f" ({EXTRA})" if protocol in BOUNDED else ""
        raise ImportError(f"{protocol}:// needs a package: {error}{extra}") from error
    except ValueError as error:
        raise PlaceError(f"{root}: {error}; expected s3://, gs://, az:// or https://") from error
    options = BOUNDED[protocol]() if protocol in BOUNDED else {}
    given = fsspec.config.conf.get(protocol, {})  # the user's own settings come first
    options = {key: value for key, value in options.items() if key not in given}
    filesystem, _ = fsspec.url_to_fs(
        root, skip_instance_cache=True, use_listings_cache=False, **options
    )
    if hasattr(kind, "retries"):
        filesystem.retries = 3
    return filesystem


def _bounded_s3() -> dict[str, Any]:
    """Limits under which no request hangs for minutes."""
    retries = {"mode": "standard", "max_attempts": 2}
    return {"config_kwargs": {"connect_timeout": 5, "read_timeout": 60, "retries": retries}}


BOUNDED: Mapping[str, Callable[[], dict[str, Any]]] = {"s3": _bounded_s3, "s3a": _bounded_s3}


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Errors of many packages as one line that says what to do."""
    try:
        yield
    except (PlaceError, ImportError):
        raise
    except FileNotFoundError as error:
        if "bucket does not exist" in str(error):
            raise PlaceError(
                f"{url}: there is no such bucket; make it, or mend the name"
            ) from error
        raise
    except Exception as error:  # fsspec's packages raise many types
        kind, text = type(error).__name__, " ".join(str(error).split())
        if isinstance(error, PermissionError) or getattr(error, "status", 0) in (401, 403):
            reason = f"access is denied ({text}); check the credentials and the bucket's policy"
        elif kind in ("NoCredentialsError", "PartialCredentialsError"):
            reason = (
                "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or"
                " AWS_PROFILE, or for a public bucket FSSPEC_S3_ANON=true"
            )
        elif "Connect" in kind or isinstance(error, TimeoutError):
            reason = f"the server does not answer ({text}); check the network and AWS_ENDPOINT_URL"
        else:
            reason = f"{kind}: {text}"
        raise PlaceError(f"{url}: {reason}") from error
