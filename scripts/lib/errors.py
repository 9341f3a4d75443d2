"""The one exception that means: the person at the keyboard can fix this. It repeats no password."""

import re

_SECRETS = (
    re.compile(r"(?<=://)[^/@\s]*:[^@\s]*(?=@)"),  # user:password@host, whatever the password holds
    re.compile(r"(?<=http://|ttps://)[^/@\s]+(?=@)"),
    re.compile(r"(?<=[?&])([^=&\s]*(?:key|secret|token|sig|pass|cred|auth)[^=&\s]*=)[^&\s'\")]+", re.IGNORECASE),
)
"""What of a URL is a secret: user and password, a token as the user, a query parameter of a telling name."""


def redacted(text: str) -> str:
    """Return a text with what is secret in its URLs replaced by `***`."""
    for secret in _SECRETS:
        text = secret.sub(lambda found: f"{found[1] if found.re.groups else ''}***", text)
    return text


def without_credentials(url: str, key: str) -> str:
    """Return a URL that holds no secret. Raises UserError naming `key`, and not the secret, for one that does."""
    if redacted(url) != url:
        raise UserError(
            f"{key} holds a password or a key in its URL, and configurations are printed and filed; take it out, and set "
            "SNAKEMAKE_STORAGE_S3_EXPERIMENT_ACCESS_KEY and _SECRET_KEY, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        )
    return url


class UserError(Exception):
    """Bad input. The message is one line that names the key, the value and the cure; it is shown without a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))
