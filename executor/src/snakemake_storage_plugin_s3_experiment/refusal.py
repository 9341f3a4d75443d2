"""Errors of a bucket in one line with the cure, divided into transient and final ones."""

from collections.abc import Iterator
from contextlib import contextmanager

from boto3.exceptions import RetriesExceededError, S3UploadFailedError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
)
from snakemake_interface_common.exceptions import WorkflowError

KEYS = "SNAKEMAKE_STORAGE_S3_EXPERIMENT_ACCESS_KEY and _SECRET_KEY"
UNKNOWN = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
BUSY = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "TooManyRequests"}
WRITES = {"PutObject", "DeleteObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"}


class AwayError(Exception):
    """No answer, or a transient error."""


@contextmanager
def judging(bucket: str, endpoint: str | None) -> Iterator[None]:
    """Turn every error of boto3 into an AwayError or a WorkflowError, in one line that names the bucket."""
    where = f"bucket {bucket} at {endpoint}" if endpoint else f"bucket {bucket}"
    try:
        yield
    except SSLError as error:
        raise WorkflowError(f"{where}: {error}; correct the endpoint or the certificates of this machine") from None
    except (ConnectionError, HTTPClientError, IncompleteReadError, RetriesExceededError) as error:
        raise AwayError(f"{where} does not answer ({type(error).__name__})") from None
    except (NoCredentialsError, PartialCredentialsError):
        raise WorkflowError(f"{where}: no credentials; set {KEYS}") from None
    except (ClientError, S3UploadFailedError) as error:
        refusal = error if isinstance(error, ClientError) else error.__context__
        if not isinstance(refusal, ClientError):
            raise WorkflowError(f"{where}: {error}") from None
        raise _judge(where, refusal) from None
    except BotoCoreError as error:
        raise WorkflowError(f"{where}: {error}") from None


def _judge(where: str, error: ClientError) -> Exception:
    code, operation = error.response["Error"]["Code"], error.operation_name
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status >= 500 or status == 429 or code in BUSY:
        return AwayError(f"{where} answers {code} to {operation}")
    if code == "NoSuchBucket" or (operation == "HeadBucket" and status == 404):
        return WorkflowError(f"{where} does not exist; create it, or correct --default-storage-prefix")
    if code in UNKNOWN:
        return WorkflowError(f"{where}: credentials not accepted ({code}); correct {KEYS}")
    if status == 403:
        lacks, permission = ("written", "put and delete") if operation in WRITES else ("read", "list and get")
        return WorkflowError(f"{where} cannot be {lacks} ({code}); let its user {permission} objects, or correct {KEYS}")
    return WorkflowError(f"{where}: {' '.join(str(error).split())}")
