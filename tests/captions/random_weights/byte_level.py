from __future__ import annotations

import json
from pathlib import Path

# fmt: off
WORDS = [
    "a", "the", "of", "in", "on", "and", "with", "photo", "picture", "cat", "dog", "red", "blue",
    "green", "man", "woman", "hat", "car", "tree", "house", "street", "sky", "small", "large",
    "two", "three", "sitting", "standing", "running",
]
# fmt: on


def save_tokenizer(
    target: Path, specials: dict[str, int], *, before: str, after: str | None, config: dict
) -> int:
    """A byte-level tokenizer as OPT's and BART's: bytes and a few whole words behind a space.

    Args:
        target: The model's folder.
        specials: Special tokens with their numbers, which come first and without a gap.
        before: The special token in front of every text.
        after: The one behind it.
        config: What stands in `tokenizer_config.json`.

    Returns:
        How many tokens there are.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    tokens = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = []
    for word in WORDS:
        built = "Ġ"
        for letter in word:
            if (pair := (built, letter)) not in merges:
                merges.append(pair)
                tokens.append(built + letter)
            built += letter
    vocabulary = {token: place for place, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    single = f"{before} $A {after}" if after else f"{before} $A"
    used = [token for token in (before, after) if token]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(token, specials[token]) for token in used]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    target.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(target / "tokenizer.json"))
    (target / "tokenizer_config.json").write_text(json.dumps(config))
    return len(tokens)
