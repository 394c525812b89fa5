"""What the Hub or the way to it answered, in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator

PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP answers that another try may not get."""

_SHOWN = 300


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error of the Hub's client; None where there was no answer."""
    for cause in _causes(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    status = status_of(error)
    if status is None:
        return not any(isinstance(cause, ValueError) for cause in _causes(error))
    return status in PASSING


def explain(error: BaseException, *, repo_id: str, endpoint: str) -> str:
    """The error as one line for the person who pushes.

    Args:
        error: What the Hub's client raised.
        repo_id: The repository, "OWNER/NAME".
        endpoint: Address of the Hub.
    """
    status = status_of(error)
    words = _words(error)
    if status == 401:
        return (
            f"{endpoint} does not know your token (401): it is wrong or has expired; make one "
            f"with the right to write at {endpoint}/settings/tokens, then `hf auth login` or "
            "HF_TOKEN"
        )
    if status == 403:
        return (
            f"your token may not write to {repo_id} on {endpoint} (403: {words}); use a token "
            f"with the role 'write' that may write to {repo_id.partition('/')[0]}"
        )
    if status == 404:
        return (
            f"{endpoint} has no {repo_id} that your token may see, or not this revision (404: "
            f"{words})"
        )
    if status is None and not may_pass(error):
        return f"{endpoint} does not take this: {words}"
    if status is None:
        return (
            f"cannot reach {endpoint} ({words}); check the network. What was sent is kept there: "
            "run the same command again to go on"
        )
    advice = "run the same command again to go on" if status in PASSING else "see the Hub's page"
    return f"{endpoint} answers {status}: {words}; {advice}"


def _words(error: BaseException) -> str:
    """What the error says, and below it the Hub's answer or the first cause."""
    causes = list(_causes(error))
    answer = next((e for e in causes if hasattr(e, "response")), causes[-1])
    line = ": ".join(dict.fromkeys((_text(error), _text(answer))))
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "..."


def _text(error: BaseException) -> str:
    told = getattr(error, "server_message", None)
    return " ".join((told or str(error)).split()) or type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__
