"""`Tokenizer`: one interface over every kind of vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol

from edgesparse.errors import TokenizerError
from edgesparse.tokenizer.chat import ChatEncoder, Message
from edgesparse.tokenizer.split import SpecialSplitter
from edgesparse.tokenizer.stream import StreamDecoder
from edgesparse.tokenizer.vocabulary import SpecialIds, Vocabulary

__all__ = ["Backend", "Kind", "Tokenizer"]

Kind = Literal["bpe", "spm", "json"]


class Backend(Protocol):
    """What differs between kinds: encoding of plain text, and the bytes of a piece."""

    space_prefix: bool

    def encode(self, text: str) -> list[int]:
        """Ids of text without control tokens."""

    def piece(self, token: int) -> bytes:
        """Bytes of an ordinary token."""


class Tokenizer:
    """Text to ids and back, and conversations to ids.

    Made by `edgesparse.tokenizer.load_tokenizer`.

    Attributes
    ----------
    n_vocab : int
        Number of tokens; the model's embedding may have more rows (padding).
    bos_id, eos_id : int or None
        Beginning and end of text.
    eog_ids : frozenset[int]
        Every id that ends an answer.
    add_bos, add_eos : bool
        Whether raw text gets them when `encode` is asked to add special tokens.
    kind : str
        ``"bpe"``, ``"spm"`` or ``"json"``.
    pre : str
        Name of the pre-tokenizer rule; empty for kinds without one.
    warnings : list[str]
        One sentence for each repair of the file's metadata.
    chat_template : str or None
        The model's own chat template.
    template_source : str
        Which template `render_chat` uses: ``"model"`` or the name of a built-in one.
    """

    def __init__(
        self,
        backend: Backend,
        vocabulary: Vocabulary,
        special: SpecialIds,
        *,
        kind: Kind,
        pre: str = "",
        add_bos: bool = False,
        add_eos: bool = False,
        chat_template: str | None = None,
        fallback: tuple[str, str] = ("", ""),
        warnings: list[str] | None = None,
    ) -> None:
        self._backend = backend
        self._vocabulary = vocabulary
        self._splitter = SpecialSplitter(vocabulary.control)
        self.kind: Kind = kind
        self.pre = pre
        self.n_vocab = len(vocabulary)
        self.bos_id = special.bos
        self.eos_id = special.eos
        self.eog_ids = special.end_of_generation
        self.add_bos = add_bos and special.bos is not None
        self.add_eos = add_eos and special.eos is not None
        self.chat_template = chat_template
        self.template_source = "model" if chat_template is not None else fallback[0]
        self.warnings = warnings if warnings is not None else []
        self._chat = ChatEncoder(
            chat_template if chat_template is not None else fallback[1],
            self._splitter,
            bos_token=self._literal(special.bos),
            eos_token=self._literal(special.eos),
        )

    def encode(
        self, text: str, *, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        """Ids of `text`.

        Parameters
        ----------
        text : str
            Any text; lone surrogates are read as U+FFFD.
        add_special : bool
            Put BOS before and EOS after where the model wants them (`add_bos`, `add_eos`).
        parse_special : bool
            Read literals of control tokens as those tokens. Never use it on a user's text.
        """
        ids: list[int] = []
        if add_special and self.add_bos and self.bos_id is not None:
            ids.append(self.bos_id)
        if parse_special:
            for part in self._splitter.split(text):
                if isinstance(part, int):
                    ids.append(part)
                else:
                    ids += self._backend.encode(_well_formed(part))
        elif text:
            ids += self._backend.encode(_well_formed(text))
        if add_special and self.add_eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def decode(
        self, ids: Iterable[int], *, skip_special: bool = True, continuation: bool = False
    ) -> str:
        """Text of `ids`; invalid bytes become U+FFFD.

        Parameters
        ----------
        ids : iterable of int
            Token ids; `TokenizerError` when one is outside the vocabulary.
        skip_special : bool
            Leave control tokens out instead of spelling them.
        continuation : bool
            The text follows other text: keep its leading space (SentencePiece vocabularies).
        """
        stream = self.stream(skip_special=skip_special, continuation=continuation)
        return "".join([stream.push(token) for token in ids]) + stream.flush()

    def piece(self, token: int) -> bytes:
        """Bytes of one token; the literal's UTF-8 for a control token."""
        if not 0 <= token < self.n_vocab:
            raise TokenizerError(
                f"token id {token} is outside the vocabulary of {self.n_vocab} tokens."
            )
        if token in self._vocabulary.control_ids:
            return self._vocabulary.tokens[token].encode("utf-8", "replace")
        return self._backend.piece(token)

    def is_control(self, token: int) -> bool:
        """Whether `token` carries no text."""
        return token in self._vocabulary.control_ids

    def stream(self, *, skip_special: bool = True, continuation: bool = False) -> StreamDecoder:
        """Start a decoder that takes ids one by one; the arguments are those of `decode`."""
        piece = self._visible_piece if skip_special else self.piece
        strip = self._backend.space_prefix and not continuation
        return StreamDecoder(piece, strip_space=strip)

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        **variables: object,
    ) -> str:
        """Render the conversation for people to read; to run it use `encode_chat`.

        Raises
        ------
        TemplateError
            If the template does not compile, fails, or exceeds its limits.
        """
        return self._chat.render(
            messages, add_generation_prompt=add_generation_prompt, variables=variables
        )

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        **variables: object,
    ) -> list[int]:
        """Ids of the conversation, with exactly one BOS if the model wants one.

        Control tokens come from the template alone: their literals inside `messages` stay text.

        Raises
        ------
        TemplateError
            If the template does not compile, fails, or exceeds its limits.
        """
        ids: list[int] = []
        for part in self._chat.parts(
            messages, add_generation_prompt=add_generation_prompt, variables=variables
        ):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._backend.encode(_well_formed(part))
        bos = self.bos_id
        if bos is not None:
            while ids[:2] == [bos, bos]:
                del ids[0]
            if self.add_bos and ids[:1] != [bos]:
                ids.insert(0, bos)
        return ids

    def _visible_piece(self, token: int) -> bytes:
        return b"" if token in self._vocabulary.control_ids else self.piece(token)

    def _literal(self, token: int | None) -> str:
        return "" if token is None else self._vocabulary.tokens[token]

    @property
    def control_literals(self) -> Mapping[str, int]:
        """Id of each control token's literal."""
        return self._splitter.literals


def _well_formed(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
