"""The one kind of error that a user can cause and can mend."""

import logging

__all__ = ["RefusalError", "UserError", "hide_traceback_of_user_errors"]


class UserError(Exception):
    """A mistake in configuration, data or environment.

    The message is one line that names the key or file, what was found and what is
    allowed. It is raised before anything is written or sent.
    """


class RefusalError(UserError):
    """What a client does not do because of its site's policy, or as it makes no sense.

    The server may read its line: it names the rule and what the server itself said,
    and holds nothing about the host.
    """


def _without_traceback(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, UserError):
        record.msg, record.args, record.exc_info = f"FairFAL: {error}", (), None
    return True


def hide_traceback_of_user_errors(logger_name: str = "flwr") -> None:
    """Make a logger print a `UserError` as its one line.

    Flower reports a failed ServerApp by logging the exception with its stack trace,
    which helps with a defect and hides the answer to a mistake.

    Parameters
    ----------
    logger_name : str, default "flwr"
        The logger that reports the exception. Calling this twice changes nothing.
    """
    logger = logging.getLogger(logger_name)
    if _without_traceback not in logger.filters:
        logger.addFilter(_without_traceback)
