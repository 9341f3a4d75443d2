"""The one exception that means: the person at the keyboard can fix this."""


class UserError(Exception):
    """Bad input. The message is one line that names the key, the value and the cure; it is shown without a traceback."""
