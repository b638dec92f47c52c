"""Prints the ids that transformers gives for conversations under chat templates of the package trl."""

import datetime
import json
import os
import sys

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils


class Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 3, 9, 14, 5, 6, tzinfo=tz)


chat_template_utils.datetime = Fixed

asked = json.load(sys.stdin)
answers = []
for case in asked["templates"]:
    vocabulary = {token: i for i, token in enumerate(case["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in case["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    # The rule `smollm`.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in case["special"]]
    )
    named = {"bos_token": case["bos"], "eos_token": case["eos"]}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    path = os.path.join(asked["folder"], case["name"] + ".jinja")
    with open(path, encoding="utf-8") as file:
        template = file.read()
    results = []
    for talk in case["talks"]:
        try:
            results.append(fast.apply_chat_template(
                talk["messages"], tools=talk["tools"] or None, chat_template=template,
                add_generation_prompt=True, enable_thinking=False, tokenize=True, return_dict=False,
            ))
        except Exception as error:  # a template may refuse a conversation
            results.append(f"{type(error).__name__}: {error}")
    answers.append(results)
json.dump(answers, sys.stdout)
