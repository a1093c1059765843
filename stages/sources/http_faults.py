"""Why an object could not be had from a server: one line each, without addresses, names or times."""

import ssl
from http import HTTPStatus

import httpcore2

_STALLED = "the host stopped answering"
_BROKEN = "the answer breaks off, or is not HTTP"
_OF_ANOTHER_HOST = 62  # X509_V_ERR_HOSTNAME_MISMATCH, whose message holds the name


class Fault(Exception):
    """`passing`: another attempt may fare better, `after_s` seconds from now as the server says.
    `unanswered`: there was no connection, or nothing came: its other objects may find the host alike.
    """

    def __init__(
        self, reason: str, *, passing: bool = False, unanswered: bool = False, after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.passing, self.unanswered, self.after_s = passing, unanswered, after_s


def fault_of(error: Exception, answered: bool) -> Fault:
    """What an error of httpcore2 says. `answered`: it came after the head of an answer."""
    match error:
        case httpcore2.ConnectTimeout():
            return Fault("the host cannot be reached in time", passing=True, unanswered=True)
        case httpcore2.ConnectError(args=[ssl.SSLError() as refused]):
            return Fault(_tls_reason(refused), unanswered=True)
        case httpcore2.ConnectError(args=[OSError() as refused]):
            return Fault(_connect_reason(refused), passing=True, unanswered=True)
        case httpcore2.TimeoutException():
            return Fault(_STALLED, passing=True, unanswered=not answered)
        case httpcore2.LocalProtocolError():
            return Fault("no request can be made of the URL")
    return Fault(_BROKEN, passing=True)


def status_reason(status: int) -> str:
    try:
        phrase = f" {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = ""
    return f"the server answers {status}{phrase}"


def _tls_reason(error: ssl.SSLError) -> str:
    if not isinstance(error, ssl.SSLCertVerificationError):
        return "the host speaks no TLS that is accepted here"
    why = "made for another host" if error.verify_code == _OF_ANOTHER_HOST else error.verify_message
    return f"the certificate of the host is not accepted: {why}"


def _connect_reason(error: OSError) -> str:
    refused: BaseException | None = error
    while refused is not None:
        if isinstance(refused, ConnectionRefusedError):
            return "the host refuses connections"
        refused = refused.__cause__
    return "the host cannot be reached"
