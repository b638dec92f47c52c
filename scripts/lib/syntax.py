"""Parses Kotlin and Swift files; prints what is no syntax of theirs and exits with 1 if there is any."""

import sys

import tree_sitter_kotlin
import tree_sitter_swift
from tree_sitter import Language, Parser

KOTLIN = Language(tree_sitter_kotlin.language())
LANGUAGES = {"kt": KOTLIN, "kts": KOTLIN, "swift": Language(tree_sitter_swift.language())}


def problems(node):
    if node.type == "ERROR" or node.is_missing:
        yield node
    for child in node.children:
        yield from problems(child)


failed = False
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        tree = Parser(LANGUAGES[name.rsplit(".", 1)[1]]).parse(file.read())
    for node in problems(tree.root_node):
        failed = True
        line, column = node.start_point
        print(f"{name}:{line + 1}:{column + 1}: {node.text[:60]!r} does not belong here")
print(f"{len(sys.argv) - 1} files parsed")
sys.exit(failed)
