"""Names, addresses and certificates: where a URL may lead, and where it never does."""

import datetime
import ipaddress
import socket
import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import httpcore2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stages.schemas import Status
from stages.sources.config import HttpRun, Kind, SourceConfig, SourceRun
from stages.sources.http import HttpReader
from stages.sources.http_addresses import is_public
from stages.sources.http_network import Edge
from stages.sources.outcome import Outcome
from tests.stages.sources.misbehaving_server import Server, reply, says

PUBLIC, OTHER = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
RUN = HttpRun(timeout_s=5, connect_timeout_s=2, retries=0)


class Internet:
    """Names that have addresses, each lookup the next of several answers; and public addresses, all of which
    are this machine. Others are not reached. `reached`: the addresses that were connected to.
    """

    def __init__(self, **names: Sequence[Sequence[str]]) -> None:
        self._names = {name.replace("_", "."): list(answers) for name, answers in names.items()}
        self.reached: list[str] = []

    def edge(self, tls: ssl.SSLContext | None = None) -> Edge:
        return Edge(self._resolve, self._connect, tls)

    def _resolve(self, host: str, port: None, type: int) -> Sequence[tuple[Any, ...]]:
        answers = self._names.get(host)
        if answers is None:  # numbers, in all spellings that this machine knows
            return socket.getaddrinfo(host, port, type=type, flags=socket.AI_NUMERICHOST)
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, type, 6, "", (address, 0)) for address in answer]

    async def _connect(
        self,
        address: str,
        port: int,
        timeout: float | None,
        local: str | None,
        options: Iterable[httpcore2.SOCKET_OPTION] | None,
    ) -> httpcore2.AsyncNetworkStream:
        self.reached.append(address)
        if address == OTHER:
            raise httpcore2.ConnectError(OSError("no route"))
        return await httpcore2.AnyIOBackend().connect_tcp("127.0.0.1", port, timeout, local, options)


def _read(url: str, internet: Internet, tls: ssl.SSLContext | None = None) -> Outcome:
    reader = HttpReader(SourceConfig("list.csv", Kind.LIST), SourceRun(http=RUN), internet.edge(tls))
    return reader.read([url])[0]


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.9.9.9", "168.63.129.16"),
        *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1"),
        *("192.168.0.1", "198.18.0.1", "198.51.100.7", "203.0.113.9", "224.0.0.1", "240.0.0.1"),
        *("255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:c0a8:1::1"),
        *("2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "3fff::1", "fc00::1", "fd00:ec2::254"),
        *("fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "100::1", "5f00::1", "4000::1"),
    ],
)
def test_is_public_of_special_addresses_is_false(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
        ),
        *("192.167.0.1", "223.255.255.255", "2606:4700::1111", "2a00:1450:4001::1", "::ffff:1.1.1.1"),
        "64:ff9b::101:101",
    ],
)
def test_is_public_of_addresses_of_the_internet_is_true(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "2130706433", "0x7f.1", "0x7f000001", "017700000001", "127.1", "0", "0.0.0.0"),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]"),
        *(
            "[2002:7f00:1::]",
            "good.example@127.0.0.1",
            "good.example:80@127.0.0.1",
            "127.0.0.1.",
            "169.254.169.254",
        ),
        *("127。0。0。1", "good.example\\@127.0.0.1", "%31%32%37.0.0.1", "[fe80::1%25lo]"),
    ],
)
def test_read_private_address_in_any_spelling_is_missing_and_never_reached(host: str) -> None:
    internet = Internet(good_example=[[PUBLIC]])
    with Server({"it": says(reply(body=b"secret"))}) as server:
        outcome = _read(f"http://{host}:{server.port}/it", internet)
    assert (outcome.data, outcome.status) == (None, Status.MISSING)
    assert internet.reached == []
    assert server.seen.connections == 0


def test_read_name_of_a_private_address_is_missing_and_says_what_allows_it() -> None:
    internet = Internet(inside_example=[["10.0.0.7"]])
    outcome = _read("http://inside.example/it", internet)
    assert outcome.status == Status.MISSING
    assert "allow_private" in (outcome.error or "")
    assert internet.reached == []


def test_read_name_that_means_another_address_a_moment_later_reaches_only_the_checked_one() -> None:
    internet = Internet(rebinds_example=[[PUBLIC], ["127.0.0.1"]])
    handlers = {
        "it": says(reply(302, location="/that", connection="close")),
        "that": says(reply(body=b"bytes")),
    }
    with Server(handlers) as server:
        outcome = _read(f"http://rebinds.example:{server.port}/it", internet)
    assert outcome.data == b"bytes"
    assert set(internet.reached) == {PUBLIC}


def test_read_name_of_public_and_private_addresses_reaches_the_public_ones() -> None:
    internet = Internet(mixed_example=[["127.0.0.1", OTHER, "10.0.0.1", PUBLIC]])
    with Server({"it": says(reply(body=b"bytes"))}) as server:
        assert _read(f"http://mixed.example:{server.port}/it", internet).data == b"bytes"
    assert internet.reached == [OTHER, PUBLIC]


@pytest.mark.parametrize("host", ["127.0.0.1", "inside.example", "[::ffff:10.0.0.1]", "0x7f.1"])
def test_read_redirected_to_a_private_address_is_missing(host: str) -> None:
    internet = Internet(good_example=[[PUBLIC]], inside_example=[["192.168.1.1"]])
    with Server({"secret": says(reply(body=b"secret"))}) as inside:
        location = f"http://{host}:{inside.port}/secret"
        with Server({"it": says(reply(302, location=location))}) as server:
            outcome = _read(f"http://good.example:{server.port}/it", internet)
    assert outcome.status == Status.MISSING
    assert "allow_private" in (outcome.error or "")
    assert internet.reached == [PUBLIC]


@pytest.mark.parametrize("host", ["unknown.example", "a..b", "x" * 64 + ".example", "nul%00.example"])
def test_read_name_that_nobody_knows_is_missing(host: str) -> None:
    internet = Internet()
    assert _read(f"http://{host}/it", internet).status == Status.MISSING
    assert internet.reached == []


def _authority(folder: Path, name: str, days: int = 1) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server of this name presents itself with, and what a client trusts it by."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "both.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(file)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.load_verify_locations(file)
    return serving, trusting


def test_read_over_tls_checks_the_name_of_the_url_not_the_address(tmp_path: Path) -> None:
    serving, trusting = _authority(tmp_path, "good.example")
    internet = Internet(good_example=[[PUBLIC]], bad_example=[[PUBLIC]])
    with Server({"it": says(reply(body=b"bytes"))}, tls=serving) as server:
        good = _read(f"https://good.example:{server.port}/it", internet, trusting)
        bad = _read(f"https://bad.example:{server.port}/it", internet, trusting)
    assert good.data == b"bytes"
    assert server.seen.asked[0].headers["host"] == f"good.example:{server.port}"
    assert bad.status == Status.MISSING
    assert "another host" in (bad.error or "")


@pytest.mark.parametrize(("days", "is_trusted"), [(1, False), (-1, True)])
def test_read_over_tls_without_a_valid_certificate_is_missing(
    tmp_path: Path, days: int, is_trusted: bool
) -> None:
    serving, trusting = _authority(tmp_path, "good.example", days)
    internet = Internet(good_example=[[PUBLIC]])
    with Server({"it": says(reply(body=b"bytes"))}, tls=serving) as server:
        outcome = _read(f"https://good.example:{server.port}/it", internet, trusting if is_trusted else None)
    assert outcome.status == Status.MISSING
    assert "certificate" in (outcome.error or "")
    assert server.seen.asked == []


def test_read_redirected_from_https_to_http_is_not_followed(tmp_path: Path) -> None:
    serving, trusting = _authority(tmp_path, "good.example")
    internet = Internet(good_example=[[PUBLIC]])
    with Server({"it": says(reply(body=b"bytes"))}) as plain:
        location = f"http://good.example:{plain.port}/it"
        with Server({"it": says(reply(302, location=location))}, tls=serving) as server:
            outcome = _read(f"https://good.example:{server.port}/it", internet, trusting)
    assert outcome.status == Status.MISSING
    assert plain.seen.connections == 0


def test_addresses_that_are_not_public_agree_with_the_standard_library() -> None:
    """Where the library, whatever its version, finds an address special, it is; the reverse need not hold."""
    for network in range(0, 2**32, 2**18 + 4099):
        address = ipaddress.IPv4Address(network)
        assert address.is_global or address.is_multicast or not is_public(str(address)), address
