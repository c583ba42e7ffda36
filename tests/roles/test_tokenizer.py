"""Tokenizers: round trips, special tokens, chats, and what transformers loads from the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from realnet.errors import ConfigError
from realnet.roles.models.reference import load_tokenizer
from realnet.roles.models.tokenizer import CHARS, Tokenizer
from realnet.roles.tables import Policy


def test_chars_round_trip_and_markers_are_one_token() -> None:
    tokenizer = Tokenizer.new_chars()
    text = "<think>7+5=12,\n4+2=07</think>a b?(9*8)"
    ids = tokenizer.encode(text + "<eos>")
    assert ids[-1] == tokenizer.eos_id
    assert tokenizer.decode([*ids, tokenizer.pad_id, tokenizer.pad_id]) == text
    assert len(ids) == len(text) - len("<think></think>") + 3
    assert tokenizer.vocab_size == len(CHARS) + 4
    assert len(tokenizer.encode(CHARS)) == len(CHARS)


def test_chars_refuses_an_unknown_character_by_name() -> None:
    with pytest.raises(ConfigError, match="Ü"):
        Tokenizer.new_chars().encode("3+Ü")


def test_bytes_round_trip_any_text() -> None:
    tokenizer = Tokenizer.new_bytes()
    text = "Größe 7 → 日本\n\t\x00\r x  y"
    ids = tokenizer.encode(text)
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text
    assert tokenizer.vocab_size == 260


def test_bytes_chat_is_chatml_and_eos_ends_a_turn() -> None:
    tokenizer = Tokenizer.new_bytes()
    text = tokenizer.chat([{"role": "user", "content": "2+2?"}])
    assert text == "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.encode(text)[0] == tokenizer.vocab_size - 3
    assert tokenizer.eos_id in tokenizer.encode(text)


def test_chat_without_template_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="chat = false"):
        Tokenizer.new_chars().chat([{"role": "user", "content": "x"}])


@pytest.mark.parametrize("kind", ["new:chars", "new:bytes"])
def test_saved_folder_loads_in_realnet_and_in_transformers(kind: str, tmp_path: Path) -> None:
    import transformers

    policy = Policy(model="new:llama", tokenizer=kind)
    tokenizer = load_tokenizer(policy, tmp_path)
    tokenizer.save(tmp_path / "saved")
    text = "1 + 2=(3), a<b?\n"
    again = load_tokenizer(Policy(model="new:llama", tokenizer="./saved"), tmp_path)
    assert again.encode(text) == tokenizer.encode(text)
    assert (again.eos_id, again.pad_id) == (tokenizer.eos_id, tokenizer.pad_id)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert theirs.encode(text) == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text)) == text
    assert (theirs.eos_token_id, theirs.pad_token_id) == (tokenizer.eos_id, tokenizer.pad_id)
    if kind == "new:bytes":
        chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]
        expected = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert tokenizer.chat(chat) == again.chat(chat) == expected


def test_bad_references_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'\[policy\]\.tokenizer is missing.*"new:chars"'):
        load_tokenizer(Policy(model="new:llama"), tmp_path)
    with pytest.raises(ConfigError, match=r'Did you mean "new:chars"'):
        load_tokenizer(Policy(model="new:llama", tokenizer="new:char"), tmp_path)
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        load_tokenizer(Policy(model="new:llama", tokenizer="./nothing"), tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        load_tokenizer(Policy(model="./nothing"), tmp_path)
    with pytest.raises(ConfigError, match=r"Qwen/Qwen2\.5-0\.5B.*realnet fetch"):
        load_tokenizer(Policy(model="hf:Qwen/Qwen2.5-0.5B"), tmp_path)
