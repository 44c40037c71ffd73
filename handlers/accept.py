"""Which of several media types a client wants (RFC 9110 §12.5.1)."""

from collections.abc import Sequence


def preferred(accept: str, offers: Sequence[str]) -> str:
    """The offer that `accept` ranks highest; the first offer where it ranks none, or several alike.

    Among equal weights the more specific range wins: `text/event-stream, */*` wants events.
    Parameters of offers and of ranges are not compared.
    """
    ranges = [_media_range(part) for part in accept.split(",")[:64] if part.strip()]

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


def _media_range(text: str) -> tuple[str, float]:
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
