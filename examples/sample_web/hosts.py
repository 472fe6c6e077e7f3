"""The hosts of the sample web: who shows pages, who only serves files, who answers badly or asks to be left out."""

from urllib.parse import quote

PAGE_HOSTS = (
    "photos.sample.test",
    "gallery.sample.test",
    "travel.sample.test",
    "blog.sample.test",
    "shop.sample.test",
    "museum.sample.test",
    "news.sample.test",
    "wiki.sample.test",
)
CDN, STATIC = "cdn.sample.test", "static.sample.test"
FLAKY, SLOW, BUSY = "flaky.sample.test", "slow.sample.test", "busy.sample.test"
CLOSED, RESERVED = "closed.sample.test", "tdm.sample.test"
IDN_HOST, IDN_SUBDOMAIN = "фото.test", "bücher.sample.test"

BLOCKED_DOMAINS: tuple[str, ...] = ("ads.sample.test",)
"""What the run's URL policy must be told to block."""
OPTED_OUT_DOMAINS: tuple[str, ...] = ("optout.sample.test",)
"""What it must be told has opted out."""

FILE_HOSTS = (CDN, STATIC)
CONTENT_HOSTS = PAGE_HOSTS + FILE_HOSTS

ROBOTS = {
    CLOSED: "User-agent: *\nDisallow: /private/\n",
    "photos.sample.test": "# all are welcome\nUser-agent: *\nDisallow: /admin/\nSitemap: /sitemap.xml\n",
    "wiki.sample.test": "User-agent: BadBot\nDisallow: /\n\nUser-agent: *\nDisallow:\n",
    "static.sample.test": "",
}
"""robots.txt by host; the other hosts answer 404, which allows everything (RFC 9309, 2.3.1.3)."""

TDMREP = '[{"location": "/reserved/*", "tdm-reservation": 1, "tdm-policy": "http://tdm.sample.test/policy.json"}]\n'
"""/.well-known/tdmrep.json of the host that reserves a part of its files (W3C TDMRep)."""


def ascii_name(host: str) -> str:
    """The host as DNS and canonical URLs write it."""
    return host.encode("idna").decode()


_BAD_HOSTS = (FLAKY, SLOW, BUSY, CLOSED, RESERVED)

ALL_HOSTS: tuple[str, ...] = tuple(
    ascii_name(host)
    for host in (*CONTENT_HOSTS, *_BAD_HOSTS, IDN_HOST, IDN_SUBDOMAIN, *BLOCKED_DOMAINS, *OPTED_OUT_DOMAINS)
)
"""Every host that the server answers for, in ASCII: all must be connected to the server's address."""


def url_of(host: str, path: str) -> str:
    """The canonical URL of a path: ASCII host, UTF-8 percent-encoded path."""
    return f"http://{ascii_name(host)}{quote(path, safe='/-_.~')}"
