"""Which addresses belong to the public internet."""

import ipaddress

# IANA's special-purpose registries, as of 2025. Written out: what `is_global` says changes with Python's
# version. 168.63.129.16 is public, but inside Azure it is the machine's own host.
_NOT_PUBLIC_V4 = [
    ipaddress.IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
]
_UNICAST = ipaddress.IPv6Network("2000::/3")  # all of IPv6 that is given out
# Teredo and other protocols, documentation twice, 6to4: that, like Teredo, may lead to any IPv4 address.
_NOT_PUBLIC_V6 = [
    ipaddress.IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
]
# Prefixes before an IPv4 address: IPv4-mapped, and NAT64 (RFC 6052), by which networks without IPv4 reach it.
_EMBEDDING = [ipaddress.IPv6Network(network) for network in ("::ffff:0:0/96", "64:ff9b::/96")]


def is_public(address: str) -> bool:
    """Whether a numeric address is one of the internet: not private, loopback, link-local, shared, multicast,
    reserved or unspecified, nor an IPv6 address that leads to such an IPv4 address.
    """
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        if not any(found in network for network in _EMBEDDING):
            return found in _UNICAST and not any(found in network for network in _NOT_PUBLIC_V6)
        found = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return not any(found in network for network in _NOT_PUBLIC_V4)
