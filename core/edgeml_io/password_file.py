"""The password of a user in a file, mostly a broker's: a process list shows command lines, and no file's content.

Files with several passwords, and programs that print one, are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from edgeml_core.broker import BrokerUrl
from edgeml_core.errors import UsageError

#: Bytes of a password: the limit of MQTT's CONNECT.
PASSWORD_MAX_BYTES: Final = 65_535
_HINT: Final = "name a text file with the password alone, and the user in the URL: mqtts://USER@HOST"
_FILE_HINT: Final = "name a text file with the password alone"


def with_password(url: BrokerUrl, path: Path | None) -> BrokerUrl:
    """Return the address with the password in a file; a line break at its end is left out.

    Args:
        url: the broker's address, with the user.
        path: the file; None returns the address as it is.

    Raises:
        UsageError: `usage`, when the file can't be read or holds no password, or the address has another password or no
            user. The message never repeats the content.
    """
    if path is None:
        return url
    if url.username is None or url.password is not None:
        problem = "has a password beside the password file" if url.password is not None else "names no user"
        raise UsageError("usage", f"the broker's URL {problem}", _HINT)
    return msgspec.structs.replace(url, password=read(path))


def read(path: Path) -> str:
    """Return the password in a file; a line break at its end is left out.

    Raises:
        UsageError: `usage`, when the file can't be read or holds no password. The message never repeats the content.
    """
    try:
        with path.open("rb") as file:
            password = file.read(PASSWORD_MAX_BYTES + 1).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        # Not chained: the cause quotes the content.
        raise UsageError("usage", f"the password file {path} is no text in UTF-8", _FILE_HINT) from None
    except OSError as error:
        raise UsageError("usage", f"the password file {path} can't be read: {error.strerror}", _FILE_HINT) from error
    if not 0 < len(password.encode()) <= PASSWORD_MAX_BYTES:
        message = f"the password file {path} is empty or longer than {PASSWORD_MAX_BYTES} bytes"
        raise UsageError("usage", message, _FILE_HINT)
    return password
