"""CORS (Fetch Standard §3.2): which pages of other origins may use what is answered here.

There are no cookies here: a page that publishes sends its token in a header of its own. So credentials in the
standard's sense are not allowed, and `*` can mean all.
"""

from collections.abc import Mapping
from dataclasses import dataclass

PREFLIGHT_SECONDS = 7200
"""How long a browser may go by the answer to its preflight: Chromium goes no longer."""

_ASKED = ", ".join(
    (
        "Authorization",
        "Cache-Control",
        "Content-Type",
        "Icy-MetaData",
        "If-Match",
        "If-Modified-Since",
        "If-None-Match",
        "If-Range",
        "If-Unmodified-Since",
        "Last-Event-ID",
        "Range",
        "X-Request-Id",
    )
)
_EXPOSED = ", ".join(
    (
        "Accept-Ranges",
        "Allow",
        "Content-Disposition",
        "Content-Length",
        "Content-Range",
        "ETag",
        "Link",
        "Location",
        "Retry-After",
        "X-Request-Id",
        "X-Total-Count",
        "icy-br",
        "icy-description",
        "icy-genre",
        "icy-metaint",
        "icy-name",
        "icy-url",
    )
)


@dataclass(frozen=True, slots=True)
class Cors:
    """Whose pages may.

    Args:
        origins: as browsers send them; `*` among them: all. Empty: no other's than ours.
    """

    origins: frozenset[str] = frozenset()

    def headers(self, asked: Mapping[str, str]) -> Mapping[str, str]:
        """What an answer to a request with the headers `asked` has, whatever its status."""
        if not self.origins:
            return {}
        if "*" in self.origins:
            return {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": _EXPOSED}
        origin = asked.get("Origin", "")
        if origin not in self.origins:
            return {"Vary": "Origin"}  # a cache must not give this to who is allowed
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": _EXPOSED,
            "Vary": "Origin",
        }

    def preflight(self, asked: Mapping[str, str], allow: str) -> Mapping[str, str]:
        """What the answer to an OPTIONS has besides: which methods (`allow`) and headers a page may use."""
        if "Access-Control-Allow-Origin" not in self.headers(asked):
            return {}
        if "Access-Control-Request-Method" not in asked:
            return {}
        granted = {
            "Access-Control-Allow-Methods": allow,
            "Access-Control-Allow-Headers": _ASKED,
            "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
        }
        if asked.get("Access-Control-Request-Private-Network") == "true":
            granted["Access-Control-Allow-Private-Network"] = "true"  # a public site, a server at home
        return granted
