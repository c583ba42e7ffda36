"""Text to token ids and back, chat templates, and the files that transformers can load.

Knows the `tokenizers` library and Jinja templates; knows nothing of torch, models or policies.
Called through `reference.load_tokenizer`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
import xxhash
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from realnet.errors import ConfigError

CHARS = "0123456789abcdefghijklmnopqrstuvwxyz +-*/=,.()<>?:\n"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Tokenizer:
    """Encodes, decodes, and writes chats as text. Two ids have a meaning: `eos_id` and `pad_id`."""

    def __init__(
        self, core: tokenizers.Tokenizer, *, eos: str, pad: str, template: str, where: str
    ) -> None:
        self._core = core
        self._where = where
        self._template = template
        self._tokens = {"eos_token": eos, "pad_token": pad}
        self.eos_id = self._id(eos)
        self.pad_id = self._id(pad)
        self.vocab_size: int = max(core.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`. Nothing is added; special tokens in the text are recognised."""
        try:
            return list(self._core.encode(text, add_special_tokens=False).ids)
        except Exception as error:
            # The library raises bare Exception, and names neither text nor character.
            missing = sorted(set(text) - set(self._core.get_vocab()))
            raise ConfigError(
                f"tokenizer {self._where}: cannot encode {text[:60]!r} "
                f"(characters it does not know: {missing}): {error}"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, with markers such as <think>, without eos and padding."""
        kept = [int(i) for i in ids if i not in (self.eos_id, self.pad_id)]
        return str(self._core.decode(kept, skip_special_tokens=False))

    def chat(self, messages: list[dict[str, str]]) -> str:
        """Return a conversation as text that ends where the assistant is to speak."""
        if not self._template:
            raise ConfigError(
                f"tokenizer {self._where} has no chat template. Write `chat = false` in the task, "
                f'or take a tokenizer with one ("new:bytes" has)'
            )
        try:
            template = _environment().from_string(self._template)
            return template.render(messages=messages, add_generation_prompt=True, **self._tokens)
        except jinja2.TemplateError as error:
            raise ConfigError(f"chat template of tokenizer {self._where}: {error}") from None

    def digest(self) -> str:
        """Return a digest of which id stands for which token."""
        vocab = sorted(self._core.get_vocab(with_added_tokens=True).items())
        return xxhash.xxh3_64_hexdigest(json.dumps(vocab).encode())

    def save(self, folder: Path) -> None:
        """Write the files from which AutoTokenizer.from_pretrained(folder) builds the same."""
        folder.mkdir(parents=True, exist_ok=True)
        self._core.save(str(folder / "tokenizer.json"))
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **self._tokens,
        }
        if self._template:
            config["chat_template"] = self._template
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Read the tokenizer of a Hugging Face folder."""
        if not (folder / "tokenizer.json").is_file():
            raise ConfigError(
                f"tokenizer {folder}: there is no tokenizer.json. Write a folder that has one, "
                f'or "new:chars" / "new:bytes"'
            )
        config = _read_json(folder / "tokenizer_config.json")
        special = _read_json(folder / "special_tokens_map.json") | config
        template = config.get("chat_template") or ""
        if (folder / "chat_template.jinja").is_file():
            template = (folder / "chat_template.jinja").read_text()
        if isinstance(template, list):  # named templates: the one called "default"
            named = {entry["name"]: entry["template"] for entry in template}
            template = named.get("default", "")
        eos = _token(special.get("eos_token"))
        if not eos:
            raise ConfigError(
                f"tokenizer {folder}: tokenizer_config.json names no eos_token; answers could "
                f"never end. Add it"
            )
        core = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        pad = _token(special.get("pad_token")) or eos
        return cls(core, eos=eos, pad=pad, template=template, where=str(folder))

    @classmethod
    def new_chars(cls) -> Tokenizer:
        """One token a character, and <pad> <eos> <think> </think>."""
        specials = ["<pad>", "<eos>", "<think>", "</think>"]
        vocab = {token: i for i, token in enumerate([*specials, *CHARS])}
        core = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
        core.decoder = decoders.Fuse()
        core.add_special_tokens([_added(token) for token in specials])
        return cls(core, eos="<eos>", pad="<pad>", template="", where="new:chars")

    @classmethod
    def new_bytes(cls) -> Tokenizer:
        """One token a byte, and <|endoftext|> <|im_start|> <|im_end|> <pad>, with ChatML."""
        specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>"]
        vocab = {char: byte for byte, char in enumerate(_byte_characters())}
        core = tokenizers.Tokenizer(models.BPE(vocab, []))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        core.decoder = decoders.ByteLevel()
        core.add_special_tokens([_added(token) for token in specials])
        return cls(core, eos="<|im_end|>", pad="<pad>", template=CHATML, where="new:bytes")

    def _id(self, token: str) -> int:
        number = self._core.token_to_id(token)
        if number is None:
            raise ConfigError(f"tokenizer {self._where}: {token!r} is not in its vocabulary")
        return int(number)


def _added(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)


def _token(value: Any) -> str:
    """Return a token written either as a string or as a table with its content."""
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


def _byte_characters() -> list[str]:
    """Return the printable stand-in of each byte in the byte-level scheme of GPT-2.

    Printable latin-1 bytes stand for themselves; the others get code points from 256 on.
    """
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    table = json.loads(path.read_text())
    return dict(table) if isinstance(table, dict) else {}


def _environment() -> jinja2.Environment:
    """Return the sandbox in which chat templates are customarily run."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def to_json(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    def complain(text: str) -> None:
        raise jinja2.TemplateError(text)

    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = complain
    return environment
