"""Copies of a text that look different and are the same: each function makes one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping

__all__ = ["DISGUISES", "LICENCES"]

MIT = """Permission is hereby granted, free of charge, to any person obtaining a copy of this
software, to deal in it without restriction, including the rights to use, copy, modify and
merge it, and to permit persons to whom it is given to do so, subject to this condition: the
notice above and this one are part of all copies. It is provided as it is, without warranty
of any kind, express or implied, and its authors are liable for no claim or damage."""
OWNER = "Copyright (c) 2019, 2023 The Example Authors. All rights reserved."
SPDX = "SPDX-License-Identifier: Apache-2.0"


def _commented(mark: str, text: str) -> str:
    return "".join(f"{mark} {line}".rstrip() + "\n" for line in text.split("\n"))


LICENCES: Mapping[str, str] = {  # what stands before a text
    "hash": _commented("#", f"{OWNER}\n\n{MIT}") + "\n",
    "spdx": f"// {SPDX}\n",
    "two lines": f"// {OWNER}\n// {SPDX}\n\n",
    "block": f"/*\n{_commented(' *', OWNER)}{_commented(' *', MIT)} */\n\n",
    "one line": f"/*! example v1.2 | (c) 2021 Example | {SPDX} */",
    "html": f"<!--\n{OWNER}\n{MIT}\n-->\n",
    "shebang": f"#!/usr/bin/env python3\n# -*- coding: utf-8 -*-\n#\n# {OWNER}\n\n",
    "file, then licence": f"// example.c: an example\n\n/* {OWNER} */\n",
    "docstring": f'"""\n{OWNER}\n{MIT}\n"""\n',
    "lisp": _commented(";;;", OWNER) + "\n",
    "sql": _commented("--", OWNER) + "\n",
    "tex": _commented("%", OWNER) + "\n",
    "plain": f"{OWNER}\n{MIT}\n\n",
    "chinese": "# 版权所有 2020 某某公司\n# 保留一切权利\n",
    "yaml": "---\ntitle: An example\ndate: 2021-04-05\ntags:\n  - one\n  - two\n---\n\n",
    "toml": '+++\ntitle = "An example"\n\n[extra]\nweight = 3\n+++\n',
    "yaml and licence": f"---\nlayout: post\n---\n<!-- {OWNER} -->\n\n",
}


def _indented(text: str, unit: str) -> str:
    """Four blanks at the beginning of lines written as something else."""
    return re.sub("^(?: {4})+", lambda found: unit * (len(found[0]) // 4), text, flags=re.M)


DISGUISES: Mapping[str, Callable[[str], str]] = {
    "the same": lambda text: text,
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "CR": lambda text: text.replace("\n", "\r"),
    "NEL": lambda text: text.replace("\n", "\x85"),
    "line separator": lambda text: text.replace("\n", "\u2028"),
    "paragraph separator": lambda text: text.replace("\n", "\u2029"),
    "trailing blanks": lambda text: text.replace("\n", "  \t\n"),
    "no last line end": lambda text: text.rstrip("\n"),
    "lines before and after": lambda text: f"\n \n\n{text}\n\n\n",
    "double spaced": lambda text: text.replace("\n", "\n\n"),
    "tabs": lambda text: _indented(text, "\t"),
    "two blanks": lambda text: _indented(text, "  "),
    "indented as a whole": lambda text: text.replace("\n", "\n\t"),
    "no-break": lambda text: text.replace(" ", "\u00a0"),
    "narrow no-break": lambda text: text.replace(" ", "\u202f"),
    "ideographic": lambda text: text.replace(" ", "\u3000"),
    "zero-width": lambda text: text.replace(" ", " \u200b"),
    "joiners": lambda text: text.replace("e", "e\u2060").replace("a", "a\u200d"),
    "soft hyphens": lambda text: re.sub(r"(\w{3})(?=\w{3})", "\\1\u00ad", text),
    "directions": lambda text: f"\u202a{text}\u202c".replace(". ", ".\u200e "),
    "variation selectors": lambda text: text.replace(".", ".\ufe0f"),
    "byte order mark": lambda text: "\ufeff" + text,
    "controls": lambda text: text.replace(" ", " \x01") + "\x1a",
    "decomposed": lambda text: unicodedata.normalize("NFD", text),
    "composed": lambda text: unicodedata.normalize("NFC", text),
    "CRLF and mark": lambda text: "\ufeff" + text.replace("\n", "\r\n"),
    **{name: (lambda text, head=head: head + text) for name, head in LICENCES.items()},
}
