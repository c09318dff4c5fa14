"""The address of a teacher, checked, and as it may be shown: a key in it reaches no file and no message."""

import os
import re
from urllib.parse import urlsplit

from alpaca_jax.errors import UserError
from alpaca_jax.masking import add_secret
from alpaca_jax.teacher.config import TeacherConfig, address_problem

OPENAI = "https://api.openai.com/v1"
VARIABLE = "OPENAI_BASE_URL"


def address(teacher: TeacherConfig) -> tuple[str | None, str]:
    """Where a hosted teacher listens (None: the client's own default), and the same without what may be a secret."""
    url = teacher.base_url
    if url is None and (url := os.environ.get(VARIABLE, "").strip() or None) is not None:
        if problem := address_problem(url, query=True):
            raise UserError(f"the environment variable {VARIABLE} {problem}")
        if shown(url) != url:
            add_secret(VARIABLE)
    return url, shown(url or OPENAI)


def shown(url: str) -> str:
    """The address without its user, query and fragment."""
    return re.sub(r"//[^/?#]*@", "//", url.split("#")[0].split("?")[0])


def host(url: str | None) -> str:
    """The host's name or number, in lower case."""
    return urlsplit(url or OPENAI).hostname or ""
