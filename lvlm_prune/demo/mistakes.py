"""What went wrong, as a sentence for whoever asked, and whether the log has to know it, too.

In: an exception. Out: a sentence. Errors that this package raises itself say what to do, and go to
the user as they are; those of other packages are written to the log and stay there, because they
speak of the program's inside and of the machine's folders.
"""

import logging
from types import TracebackType

from lvlm_prune.demo.words import sentence
from lvlm_prune.eval.halving import out_of_memory

logger = logging.getLogger(__name__)
BROKEN = (
    "Something failed inside the demo; the server's log says what. Try another image or method."
)
NO_MEMORY = (
    "The model ran out of memory for this; try a smaller image, or ask again when less is going on."
)


def told(error: Exception) -> str:
    """The sentence for whoever asked; what they cannot mend goes to the log.

    Args:
        error: what went wrong.
    """
    if out_of_memory(error):
        logger.warning("out of memory: %s", error)
        return NO_MEMORY
    if own(error):
        return sentence(error)
    logger.error("a request failed", exc_info=error)
    return BROKEN


def own(error: BaseException) -> bool:
    """Whether this package raised an error, as opposed to a package that it called."""
    known = type(error).__module__.startswith("lvlm_prune.")
    if not known and not isinstance(error, (ValueError, TypeError)):
        return False
    last: TracebackType | None = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return False
    return str(last.tb_frame.f_globals.get("__name__", "")).startswith("lvlm_prune.")
