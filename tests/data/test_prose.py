"""The library's prose and its code."""

import ast
import io
import tokenize
import warnings

import numpy as np
import pytest

from scaling.data import held_out, open_source
from scaling.data.corpus import Corpus
from scaling.data.prose import split
from scaling.data.stdlib import STDLIB, _halves, _library
from scaling.data.text import held_out_documents
from scaling.spec import DataSpec, ModelSpec

MODEL = ModelSpec(n_layers=1, d_model=16, d_ff=32, vocab_size=256, context=32)

SOURCE = b'''#!/usr/bin/env python
"""What it does,
and how.
"""
import x  # needed

# A block
#
#     of comments
def f(a="# no comment", b=\'\'\'
# nor this\'\'\'):
    r"""Raw \\d.

        Indented.
    Not.
    """
    return "a" \\
        "b"  # done
class A: "one line"
class B(A):
    # why
    "said" " twice"
def g(): "doc"; return {"k":
    "no docstring"}
'''

PROSE = """!/usr/bin/env python

What it does,
and how.

needed

A block

    of comments

Raw \\d.

    Indented.
Not.

done

one line

why

said twice

doc

"""

CODE = """import x

def f(a="# no comment", b='''
# nor this'''):
    return "a" \\
        "b"
class A: pass
class B(A):
    pass
def g(): pass; return {"k":
    "no docstring"}
"""


def test_prose_is_docstrings_and_comments_and_code_is_the_rest():
    prose, code = split(SOURCE)
    assert prose.decode() == PROSE
    assert code.decode() == CODE


def test_other_encodings_and_line_ends_come_out_as_utf_8():
    prose, code = split("# -*- coding: latin-1 -*-\r\nx = 'ä'  # ö\r\n".encode("latin-1"))
    assert code.decode() == "x = 'ä'\n" and prose.decode().endswith("ö\n\n")
    for broken in (b"x = (", b"\xff = 1", b"x = 1\0", b"# coding: nosuch\n"):
        with pytest.raises((SyntaxError, ValueError)):
            split(broken)


class _Stripped(ast.NodeTransformer):
    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or ([] if isinstance(node, ast.Module) else [ast.Pass()])
        return node


def test_the_code_of_the_library_is_the_program_without_its_docstrings():
    """By Python's own reading, of some documents; of all, it was tried on 3.11 to 3.13."""
    library, halves = _library(), _halves()
    assert halves.keys() == library.keys()  # this Python reads all of its own library
    for path in [path for path, data in library.items() if len(data) < 30_000][::30]:
        code = halves[path]["bytes:stdlib-code"].tobytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole, left = ast.parse(library[path].tobytes()), ast.parse(code)
        assert ast.dump(_Stripped().visit(whole)) == ast.dump(left), path
        assert all(token.type != tokenize.COMMENT for token in tokenize.tokenize(io.BytesIO(code).readline)), path


def _open(name: str) -> Corpus:
    corpus = open_source(DataSpec(source=name), MODEL)
    assert isinstance(corpus, Corpus)
    return corpus


def test_the_halves_of_cpython_3_11_7_are_always_the_same():
    facts = {name: _open(name).provenance for name in STDLIB}
    if facts["bytes:stdlib"]["python"] != "CPython 3.11.7" or facts["bytes:stdlib"]["files"] != "386":
        pytest.skip("another Python version, or a distribution that ships other files")
    prose, code = facts["bytes:stdlib-prose"], facts["bytes:stdlib-code"]
    assert (prose["train_tokens"], prose["held_out_tokens"]) == ("2208941", "136074")
    assert (code["train_tokens"], code["held_out_tokens"]) == ("4760909", "325422")
    assert prose["sha256"].startswith("7777ac40e4e05f9f") and code["sha256"].startswith("07f712bbe306613d")


def test_the_same_documents_are_held_out_of_the_library_and_of_its_halves():
    whole, prose, code = (_open(name) for name in STDLIB)
    tested = held_out_documents(_library())
    assert whole.provenance["held_out_files"] == str(len(tested))
    for corpus in (prose, code):
        expected = b"".join(_halves()[path][corpus.name].tobytes() for path in _library() if path in tested)
        assert b"".join(block.tobytes() for block in corpus.held_out.blocks()) == expected
        assert len(expected) == held_out(corpus, len(expected) - 1, 1).token_RxT.shape[0] + 1
        assert corpus.provenance["sha256"] != whole.provenance["sha256"]
        assert corpus.provenance["python"] == whole.provenance["python"]
    assert prose.train_tokens > 1e6 and code.train_tokens > 2.5e6
    assert 0.8 * whole.whole.tokens < prose.whole.tokens + code.whole.tokens < whole.whole.tokens
    letters = np.isin(np.arange(256), np.frombuffer(b"etaoinshrdlu ", np.uint8))
    share = {c.name: letters[np.concatenate([*c.held_out.blocks()])].mean() for c in (prose, code)}
    assert share["bytes:stdlib-prose"] > 0.55  # reads as English
