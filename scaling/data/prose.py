"""A Python source in two: its prose, which is docstrings and comments, and its code, which is the rest."""

import ast
import inspect
import io
import re
import tokenize
import warnings
from collections.abc import Iterator
from typing import NamedTuple

# Strings are found so that a # inside of one is none; the module tokenize takes fifteen times as long.
_STRING_OR_COMMENT = re.compile(
    rb'"""(?:\\.|[^\\])*?"""|' rb"'''(?:\\.|[^\\])*?'''|" rb'"(?:\\.|[^\\"\n])*"|' rb"'(?:\\.|[^\\'\n])*'|" rb"#[^\n]*",
    re.DOTALL,
)
_CUT = b"\0"  # stands where something was cut: no Python source holds it
_EMPTIED_LINE = re.compile(rb"^[ \t\f]*\0[ \t\f\0]*(?:\n|\Z)", re.MULTILINE)
_BEFORE_A_CUT = re.compile(rb"[ \t\f]*\0")
_MARK = re.compile(r"#+:? ?")
_BODIES = ("body", "orelse", "finalbody", "handlers", "cases")


class _Piece(NamedTuple):
    start: int  # in the source, bytes
    end: int
    text: str
    instead: bytes  # what the code has in its place
    is_comment: bool


def split(source: bytes) -> tuple[bytes, bytes]:
    """(prose, code) in UTF-8. The code is Python still: a body that was a docstring alone is `pass`.

    In the prose docstrings and blocks of comments stand in the order of the file, without quotes, marks and common
    indentation, an empty line between them. Raises ValueError or SyntaxError for what Python cannot read.
    """
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    text = source.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    data = text.encode()
    pieces = sorted([*_docstrings(text, data), *_comments(data)])
    paragraphs: list[str] = []
    code, at, block = [], 0, False
    for piece in pieces:
        if piece.start < at:  # a comment between the strings that make up a docstring
            continue
        between = data[at : piece.start]
        if block and piece.is_comment and between.count(b"\n") == 1 and not between.strip():
            paragraphs[-1] += f"\n{piece.text}"
        else:
            paragraphs.append(piece.text)
        code += [between, piece.instead]
        at, block = piece.end, piece.is_comment
    left = _EMPTIED_LINE.sub(b"", b"".join([*code, data[at:]]))
    prose = "".join(text.strip("\n") + "\n\n" for text in paragraphs if text.strip())
    return prose.encode(errors="replace"), _BEFORE_A_CUT.sub(b"", left)


def _docstrings(text: str, data: bytes) -> Iterator[_Piece]:
    starts = [0]
    for line in data.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that Python does not know
        nodes: list[ast.AST] = [ast.parse(text)]
    while nodes:
        node = nodes.pop()
        for name in _BODIES:
            nodes += getattr(node, name, ())
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or not node.body:
            continue
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(said := getattr(first.value, "value", None), str):
            assert first.end_lineno is not None and first.end_col_offset is not None
            line = starts[first.lineno - 1]
            start, end = line + first.col_offset, starts[first.end_lineno - 1] + first.end_col_offset
            before, after = data[line:start], data[end : starts[first.end_lineno]]
            alone = not before.strip() and after.strip()[:1] in (b"", b"#")
            needed = not alone or (len(node.body) == 1 and not isinstance(node, ast.Module))
            yield _Piece(start, end, inspect.cleandoc(said), b"pass" if needed else _CUT, False)


def _comments(data: bytes) -> Iterator[_Piece]:
    for found in _STRING_OR_COMMENT.finditer(data):
        if found[0].startswith(b"#"):
            text = _MARK.sub("", found[0].decode(), count=1).rstrip()
            yield _Piece(found.start(), found.end(), text, _CUT, True)
