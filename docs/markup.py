"""What the pages use beside Markdown: equations as MathML, which browsers draw without scripts, and examples in docstrings as code."""

import re
from typing import Any

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor


def equation(source: str, *_: Any, **__: Any) -> str:
    """A fence of the language `math`, as on GitHub."""
    source = source.replace("{aligned}", "{align*}")  # the converter's name of it
    return f'<div class="math">{convert(source, display="block")}</div>'


class Markup(Extension):
    """Equations between dollars, and `>>>`."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(_FromRoot(md), "from root", 31)  # after files are taken in, before fences are looked for
        md.preprocessors.register(_Examples(md), "examples", 30)
        md.inlinePatterns.register(_Inline(r"(?<![\\$\w])\$([^$`\n]+)\$(?![$\w])", md), "math", 185)


class _Inline(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str, int, int]:  # type: ignore[override]
        return self.md.htmlStash.store(convert(m[1])), m.start(0), m.end(0)


class _FromRoot(Preprocessor):
    """Files of the root, such as the changelog, name pages as docs/PAGE."""

    def run(self, lines: list[str]) -> list[str]:
        return [line.replace("](docs/", "](") for line in lines]


class _Examples(Preprocessor):
    """A doctest, up to the next empty line, becomes a fence."""

    def run(self, lines: list[str]) -> list[str]:
        told: list[str] = []
        inside = fenced = False
        for line in [*lines, ""]:
            fenced ^= line.lstrip().startswith("```")
            if not inside and not fenced and line.startswith(">>> "):
                inside = True
                told += ["", "```pycon"]
            elif inside and not line.strip():
                inside = False
                told.append("```")
            told.append(line)
        return told[:-1] if told and not told[-1] else told


def makeExtension(**options: Any) -> Markup:
    """What Markdown looks for in an extension."""
    return Markup(**options)
