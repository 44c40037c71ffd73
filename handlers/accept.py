"""Which of several media types, formats and content codings a client wants (RFC 9110 §12.5.1, §12.5.3)."""

from collections.abc import Mapping, Sequence

from media.parameters import choice
from media.records import FORMATS, Format


def preferred(accept: str, offers: Sequence[str]) -> str:
    """The offer that `accept` ranks highest; the first offer where it ranks none, or several alike.

    Among equal weights the more specific range wins: `text/event-stream, */*` wants events.
    Parameters of offers and of ranges are not compared.
    """
    ranges = _weighted(accept)

    def rank(offer: str) -> tuple[float, int]:
        kind = offer.partition(";")[0].strip().lower()
        family = kind.partition("/")[0] + "/*"
        for specificity, wanted in ((2, kind), (1, family), (0, "*/*")):
            weights = [weight for name, weight in ranges if name == wanted]
            if weights:
                return max(weights), specificity
        return 0.0, 0

    best = max(offers, key=rank)  # the first of equals
    return best if rank(best)[0] > 0 else offers[0]


def wanted_format(args: Mapping[str, str], accept: str, formats: Sequence[Format]) -> Format:
    """Of `formats` the one that the parameter `format` names, or else the one that `accept` ranks highest.

    Raises:
        BadParameter: `format` names none of them.
    """
    offers = {form.media_type: form for form in formats}
    default = offers[preferred(accept, list(offers))]
    return FORMATS[choice(args, "format", default.name, tuple(form.name for form in formats))]


def codings(accept_encoding: str, offers: Sequence[str]) -> tuple[str, ...]:
    """The content codings among `offers` that may be sent, best first; among equals in the order of `offers`.

    One that ranks below the bytes as they are (`identity`) is left out. Empty: send them as they are, even
    where the client rules that out: a body that it cannot use tells it no less than a refusal.
    """
    ranges = [("gzip" if name == "x-gzip" else name, weight) for name, weight in _weighted(accept_encoding)]

    def weight_of(coding: str) -> float:
        for wanted in (coding, "*"):
            weights = [weight for name, weight in ranges if name == wanted]
            if weights:
                return max(weights)
        return 0.0

    least = weight_of("identity")
    acceptable = [coding for coding in offers if weight_of(coding) > 0 and weight_of(coding) >= least]
    return tuple(sorted(acceptable, key=weight_of, reverse=True))  # stable


def _weighted(text: str) -> list[tuple[str, float]]:
    """The names of a list and their weights, in lower case; at most 64 of them."""
    return [_with_weight(part) for part in text.split(",")[:64] if part.strip()]


def _with_weight(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    weight = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                weight = min(1.0, max(0.0, float(value)))  # "nan" is 0
            except ValueError:
                weight = 0.0
    return name, weight
