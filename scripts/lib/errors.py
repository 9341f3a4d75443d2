"""The exception for errors that the user can fix. Its message holds no secrets."""

import re

_SECRETS = (
    re.compile(r"(?<=://)[^/@\s]*:[^@\s]*(?=@)"),  # user:password@host, with any characters in the password
    re.compile(r"(?<=http://|ttps://)[^/@\s]+(?=@)"),
    re.compile(r"(?<=[?&])([^=&\s]*(?:key|secret|token|sig|pass|cred|auth)[^=&\s]*=)[^&\s'\")]+", re.IGNORECASE),
)
"""Secrets in a URL: user and password, a token as the user, a query parameter with a suspicious name."""


def redacted(text: str) -> str:
    """Return a text with the secrets in its URLs replaced by `***`."""
    for secret in _SECRETS:
        text = secret.sub(lambda found: f"{found[1] if found.re.groups else ''}***", text)
    return text


def without_credentials(url: str, key: str) -> str:
    """Return the URL if it holds no secret. Otherwise raises UserError, which names `key` but not the secret."""
    if redacted(url) != url:
        raise UserError(
            f"{key} holds a password or a key in its URL, and configurations are printed and stored; remove it, and set "
            "SNAKEMAKE_STORAGE_S3_EXPERIMENT_ACCESS_KEY and _SECRET_KEY, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        )
    return url


class UserError(Exception):
    """Bad input. The message is one line with the key, the value and the cure. It is shown without a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))
