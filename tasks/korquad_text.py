"""Long documents to prompt contexts: HTML to text, text to passages, passages by a question.

Knows text only: no files, no samples. What is added to a text is ASCII punctuation and white
space (`a | b`, `- x`, `# x`), which KorQuAD's normalisation deletes, so that a right answer copied
from the result is right by the official metrics as well.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser

import bm25s

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it asks for DEBUG, which other handlers would print

_RUBY = ("rt", "rp")
"""Reading aids above characters; BeautifulSoup's `get_text`, and so the metric, leaves them out."""
_DROPPED = ("script", "style", "nav", "noscript", "template", "title", *_RUBY)
"""Elements that hold no text of the article."""
_BLOCKS = {
    "address", "article", "aside", "blockquote", "body", "br", "caption", "center", "dd", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head", "header",
    "hr", "html", "legend", "li", "main", "ol", "p", "pre", "section", "tbody", "tfoot", "thead", "tr", "ul",
}  # fmt: skip
"""Elements that begin and end a line."""
_HEADING = re.compile(r"h[1-6]")
_MARK = re.compile(r"(- |#+ )")
_SPACE = re.compile(r"\s+")
_ONLY_MARKS = re.compile(r"[\s|#-]*")
_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"[.!?。…][\"'”’」』)\]]*(?=\s|$)|(?=\n)")


_MOST_UNCLOSED = 100
"""Things without an end in a page; for each Python's parser reads all that follows."""
_UNCLOSED = {
    "comments": ("<!--", "-->"),
    "sections": (r"(?i)<!\[(?:temp|cdata|ignore|include|rcdata)", r"\]\s*\]\s*>"),
    "conditions": (r"(?i)<!\[(?:if|else|endif)", r"\]\s*>"),
    "tags": ("<[A-Za-z/!?]", ">"),
}
"""How things begin and end that may lack an end."""


class UnreadableHtmlError(ValueError):
    """HTML that Python's parser rejects, or would take hours for."""


def check_ends(html: str) -> None:
    """Refuse HTML with many tags or the like that never end: to parse it takes the square of its length.

    Raises:
        UnreadableHtmlError: with their number.
    """
    for what, (begin, end) in _UNCLOSED.items():
        last = max((match.end() for match in re.finditer(end, html)), default=0)
        count = sum(1 for _ in re.compile(begin).finditer(html, last))
        if count > _MOST_UNCLOSED:
            raise UnreadableHtmlError(f"{count:,} {what} in it never end, expected at most {_MOST_UNCLOSED}")


def html_to_text(html: str) -> str:
    """Readable lines of an HTML page or fragment, without script, style, title and navigation.

    Table rows become `a | b`, list items `- x`, headings `## x`; other blocks are lines.

    Raises:
        UnreadableHtmlError: the parser rejects a declaration, or many tags or the like never end.
    """
    check_ends(html)
    reader = _Reader()
    try:
        reader.feed(html)
        reader.close()
    except AssertionError as error:
        raise UnreadableHtmlError(str(error)) from None
    reader.flush()
    return "\n".join(reader.lines)


def without_mark(line: str) -> str:
    """A line of `html_to_text` without the mark of a list item or a heading."""
    return _MARK.sub("", line, count=1) if _MARK.match(line) else line


@dataclass
class _Table:
    """Where in a table the reader is."""

    in_cell: bool = False
    row_has_cells: bool = False

    def begin_row(self) -> None:
        self.in_cell = self.row_has_cells = False

    def begin_cell(self) -> bool:
        """Whether the row had a cell before this one."""
        before, self.row_has_cells, self.in_cell = self.row_has_cells, True, True
        return before


class _Reader(HTMLParser):
    """Collects lines of text.

    It is the parser below BeautifulSoup's `html.parser`; no tree is built, which takes a third of
    the time.
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.lines: list[str] = []
        self._parts: list[str] = []
        self._dropped: list[str] = []
        self._tables = [_Table()]
        """Open tables; the first stands for the page, as a fragment may hold rows alone."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See `HTMLParser`."""
        table = self._tables[-1]
        if self._dropped:
            self._dropped += [tag] * (tag == self._dropped[-1])
        elif tag in _DROPPED:
            self._dropped.append(tag)
        elif tag == "table":
            self.flush()
            self._tables.append(_Table())
        elif tag == "tr":
            table.begin_row()
            self.flush()
        elif tag in ("td", "th"):
            self._parts.append(" | " if table.begin_cell() else "")
        elif tag in _BLOCKS:
            self._break()
            if tag == "li":
                self._parts.append("- ")
            elif _HEADING.fullmatch(tag):
                self._parts.append("#" * int(tag[1]) + " ")

    def handle_endtag(self, tag: str) -> None:
        """See `HTMLParser`."""
        if self._dropped:
            self._end_dropped(tag)
        elif tag in ("td", "th"):
            self._tables[-1].in_cell = False
        elif tag == "tr":
            self._tables[-1].in_cell = False
            self.flush()
        elif tag == "table":
            self.flush()
            if len(self._tables) > 1:
                self._tables.pop()
        elif tag in _BLOCKS:
            self._break()

    def handle_data(self, data: str) -> None:
        """See `HTMLParser`."""
        if not self._dropped:
            self._parts.append(data)

    def unknown_decl(self, data: str) -> None:
        """See `HTMLParser`; a CDATA section is text."""
        if data.startswith("CDATA["):
            self.handle_data(data.removeprefix("CDATA["))

    def flush(self) -> None:
        """End the line; lines without text are left out."""
        line = " ".join("".join(self._parts).split())
        self._parts.clear()
        if not _ONLY_MARKS.fullmatch(line):
            self.lines.append(line)

    def _break(self) -> None:
        """A new line; in a table's cell only a space, so that a row stays one line."""
        if self._tables[-1].in_cell:
            self._parts.append(" ")
        else:
            self.flush()

    def _end_dropped(self, tag: str) -> None:
        if tag == "ruby":  # ends of rt and rp may be left out
            while self._dropped and self._dropped[-1] in _RUBY:
                self._dropped.pop()
        elif tag == self._dropped[-1]:
            self._dropped.pop()


def passages(text: str, chars: int) -> list[str]:
    """The text cut into passages of at most `chars` characters; only white space is lost.

    Lines stay whole where they fit, longer ones are cut at sentence ends, else between words, else
    anywhere. A heading goes with what follows it.
    """
    found: list[str] = []
    current: list[str] = []
    for line in text.split("\n"):
        rest = line.strip()
        while rest:
            room = chars - sum(len(part) + 1 for part in current)
            if len(rest) <= room:
                current.append(rest)
                break
            whole = len(rest) <= chars and not _only_headings(current)
            end = 0 if whole else _cut(rest, room, anywhere=not current)
            if end:
                current.append(rest[:end].rstrip())
                rest = rest[end:].lstrip()
            current = _close(current, found, keep_headings=end == 0)
    _close(current, found, keep_headings=False)
    return found


def _only_headings(lines: Sequence[str]) -> bool:
    return bool(lines) and all(line.startswith("#") for line in lines)


def _close(lines: list[str], found: list[str], keep_headings: bool) -> list[str]:
    """End a passage; returns the lines that the next one begins with: headings at its end."""
    end = len(lines)
    if keep_headings:
        while end and lines[end - 1].startswith("#"):
            end -= 1
    end = end or len(lines)
    if end:
        found.append("\n".join(lines[:end]))
    return lines[end:]


def _cut(line: str, room: int, anywhere: bool) -> int:
    """Where to end a piece of at most `room` characters: the last sentence end; else 0, or when
    `anywhere` the last word end, else the room."""
    if room <= 0:
        return 0
    ends = [match.end() for match in _SENTENCE_END.finditer(line, 0, room + 1) if match.end() <= room]
    if ends:
        return ends[-1]
    if not anywhere:
        return 0
    space = max(line.rfind(" ", 0, room + 1), line.rfind("\t", 0, room + 1))
    return space if space > 0 else room


class PassageIndex:
    """BM25 over the passages of one document.

    Tokens are the pairs of neighbouring characters of each word, which meet Korean words whatever
    particles follow them. Source of the variant: Lucene's, as in bm25s (Lu 2024, arXiv 2407.03618).
    """

    def __init__(self, found: Sequence[str]) -> None:
        self._passages = list(found)
        self._index = bm25s.BM25(method="lucene")
        tokens = [character_pairs(passage) for passage in found]
        self._empty = not any(tokens)
        if not self._empty:
            self._index.index(tokens, show_progress=False)

    def best(self, question: str, count: int) -> list[str]:
        """The `count` passages with the highest scores, the first of equals, in document order."""
        asked = character_pairs(question)
        if len(self._passages) <= count:
            return list(self._passages)
        if self._empty or not asked:
            return self._passages[:count]
        scores = self._index.get_scores(asked)
        ranked = sorted(range(len(self._passages)), key=lambda i: (-scores[i], i))
        return [self._passages[i] for i in sorted(ranked[:count])]


def character_pairs(text: str) -> list[str]:
    """The neighbouring pairs of characters in each word, in lower case; one-letter words whole."""
    pairs = []
    for word in _WORD.findall(text.lower()):
        pairs += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
    return pairs


def shorten_around(context: str, answer: str, chars: int) -> str:
    """At most `chars` characters of a context around the first occurrence of an answer.

    Cut at sentence ends where one lies between the window's edge and the answer, else between words.
    The answer is always inside whole, even when it alone is longer than `chars`. A context without
    the answer keeps its beginning.
    """
    if len(context) <= chars:
        return context
    start = context.find(answer)
    if start < 0 or not answer:
        return context[: _right_edge(context, 0, chars) or chars].rstrip()
    end = start + len(answer)
    spare = max(0, chars - len(answer))
    left = max(0, start - spare // 2)
    right = min(len(context), max(end, left + chars))
    left = min(start, max(0, right - chars))
    left, right = _left_edge(context, left, start), _right_edge(context, end, right)
    return context[left:right]


def _left_edge(context: str, least: int, most: int) -> int:
    """The first place in [least, most] where a sentence begins, else a word, else `least`."""
    if least == 0:
        return 0
    for match in _SENTENCE_END.finditer(context, max(0, least - 4), most):
        place = _skip_space(context, match.end())
        if least <= place <= most and place > match.end():
            return place
    if context[least - 1].isspace() or context[least].isspace():
        return min(most, _skip_space(context, least))
    space = _SPACE.search(context, least, most)
    return space.end() if space else least


def _skip_space(context: str, place: int) -> int:
    while place < len(context) and context[place].isspace():
        place += 1
    return place


def _right_edge(context: str, least: int, most: int) -> int:
    """The last place in [least, most] where a sentence ends, else a word, else `most`."""
    if most >= len(context):
        return len(context)
    ends = [m.end() for m in _SENTENCE_END.finditer(context, least, most + 1) if m.end() <= most]
    if ends:
        return ends[-1]
    if context[most].isspace():
        return least + len(context[least:most].rstrip())
    spaces = list(_SPACE.finditer(context, least, most))
    return spaces[-1].start() if spaces else most
