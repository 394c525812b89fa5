"""Publishing: a finished dataset or an exported ControlNet becomes a repository on the Hub.

`contents` says which files those are and checks them, without any network; `sending` brings them
there, in commits that a later call goes on from.
"""

from __future__ import annotations

from condkit.hub.contents import Bundle, OwnFile, check, gather
from condkit.hub.sending import PushSummary, Target, push

__all__ = ["Bundle", "OwnFile", "PushSummary", "Target", "check", "gather", "push"]
